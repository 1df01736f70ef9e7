"""Documents that a version and all that start from it never read, by id, and every document with the same text.

A withdrawn document keeps its entry in the order of its source, with document -1: so all others stay in the samples in which
they stood, whoever reads them (`train/streams.py` closes the gap, and pads the sample's end).
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import parquet

from perdure.pipeline.core.errors import PerdureError
from perdure.pipeline.core.hashes import hash_of
from perdure.pipeline.core.hints import near
from perdure.pipeline.plan.domains import source_of
from perdure.pipeline.plan.packing import PADDING
from perdure.pipeline.recipe import DocumentIds, Forget, Recipe, Version
from perdure.pipeline.recipe.remembered import parents_of

CHUNK = 1 << 22
"""Entries of an order that are looked at together."""
SHOWN = 5
"""Ids that a message names."""


@dataclass(frozen=True)
class Documents:
    """Training documents of a source.

    Attributes:
        numbers: int64, ascending, counted over all shards.
        tokens: int64, the tokens of each, its separator included.
    """

    numbers: np.ndarray
    tokens: np.ndarray

    def where(self, chosen: np.ndarray) -> "Documents":
        """Those that a mask, bool, keeps."""
        return Documents(self.numbers[chosen], self.tokens[chosen])


def withdrawals(recipe: Recipe, name: str) -> list[tuple[str, str, DocumentIds | None]]:
    """What is withdrawn from a version: by it, and by all that it comes from.

    Returns:
        The path of the field that says so, the source, and which of its documents: ids, or None for all; each once.
    """
    found, waiting = list[tuple[str, str, DocumentIds | None]](), [name]
    for each in waiting:
        if each not in recipe.versions:
            continue  # named by its own check
        version = recipe.versions[each]
        where = f"versions.{each}.mixture.withdrawn"
        found += [
            (f"{where}.{source}", source, listed) for source, listed in version.mixture.withdrawn.items()
        ]
        if isinstance(version.objective, Forget):
            found.append((f"versions.{each}.objective.source", source_of(version.objective.source), None))
        waiting += [parent for parent in parents_of(version) if parent not in waiting]
    return found


def forgotten_sources(recipe: Recipe, name: str) -> set[str]:
    """Sources all of whose documents are withdrawn from a version, since it or what it comes from forgets them."""
    return {source for _, source, listed in withdrawals(recipe, name) if listed is None}


def is_forgotten(version: Version, key: str) -> bool:
    """Whether a place in the mixture holds the documents that a version forgets."""
    return isinstance(version.objective, Forget) and key == version.objective.source


def read_ids(listed: DocumentIds) -> list[str]:
    """Ids of documents, each once, in their order.

    Raises:
        PerdureError: If they stand in a file that cannot be read.
    """
    if isinstance(listed, Path):
        try:
            lines = listed.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
            raise PerdureError(f"{listed}: cannot be read: {reason}") from None
        listed = tuple(line.strip() for line in lines if line.strip())
    return list(dict.fromkeys(listed))


def unknown_ids(data: Path, ids: list[str]) -> list[str]:
    """Those ids that no document of a source has, whether it trains or is held out."""
    known: set[str] = set()
    for batch in matching(data, "id", ids, ["id"]):
        known.update(batch["id"].to_pylist())
    return [each for each in ids if each not in known]


def unknown_words(source: str, unknown: list[str]) -> str:
    """What to say of ids that no document of a source has."""
    names = ", ".join(unknown[:SHOWN]) + (
        f" and {len(unknown) - SHOWN:,} more" if len(unknown) > SHOWN else ""
    )
    return f"no document of `{source}` has the id {names}; documents that cleaning dropped have none"


def withdrawn_texts(recipe: Recipe, name: str, data: dict[str, Path]) -> list[str]:
    """Hashes of the texts that are withdrawn from a version, ascending; empty if nothing is.

    Raises:
        PerdureError: If a source is not there, or an id is nobody's.
    """
    found: set[str] = set()
    for where, source, listed in withdrawals(recipe, name):
        if source not in data:
            raise PerdureError(f"{where}: no such source{near(source, data)}")
        if listed is None:
            found.update(*(batch["hash"].to_pylist() for batch in training_documents(data[source], ["hash"])))
            continue
        if unknown := unknown_ids(data[source], ids := read_ids(listed)):
            raise PerdureError(f"{where}: {unknown_words(source, unknown)}")
        for batch in matching(data[source], "id", ids, ["hash"]):
            found.update(batch["hash"].to_pylist())
    return sorted(found)


def withdrawn_hash(recipe: Recipe, name: str, data: dict[str, Path]) -> str | None:
    """What identifies the texts that are withdrawn from a version; None if nothing is; raises as `withdrawn_texts`."""
    texts = withdrawn_texts(recipe, name, data)
    return hash_of(texts)[:16] if texts else None


def matching(data: Path, column: str, values: list[str], columns: list[str]) -> Iterator[pa.RecordBatch]:
    """Columns of the documents that have one of some values in a column, without holding the table."""
    if not values:
        return
    wanted = pa.array(values, pa.string())
    for batch in parquet.ParquetFile(data / "docs.parquet").iter_batches(
        columns=list(dict.fromkeys([column, *columns]))
    ):
        found = batch.filter(pc.is_in(batch[column], value_set=wanted))
        if len(found):
            yield found


def training_documents(data: Path, columns: list[str]) -> Iterator[pa.RecordBatch]:
    """Columns of all training documents of a source, in the order of their numbers, in parts."""
    for batch in parquet.ParquetFile(data / "docs.parquet").iter_batches(columns=["split", *columns]):
        yield batch.filter(pc.equal(batch["split"], "train"))


def documents_with(data: Path, column: str, values: list[str]) -> Documents:
    """The training documents of a source that have one of some values in a column of `docs.parquet`."""
    numbers, tokens, before = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)], 0
    wanted = pa.array(values, pa.string())
    for batch in training_documents(data, ["num_tokens", column]) if values else ():
        chosen = pc.is_in(batch[column], value_set=wanted).to_numpy(zero_copy_only=False)
        numbers.append(before + np.flatnonzero(chosen))
        tokens.append(batch["num_tokens"].to_numpy()[chosen].astype(np.int64))
        before += len(batch)
    return Documents(np.concatenate(numbers), np.concatenate(tokens))


def withdrawn_by_source(
    recipe: Recipe, name: str, data: dict[str, Path], sources: Iterable[str]
) -> dict[str, Documents]:
    """The training documents of some sources that a version does not read; none of a source: no entry.

    Raises:
        PerdureError: If what is withdrawn is not there.
    """
    texts = withdrawn_texts(recipe, name, data)
    found = {source: documents_with(data[source], "hash", texts) for source in sources} if texts else {}
    return {source: documents for source, documents in found.items() if len(documents.numbers)}


def left_out(documents: Documents | None, part: Path | None, longest: int | None) -> dict[str, int] | None:
    """How many withdrawn documents a place in a mixture has, and their tokens; None if it has none.

    Args:
        documents: Those of its source.
        part: Directory of the part that it takes (`parts.py`); None: all of it.
        longest: Tokens of a document from which on packing drops it anyway; None: none is dropped.
    """
    if documents is not None and part is not None:
        documents = documents.where(np.load(part / "keep.npy", mmap_mode="r")[documents.numbers])
    if documents is not None and longest is not None:
        documents = documents.where(documents.tokens <= longest)
    if documents is None or not len(documents.numbers):
        return None
    return {"documents": len(documents.numbers), "tokens": int(documents.tokens.sum())}


def blank(documents: Path, numbers: np.ndarray) -> None:
    """Puts -1 in the place of some documents in the order of a source.

    Args:
        documents: As `order.write_order` or `packing.pack_order` wrote it.
        numbers: int64, ascending.
    """
    entries = np.load(documents, mmap_mode="r+")
    for first in range(0, len(entries), CHUNK):
        part = entries[first : first + CHUNK]
        part[is_one_of(part, numbers)] = PADDING
    entries.flush()


def is_one_of(values: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """Whether each value is one of some numbers, which ascend; bool."""
    if not len(numbers):
        return np.zeros(len(values), bool)
    places = np.minimum(np.searchsorted(numbers, values), len(numbers) - 1)
    return numbers[places] == values


def without_words(told: dict | None) -> str:
    """What is said of documents that are left out of a place in a mixture; empty if none is."""
    if not told:
        return ""
    documents, tokens = told["documents"], told["tokens"]
    words = "document" if documents == 1 else "documents", "token" if tokens == 1 else "tokens"
    return f", without {documents:,} withdrawn {words[0]} of {tokens:,} {words[1]}"
