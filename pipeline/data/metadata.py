"""What becomes of documents as shards are written, and what their metadata decides: their dates."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datatrove.data import Document
from pyarrow import parquet

from perdure.pipeline.core.errors import PerdureError
from perdure.pipeline.data.fim import Infill
from perdure.pipeline.recipe.periods import no_date, period


@dataclass(frozen=True)
class DocumentForm:
    """How a source's documents become rows and tokens.

    Attributes:
        chats: Whether they are conversations.
        date_field: The metadata field with their dates; None: they have none.
        infill: Which of their texts are to be filled in the middle; None: none.
    """

    chats: bool = False
    date_field: str | None = None
    infill: Infill | None = None


def date_of(document: Document, field: str) -> str | None:
    """A document's date, as precise as it is written; None if it has none.

    Raises:
        PerdureError: If what stands there is no date.
    """
    if (value := document.metadata.get(field)) in (None, ""):
        return None
    if (found := period(value)) is None:
        raise PerdureError(f"document {document.id}: {no_date(field, value)}")
    return str(found)


def dates_summary(table: Path) -> dict[str, Any]:
    """What a manifest's `counts` say of dates: `first`, `last`, and by split how many documents are `undated`."""
    undated, dates = {"train": 0, "heldout": 0}, set[str]()
    for batch in parquet.ParquetFile(table).iter_batches(columns=["split", "date"]):
        for split, date in zip(batch["split"].to_pylist(), batch["date"].to_pylist()):
            undated[split] += date is None
        dates |= set(batch["date"].unique().to_pylist()) - {None}
    periods = [found for date in dates if (found := period(date)) is not None]
    return {
        "first": str(min(found.first for found in periods)) if periods else None,
        "last": str(max(found.last for found in periods)) if periods else None,
        "undated": undated,
    }
