"""The part of a source's training documents that a place in a mixture takes: by label, by date, or of lowest perplexity.

Shards are never rewritten: a part says for every document whether it is taken, and the order of a source (`order.py`)
passes over the others. `<data>/parts/<name>@<hash8>/` has `keep.npy`, bool [documents over all shards], and a manifest.
"""

import math
import re
import shutil
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from perdure.pipeline.core.errors import PerdureError
from perdure.pipeline.core.files import move_whole, read_json
from perdure.pipeline.core.hashes import hash_of
from perdure.pipeline.core.integrity import is_whole
from perdure.pipeline.core.manifest import finish
from perdure.pipeline.core.sorting import ROWS, join, new_array, sort_keys
from perdure.pipeline.plan.domains import PLURALS, Domain, parse
from perdure.pipeline.plan.order import perplexities, shard_lengths
from perdure.pipeline.recipe import LowestPerplexity

FORMAT = 1
"""Version of what is written; a change in its meaning makes new directories."""


def build_part(
    data: Path,
    domain: str,
    lowest: LowestPerplexity | None = None,
    scores: Path | None = None,
    rows: int = ROWS,
) -> Path | None:
    """Chooses documents of a source, unless that is done.

    Args:
        data: The source's directory of shards.
        domain: Which labels they have, see `perdure.pipeline.plan.domains`.
        lowest: Takes those of lowest perplexity alone (Guo et al. 2024). The first document that reaches the budget is
            the last one; of equal perplexities the first document wins; documents without one are never taken.
        scores: Directory of the perplexities, for `lowest`.
        rows: Documents handled at a time.

    Returns:
        The part's directory; None if it is the whole source. Its manifest has `domain`, `taken` and `available` (documents,
        tokens), with `lowest` `max_perplexity`, the highest that was taken, and of a domain with dates `undated`, the source's
        documents that are in none.

    Raises:
        PerdureError: If no document has the labels, or they have fewer tokens than asked for.
    """
    named = parse(domain)
    if not named.is_part and lowest is None:
        return None
    inputs = _inputs(domain, lowest) | {"scores": scores.name if lowest and scores else None}
    name = re.sub(r"[^A-Za-z0-9_.-]+", "_", domain)[:60]
    final = data / "parts" / f"{name}@{hash_of(inputs)[:8]}"
    if is_whole(final):
        return final
    scratch = final.with_name(f".{final.name}.building")
    shutil.rmtree(scratch, ignore_errors=True)
    sorting = scratch / "sorting"
    sorting.mkdir(parents=True)
    lengths = join(sorting / "lengths.npy", shard_lengths(data), np.int32)
    keep = join(scratch / "keep.npy", _in_domain(data, named, len(lengths)), bool, len(lengths))
    counts: dict[str, Any] = {"available": _size(keep, lengths), "max_perplexity": None}
    if not counts["available"]["documents"]:
        raise PerdureError(f"{domain}: no training document has {_known(data, named)}")
    if named.has_dates:
        counts["undated"] = _undated(data)
    if lowest is not None:
        assert scores is not None
        counts |= _keep_lowest(keep, lengths, domain, lowest, scores, sorting, rows)
    keep.flush()
    counts["taken"] = _size(keep, lengths)
    shutil.rmtree(sorting)
    finish(scratch, {"domain": domain, "inputs": inputs} | counts)
    shutil.rmtree(final, ignore_errors=True)
    move_whole(scratch, final)
    return final


def finished_part(data: Path, domain: str, lowest: LowestPerplexity | None, model: str | None) -> dict | None:
    """Manifest of a part that was chosen already, the newest if a model of that name scored it several times."""
    found = []
    for path in data.glob("parts/*/_SUCCESS"):
        manifest = read_json(path.with_name("manifest.json"))
        inputs = manifest["inputs"]
        scorer = inputs["scores"] and inputs["scores"].rpartition("@")[0]
        if inputs | {"scores": None} == _inputs(domain, lowest) | {"scores": None} and scorer == model:
            found.append((path.stat().st_mtime, manifest))
    return max(found, key=lambda entry: entry[0])[1] if found else None


def describe(domain: str, manifest: dict) -> str:
    """One line for the console on what a part holds."""
    taken, available, bound = (manifest[key] for key in ("taken", "available", "max_perplexity"))
    size = f"{taken['documents']:,} documents, {taken['tokens']:,}"
    if bound is None:
        undated = (
            f"; {found:,} undated documents are in no part" if (found := manifest.get("undated")) else ""
        )
        return f"{domain}: {size} tokens{undated}"
    return f"subset of {domain}: {size} of {available['tokens']:,} tokens, perplexity <= {bound:,.4g}"


