"""Loading of a run's tokenizer."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from perdure.pipeline.core.files import read_json
from perdure.pipeline.core.integrity import require_whole

if TYPE_CHECKING:
    from tokenizers import Tokenizer


LOADED = "tokenizer_as_loaded.json"
"""What AutoTokenizer makes of the directory, where it is not what `tokenizer.json` says."""


@dataclass(frozen=True)
class LoadedTokenizer:
    """A tokenizer as the pipeline uses it.

    Attributes:
        tokenizer: The fast tokenizer.
        eos_id: Id of the separator that ends every document.
        vocab_size: One more than the largest id.
        hash: SHA-256 of `tokenizer.json`.
        loses_characters: Whether it has no token for some characters.
    """

    tokenizer: "Tokenizer"
    eos_id: int
    vocab_size: int
    hash: str
    loses_characters: bool


def load_tokenizer(directory: Path) -> LoadedTokenizer:
    """Loads a tokenizer that `build_tokenizer` wrote, as AutoTokenizer loads it from an export (`data/tokenizer/auto.py`).

    Raises:
        PerdureError: If its file is not the one that was written.
    """
    from tokenizers import Tokenizer

    facts = read_json(directory / "manifest.json")
    loaded = facts.get("loaded") or {"sha256": None, "loses_characters": False}
    file = LOADED if loaded["sha256"] else "tokenizer.json"
    require_whole(directory, [file])
    tokenizer = Tokenizer.from_file(str(directory / file))
    # What a model's own calls cut or pad to must not touch documents.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = not facts["parse_special_tokens"]
    return LoadedTokenizer(
        tokenizer, facts["eos_id"], facts["vocab_size"], facts["tokenizer_hash"], loaded["loses_characters"]
    )
