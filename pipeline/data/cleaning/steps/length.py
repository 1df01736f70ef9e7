"""The step `length`: drops documents by their number of characters."""

from pathlib import Path

from datatrove.data import Document
from datatrove.pipeline.filters.base_filter import BaseFilter

from perdure.pipeline.data.cleaning.counted import Block
from perdure.pipeline.recipe import Length


def block(step: Length, _folder: Path) -> Block:
    """The step's block."""
    return Block("too_short", LengthFilter(step.min_chars, step.max_chars))


class LengthFilter(BaseFilter):
    """Keeps documents of `min_chars` to `max_chars` characters."""

    name = "📏 Length"

    def __init__(self, min_chars: int, max_chars: int | None):
        super().__init__()
        self.min_chars, self.max_chars = min_chars, max_chars

    def filter(self, document: Document) -> bool | tuple[bool, str]:
        """True to keep a document, else False and the reason."""
        if len(document.text) < self.min_chars:
            return False, "too_short"
        if self.max_chars is not None and len(document.text) > self.max_chars:
            return False, "too_long"
        return True