def _inputs(domain: str, lowest: LowestPerplexity | None) -> dict:
    named = parse(domain)
    found = {"format": FORMAT, "labels": named.labels, "lowest": lowest and lowest.model_dump()}
    return found | ({"dates": [named.since, named.until]} if named.has_dates else {})


def _in_domain(data: Path, domain: Domain, number: int) -> Iterator[np.ndarray]:
    """Whether each training document has the labels and dates of a domain, bool, in parts."""
    import pyarrow.parquet as parquet

    if not domain.is_part:
        yield np.ones(number, bool)
        return
    file = parquet.ParquetFile(data / "docs.parquet")
    dates = ["date"] if domain.has_dates else []
    for batch in file.iter_batches(columns=["split", *domain.labels, *dates]):
        columns = {name: np.array(batch[name].to_pylist(), object) for name in batch.schema.names}
        fits = columns["split"] == "train"
        for kind, label in domain.labels.items():
            fits &= columns[kind] == label
        for column in dates:
            fits &= dated(columns[column], domain)
        yield fits[columns["split"] == "train"]


def dated(dates: np.ndarray, domain: Domain) -> np.ndarray:
    """Whether each of some documents lies in a domain's dates, bool.

    Args:
        dates: Their dates, object [documents], None for undated ones.
        domain: The domain, which has dates.
    """
    holds = {text: domain.holds(text) for text in set(dates.tolist())}
    return np.array([holds[text] for text in dates.tolist()], bool)


def _undated(data: Path) -> int:
    return read_json(data / "manifest.json")["counts"].get("dates", {}).get("undated", {}).get("train", 0)


def _keep_lowest(
    keep: np.ndarray,
    lengths: np.ndarray,
    domain: str,
    lowest: LowestPerplexity,
    scores: Path,
    scratch: Path,
    rows: int,
) -> dict:
    """Leaves the documents of lowest perplexity in `keep`; returns what was there, and the highest that is left."""
    ranks = join(scratch / "perplexities.npy", perplexities(scores), np.float64, len(lengths))
    available = new_array(scratch / "available.npy", bool, len(lengths))
    np.logical_and(keep, np.isfinite(ranks), out=available)
    size = _size(available, lengths)
    if not size["documents"]:
        raise PerdureError(f"{domain}: none of its documents has a finite perplexity under {scores.name}")
    if lowest.tokens is not None:
        budget = lowest.tokens
        if budget > size["tokens"]:
            raise PerdureError(
                f"{domain}: lowest_perplexity.tokens = {budget:,}, but it has only {size['tokens']:,} training tokens; "
                "lower it, or leave it out and let the mixture repeat the source"
            )
    else:
        budget = math.ceil(Fraction(str(lowest.share)) * size["tokens"])
    keep[:] = False
    taken, highest = 0, math.nan
    starts = range(0, len(lengths), rows)
    keys = (np.where(available[at : at + rows], ranks[at : at + rows], np.inf) for at in starts)
    for places in sort_keys(keys, scratch, rows):
        places = places[available[places]]
        before = taken + np.cumsum(lengths[places], dtype=np.int64) - lengths[places]
        places = places[before < budget]
        if not len(places):
            break
        keep[places] = True
        taken, highest = taken + int(lengths[places].sum(dtype=np.int64)), float(ranks[places[-1]])
    return {"available": size, "max_perplexity": highest}


def _size(keep: np.ndarray, lengths: np.ndarray) -> dict[str, int]:
    return {"documents": int(keep.sum()), "tokens": int(lengths[keep].sum(dtype=np.int64))}


def _known(data: Path, domain: Domain) -> str:
    """The labels and dates that were asked for, and those that there are."""
    counts, labels = read_json(data / "manifest.json")["counts"], domain.labels
    asked = " and ".join(f"the {kind} {label!r}" for kind, label in labels.items())
    there = [f"{PLURALS[kind]} {', '.join(counts.get(PLURALS[kind], {})) or 'none'}" for kind in labels]
    if domain.has_dates:
        asked += f"{' and ' if asked else ''}a date in {domain.since}..{domain.until}"
        known = counts.get("dates", {})
        there.append(
            f"dates {known.get('first')} to {known.get('last')}, {_undated(data):,} documents without"
        )
    return f"{asked}; there are {'; '.join(there)}"
