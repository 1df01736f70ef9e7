"""A model under an extended tokenizer: which extension lies between them, and the rows of the new tokens."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from perdure.pipeline.core.errors import PerdureError
from perdure.pipeline.core.files import read_json
from perdure.pipeline.core.hashes import hash_file
from perdure.pipeline.model.parameters import EMBEDDING, HEAD

if TYPE_CHECKING:
    from torch import Tensor

EMBEDDINGS = (EMBEDDING, HEAD)
"""Tensors with a row for each token."""


@dataclass(frozen=True)
class Extension:
    """What a tokenizer adds to another.

    Attributes:
        first: Id of the first new token; the others follow.
        pieces: For each new token the old tokenizer's ids of its text.
    """

    first: int
    pieces: list[list[int]]


def extension_between(model: Path, tokenizer: Path) -> Extension | None:
    """The extension of the model's tokenizer that a run's tokenizer is; None if both are the same.

    Args:
        model: A Hugging Face directory; without a `tokenizer.json` it is taken to have the run's tokenizer.
        tokenizer: The run's tokenizer directory.

    Raises:
        PerdureError: If the run's tokenizer is neither the model's nor an extension of it.
    """
    ours, theirs = hash_file(tokenizer / "tokenizer.json"), model / "tokenizer.json"
    if not theirs.is_file() or (found := hash_file(theirs)) == ours:
        return None
    known = f"the run's ({ours[:8]})"
    if (path := tokenizer / "extension.json").is_file():
        facts = read_json(path)
        if facts["base_tokenizer_hash"] == found:
            return Extension(facts["base_vocab_size"], facts["pieces"])
        known += f" nor the one that this extends ({facts['base_tokenizer_hash'][:8]})"
    raise PerdureError(
        f"{model}: its tokenizer ({found[:8]}) is not {known}; give the recipe the model's own tokenizer, or one of "
        "type `extend` with the model's as its path"
    )


def extended_reader(
    read: Callable[[str], "Tensor"], extension: Extension, vocab_size: int
) -> Callable[[str], "Tensor"]:
    """A reader of the extended model: in the input embedding and the output projection, a new token's row is the mean
    of its old pieces' rows (Swallow, arXiv 2404.17790, section 3; Yao et al. 2021, arXiv 2106.13474).

    Args:
        read: Reads the old model's tensors.
        extension: The new tokens.
        vocab_size: Rows of the result.
    """
    import torch

    def read_extended(name: str) -> "Tensor":
        old = read(name)
        if name not in EMBEDDINGS:
            return old
        rows = torch.zeros(vocab_size, old.shape[1])
        rows[: len(old)] = old
        for number, pieces in enumerate(extension.pieces, extension.first):
            rows[number] = rows[pieces].mean(0)
        return rows

    return read_extended
