"""What becomes of documents as shards are written, and what their metadata decides: their dates and prefixes."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datatrove.data import Document
from pyarrow import parquet

from perdure.pipeline.core.errors import PerdureError
from perdure.pipeline.data.fim import Infill
from perdure.pipeline.data.repositories import Repositories
from perdure.pipeline.recipe.periods import is_missing, no_date, period
from perdure.pipeline.recipe.prefixes import rendered


@dataclass(frozen=True)
class DocumentForm:
    """How a source's documents become rows and tokens.

    Attributes:
        chats: Whether they are conversations.
        date_field: The metadata field with their dates; None: they have none.
        infill: Which of their texts are to be filled in the middle; None: none.
        prefix: The template of what stands before their texts; None: nothing does.
        repositories: How files become documents; None: each is one.
    """

    chats: bool = False
    date_field: str | None = None
    infill: Infill | None = None
    prefix: str | None = None
    repositories: Repositories | None = None

    @property
    def has_mask(self) -> bool:
        """Whether some of their tokens are no labels."""
        return self.chats or self.prefix is not None

    def prefix_of(self, document: Document) -> str | None:
        """What stands before a document's text; None: nothing, since it lacks a field or none of its source has any."""
        return None if self.prefix is None else rendered(self.prefix, document.metadata, self.date_field)


def date_of(document: Document, field: str) -> str | None:
    """A document's date, as precise as it is written; None if it has none.

    Raises:
        PerdureError: If what stands there is no date.
    """
    if is_missing(value := document.metadata.get(field)):
        return None
    if (found := period(value)) is None:
        raise PerdureError(f"document {document.id}: {no_date(field, value)}")
    return str(found)


def dates_summary(table: Path) -> dict[str, Any]:
    """What a manifest's `counts` say of dates.

    Returns:
        `first` and `last`, the oldest and the newest date, as precise as they are; `undated`, a number of documents by split;
        `by_date`: `documents` and `tokens` by date and split.
    """
    undated, found = {"train": 0, "heldout": 0}, dict[str, dict[str, dict[str, int]]]()
    for batch in parquet.ParquetFile(table).iter_batches(columns=["split", "date", "num_tokens"]):
        for row in batch.to_pylist():
            split, date = row["split"], row["date"]
            if date is None:
                undated[split] += 1
                continue
            splits = found.setdefault(date, {name: {"documents": 0, "tokens": 0} for name in undated})
            splits[split]["documents"] += 1
            splits[split]["tokens"] += row["num_tokens"]
    periods = [days for date in found if (days := period(date)) is not None]
    return {
        "first": str(min(periods)) if periods else None,
        "last": str(max(periods, key=lambda days: (days.last, days.first))) if periods else None,
        "undated": undated,
        "by_date": dict(sorted(found.items())),
    }
