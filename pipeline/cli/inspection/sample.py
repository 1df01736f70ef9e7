"""The document of a source that an inspection shows, token by token."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as compute
import pyarrow.parquet as parquet

from perdure.pipeline.cli.inspection.perplexities import scored
from perdure.pipeline.cli.inspection.schema import Sample
from perdure.pipeline.core.files import read_json
from perdure.pipeline.core.integrity import require_whole
from perdure.pipeline.core.manifest import is_finished
from perdure.pipeline.core.shards import REF_MISSING, REF_NATS_PER_UNIT, open_shard
from perdure.pipeline.core.token_texts import token_texts
from perdure.pipeline.core.tokenizers import load_tokenizer

SAMPLE_TOKENS = 240
"""Tokens shown of a document."""
FITTING = (60, 240)
"""Least and most tokens of a document that makes a good sample."""


def sample_document(
    out: Path, directory: Path, manifest: dict[str, Any], scores: list[Path]
) -> Sample | None:
    """A training document with its losses, always the same one: that of `sample_row`.

    Args:
        out: The run's directory.
        directory: The source's data.
        manifest: Its manifest.
        scores: Its directories of scores.

    Returns:
        None if no document trains, or its tokenizer is gone.
    """
    tokenizer = find_tokenizer(out, manifest["tokenizer_hash"])
    known = np.zeros(manifest["counts"]["train"]["documents"], bool)
    for path in scores:
        known |= scored(directory, path)
    row = sample_row(directory / "docs.parquet", known)
    if row is None or tokenizer is None:
        return None
    names = [f"{row['shard']:05d}{end}" for end in (".bin", ".idx", ".ref.bin", ".ref.idx")]
    for place in (directory, *scores):
        require_whole(place, ["docs.parquet", *names])
    shard = open_shard(directory / f"{row['shard']:05d}")
    start, count = shard.start(row["sequence"]), min(row["num_tokens"], SAMPLE_TOKENS)
    tokens = shard.values[start : start + count].tolist()
    # The model that knows this document best, and the one that knows it least: a reference and a trainee.
    found = [
        (path.name.rpartition("@")[0], losses)
        for path in scores
        if (losses := _losses(path, row["shard"], row["sequence"], count)) is not None
    ]
    found.sort(key=lambda entry: sum(loss or 0 for loss in entry[1]))
    model, losses = found[0] if found else (None, list[float | None]([None]) * count)
    trainee, most = found[-1] if len(found) > 1 else (None, losses)
    return {
        "id": row["id"],
        "topic": row["topic"],
        "language": row["language"],
        "num_tokens": row["num_tokens"],
        "model": model,
        "trainee": trainee,
        "tokens": token_texts(partial(tokenizer.decode, skip_special_tokens=False), tokens),
        "losses": losses,
        "excess": _excess(losses, most) if trainee else None,
    }


def _excess(losses: list[float | None], most: list[float | None]) -> list[float | None]:
    """By how much the second model's losses exceed the first one's, in nats; None where either gave none."""
    return [
        None if low is None or high is None else round(high - low, 3)
        for low, high in zip(losses, most, strict=True)
    ]


def sample_row(path: Path, known: np.ndarray) -> dict[str, Any] | None:
    """The row of the training document with the lowest hash, if possible among those with scores and a fitting length.

    Args:
        path: The source's table of documents.
        known: Which documents have scores, bool [training documents].

    Returns:
        None if no document trains.
    """
    file = parquet.ParquetFile(path)
    lowest: list[tuple[bool, bool, str, int]] = []
    first = 0
    for group in range(file.num_row_groups):
        rows = file.read_row_group(group, columns=["split", "num_tokens", "hash"])
        trains = compute.equal(rows["split"], "train").to_numpy()
        fits = trains & (
            (rows["num_tokens"].to_numpy() >= FITTING[0]) & (rows["num_tokens"].to_numpy() <= FITTING[1])
        )
        has = np.zeros(len(rows), bool)
        has[trains] = known[first : first + int(trains.sum())]
        first += int(trains.sum())
        for unknown, unfit, chosen in (
            (False, False, has & fits),
            (False, True, has),
            (True, False, fits),
            (True, True, trains),
        ):
            if (digest := compute.min(rows["hash"].filter(pa.array(chosen))).as_py()) is not None:
                lowest.append((unknown, unfit, digest, group))
    if not lowest:
        return None
    *_, digest, group = min(lowest)
    columns = ["shard", "sequence", "id", "num_tokens", "hash", "topic", "language"]
    rows = file.read_row_group(group, columns=columns)
    return rows.slice(compute.index(rows["hash"], digest).as_py(), 1).to_pylist()[0]


def _losses(scores: Path, task: int, number: int, count: int) -> list[float | None] | None:
    """Losses of a document's first tokens in nats, None where the model gave none; None if it has no scores."""
    shard = open_shard(scores / f"{task:05d}.ref")
    if not shard.lengths[number]:
        return None
    start = shard.start(number)
    units = shard.values[start : start + count].tolist()
    return [None if unit == REF_MISSING else round(unit * REF_NATS_PER_UNIT, 3) for unit in units]


def find_tokenizer(out: Path, wanted: str) -> Any:
    """The run's tokenizer with a given hash; None if it is missing."""
    for directory in sorted(out.glob("tokenizer@*")):
        if is_finished(directory) and read_json(directory / "manifest.json")["tokenizer_hash"] == wanted:
            return load_tokenizer(directory).tokenizer
    return None
