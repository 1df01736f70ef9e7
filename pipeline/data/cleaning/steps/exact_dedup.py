"""The step `exact_dedup`: drops documents whose text occurred before, by datatrove's exact deduplication."""

from pathlib import Path

from datatrove.data import Document
from datatrove.pipeline.dedup.exact_dedup import (
    ExactDedupConfig,
    ExactDedupFilter,
    ExactDedupSignature,
    ExactFindDedups,
)

from perdure.pipeline.data.cleaning.counted import Block
from perdure.pipeline.data.cleaning.signatures import SIGNATURES, Folder
from perdure.pipeline.recipe import ExactDedup


def block(_step: ExactDedup, folder: Path) -> Block:
    """The step's block."""
    signatures = Folder(str(folder / "signatures"))
    return Block(
        "exact_duplicate",
        ExactDedupFilter(str(folder / "found"), EXACT),
        sign=ExactDedupSignature(signatures, EXACT),
        match=[(ExactFindDedups(signatures, str(folder / "found"), EXACT), 1)],
        signed=lambda: signatures.list_files(glob_pattern=SIGNATURES),
    )


def _content(document: Document) -> bytes:
    return document.text.encode()


EXACT = ExactDedupConfig(content_getter=_content)
"""Documents are equal if their texts are."""
