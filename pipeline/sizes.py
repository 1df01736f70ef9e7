"""How much text and vocabulary a recipe has, before or after the data stage: exact where known, else estimated."""

import importlib.util
import sysconfig
from functools import lru_cache
from pathlib import Path

from perdure.pipeline.recipe import (
    HuggingFaceReader,
    HuggingFaceTokenizer,
    JsonlReader,
    PythonCodeReader,
    PythonDocsReader,
    Reader,
    Recipe,
    Source,
    TextReader,
    TrainedTokenizer,
)

BYTES_PER_TOKEN = 4
"""Of the estimate: usual for English under a large vocabulary."""
COMPRESSION = 4
"""Of the estimate: how much longer compressed text is once unpacked."""
DOCS_SHARE, CODE_SHARE = 0.2, 0.7
"""Of the estimate: shares of a Python file's bytes that are docstrings, and code without them."""


def finished_sources(recipe: Recipe) -> dict[str, dict]:
    """Counts (`documents`, `train`, `heldout` of the data manifest) of each source that is already tokenised."""
    from perdure.pipeline.manifest import read_json

    try:
        from perdure.pipeline.data.stage import finished_data
    except ModuleNotFoundError:
        return {}
    return {
        name: read_json(directory / "manifest.json")["counts"]
        for name, directory in finished_data(recipe).items()
    }


def vocab_size(recipe: Recipe) -> int | None:
    """Tokens of the recipe's tokenizer; None if its file is missing or unreadable."""
    tokenizer = recipe.tokenizer
    if isinstance(tokenizer, TrainedTokenizer):
        return tokenizer.vocab_size
    if isinstance(tokenizer, HuggingFaceTokenizer):
        return _file_vocab_size(tokenizer.path / "tokenizer.json")
    return _file_vocab_size(tokenizer.path)


@lru_cache
def _file_vocab_size(path: Path) -> int | None:
    if not path.is_file():
        return None
    try:
        if path.suffix == ".json":
            from tokenizers import Tokenizer

            return Tokenizer.from_file(str(path)).get_vocab_size()
        from sentencepiece import SentencePieceProcessor

        return SentencePieceProcessor(model_file=str(path)).vocab_size()
    except Exception:  # both libraries raise bare exceptions on a broken file
        return None


def document_files(reader: Reader) -> list[Path]:
    """Files that a reader of local files will read, in no special order; empty for a dataset on the hub."""
    if isinstance(reader, PythonDocsReader | PythonCodeReader):
        return [file for package in reader.packages for file in _package_files(package)]
    path = Path(reader.path)
    if path.is_file():
        return [path]
    if isinstance(reader, TextReader):
        return [file for file in path.glob(reader.glob) if file.is_file()]
    if isinstance(reader, HuggingFaceReader):
        return [*path.rglob("*.arrow")] if path.is_dir() else []
    patterns = ("*.jsonl", "*.jsonl.gz", "*.jsonl.zst") if isinstance(reader, JsonlReader) else ("*.parquet",)
    return [file for pattern in patterns for file in path.rglob(pattern)]


def _package_files(package: str) -> list[Path]:
    if package == "stdlib":
        root = Path(sysconfig.get_paths()["stdlib"])
        files = [*root.glob("*.py")]
        for folder in root.iterdir():
            if (folder / "__init__.py").is_file():
                files += folder.rglob("*.py")
        return files
    spec = importlib.util.find_spec(package)
    if spec is None:
        return []
    if spec.submodule_search_locations:
        return [file for folder in spec.submodule_search_locations for file in Path(folder).rglob("*.py")]
    return [Path(spec.origin)] if spec.origin and spec.origin.endswith(".py") else []


def estimated_tokens(source: Source) -> int | None:
    """Tokens of a source that is not tokenised yet, from the sizes of its files; None for a dataset on the hub."""
    reader = source.reader
    if not (files := document_files(reader)):
        return None
    characters = sum(
        file.stat().st_size * (COMPRESSION if file.suffix in (".gz", ".zst", ".parquet") else 1)
        for file in files
    )
    if isinstance(reader, PythonDocsReader):
        characters *= DOCS_SHARE
    elif isinstance(reader, PythonCodeReader):
        characters *= CODE_SHARE
    return int(characters / BYTES_PER_TOKEN)
