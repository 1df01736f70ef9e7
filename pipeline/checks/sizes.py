"""How much text and vocabulary a recipe has, before or after the data stage: exact where known, else estimated."""

from functools import lru_cache
from math import ceil
from pathlib import Path

from perdure.pipeline.core.errors import PerdureError
from perdure.pipeline.core.files import read_json
from perdure.pipeline.data.estimate import tokens_per_byte, unpacked_bytes
from perdure.pipeline.data.read.inputs import huggingface_on_disk, input_files
from perdure.pipeline.data.read.modules import python_modules
from perdure.pipeline.data.stage import finished_data
from perdure.pipeline.data.tokenizer.directory import read_tokenizer
from perdure.pipeline.model.shape import config_vocab_size
from perdure.pipeline.plan.domains import PLURALS, parse, source_of
from perdure.pipeline.plan.parts import finished_part
from perdure.pipeline.recipe import (
    ClusterTopics,
    ExtendedTokenizer,
    HuggingFaceModel,
    HuggingFaceReader,
    HuggingFaceTokenizer,
    LowestPerplexity,
    MetadataTopics,
    PythonCodeReader,
    PythonDocsReader,
    Reader,
    Recipe,
    Source,
    TrainedTokenizer,
)

BYTES_PER_TOKEN = 4
"""Of the estimate without a tokenizer: usual for English under a large vocabulary."""
SHARE_OF_FILE = {"python_docs": 0.2, "python_code": 0.7}
"""Of the estimate: how much of a Python file is docstrings, and how much is code without them."""


def finished_sources(recipe: Recipe) -> dict[str, dict]:
    """Counts (`documents`, `train`, `heldout` of the data manifest) of each source that is already tokenised."""
    try:
        found = finished_data(recipe)
    except PerdureError:
        return {}  # an input is missing, so nothing can be finished
    return {
        name: read_json(directory / "manifest.json")["counts"]
        for name, directory in found.items()
        if directory
    }


def chosen_part(recipe: Recipe, domain: str, lowest: LowestPerplexity, model: str) -> dict | None:
    """Manifest of a subset by perplexity that a plan chose already, see `perdure.pipeline.plan.parts`; None before."""
    try:
        directory = finished_data(recipe)[source_of(domain)]
    except PerdureError:
        return None  # an input is missing, so nobody can tell which data is the recipe's
    return finished_part(directory, domain, lowest, model) if directory else None


def domain_tokens(counts: dict, domain: str, split: str = "train") -> int | None:
    """Tokens of a domain by the counts of its source's data manifest; None for two of language, topic and dates together."""
    labels, named = parse(domain).labels, parse(domain)
    if len(labels) + named.has_dates > 1:
        return None
    if named.has_dates:
        dates = counts.get("dates", {}).get("by_date", {})
        return sum(splits[split]["tokens"] for date, splits in dates.items() if named.holds(date))
    for kind, label in labels.items():
        return counts.get(PLURALS[kind], {}).get(label, {}).get(split, {}).get("tokens", 0)
    return counts[split]["tokens"]


def available_tokens(counts: dict, domain: str, lowest: LowestPerplexity | None) -> int | None:
    """Training tokens that a place in a mixture can take; None where `domain_tokens` does not know."""
    tokens = domain_tokens(counts, domain)
    return tokens if tokens is None or lowest is None else lowest_tokens(tokens, lowest)


def lowest_tokens(tokens: int, lowest: LowestPerplexity) -> int:
    """About how many of some tokens a subset takes; it ends with a whole document."""
    return min(tokens, lowest.tokens or ceil((lowest.share or 1) * tokens))


def possible_topics(source: Source) -> set[str] | None:
    """Topics that documents of a source can have, as far as the recipe tells them; None if any."""
    topics = source.topics
    if isinstance(topics, ClusterTopics):
        return {f"cluster-{number:02d}" for number in range(topics.num_clusters)}
    if isinstance(topics, MetadataTopics) and topics.map is not None:
        return {*topics.map.values(), "unlabelled"}
    return None


def vocab_size(recipe: Recipe) -> int | None:
    """Tokens of the recipe's tokenizer; None if its file is missing or unreadable."""
    tokenizer = recipe.tokenizer
    if isinstance(tokenizer, TrainedTokenizer):
        return tokenizer.vocab_size
    if isinstance(tokenizer, HuggingFaceTokenizer):
        return _file_vocab_size(tokenizer.path / "tokenizer.json")
    if isinstance(tokenizer, ExtendedTokenizer):
        base = _file_vocab_size(tokenizer.path / "tokenizer.json")
        return base and base + tokenizer.num_tokens
    return _file_vocab_size(tokenizer.path)


def embedding_rows(recipe: Recipe) -> int | None:
    """Embeddings that the model has, padding aside: an existing model's own, else one a token; None if unknown."""
    tokens = vocab_size(recipe)
    if isinstance(model := recipe.model, HuggingFaceModel):
        if model.shape is not None and not (model.path / "config.json").is_file():
            rows = model.shape.vocab_size
        else:
            rows = config_vocab_size(model.path)
        return max(rows, tokens or 0) if isinstance(recipe.tokenizer, ExtendedTokenizer) else rows
    return tokens


@lru_cache
def _file_vocab_size(path: Path) -> int | None:
    if not path.is_file():
        return None
    try:
        if path.suffix == ".json":
            return max(read_tokenizer(path).get_vocab(with_added_tokens=True).values()) + 1
        from sentencepiece import SentencePieceProcessor

        return SentencePieceProcessor(model_file=str(path)).vocab_size()
    except Exception:  # both libraries raise bare exceptions on a broken file
        return None


def document_files(reader: Reader) -> list[Path]:
    """Files that a reader will read; empty for a dataset on the hub.

    Raises:
        PerdureError: If there are none.
    """
    if isinstance(reader, PythonDocsReader | PythonCodeReader):
        return [module.path for module in python_modules(reader.packages)]
    if isinstance(reader, HuggingFaceReader):
        directory = huggingface_on_disk(reader)
        return [*directory.rglob("*.arrow")] if directory else []
    folder, files = input_files(reader)
    return [Path(folder, file) for file in files]


def estimated_tokens(recipe: Recipe, source: Source) -> int | None:
    """Tokens of a source that is not tokenised yet, from the sizes of its files; None if they are not on this machine, or if
    nobody knows how much of them `where` leaves.

    Samples tell what compressed files unpack to, and how many bytes a token has, if the tokenizer is there already; else
    `BYTES_PER_TOKEN` is assumed.
    """
    reader = source.reader
    if getattr(reader, "where", None):
        return None
    try:
        files = document_files(reader)
    except PerdureError:
        files = []
    if not files:
        return None
    unpacked = unpacked_bytes(reader, files)
    share = SHARE_OF_FILE.get(reader.type, 1.0)
    tokenizer, rate = recipe.tokenizer, None
    if isinstance(tokenizer, HuggingFaceTokenizer | ExtendedTokenizer):
        rate = tokens_per_byte(reader, tokenizer.path / "tokenizer.json")
    tokens = int(unpacked * (rate or share / BYTES_PER_TOKEN))
    return min(tokens, source.subset.tokens) if source.subset else tokens
