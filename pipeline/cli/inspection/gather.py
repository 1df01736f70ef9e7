"""Everything that artefacts of the data stage say about themselves, as one JSON-serialisable mapping."""

from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as compute
import pyarrow.parquet as parquet

from perdure.pipeline.checks.preview import mixtures
from perdure.pipeline.cli.inspection.perplexities import distribution, newest, scored
from perdure.pipeline.core.errors import PerdureError
from perdure.pipeline.core.files import read_json
from perdure.pipeline.core.integrity import json_lines, require_whole
from perdure.pipeline.core.manifest import is_finished
from perdure.pipeline.core.paths import RunPaths
from perdure.pipeline.core.shards import REF_MISSING, REF_NATS_PER_UNIT, open_shard
from perdure.pipeline.core.token_texts import token_texts
from perdure.pipeline.data.cleaning.drops import heavy_drops
from perdure.pipeline.plan.parts import describe
from perdure.pipeline.plan.recorded import as_recorded, version_recipe
from perdure.pipeline.recipe import Recipe

SAMPLE_TOKENS = 240
"""Tokens shown of a document."""
FITTING = (60, 240)
"""Tokens of a document that makes a good sample."""


def of_recipe(recipe: Recipe) -> dict:
    """Inspects the sources of a recipe; those that are not finished have no `directory`.

    Raises:
        PerdureError: If an input is missing, so that nobody can tell what is finished.
    """
    from perdure.pipeline.data.stage import finished_data

    return inspect(recipe.name, recipe.directory, finished_data(recipe)) | {"mixtures": mixtures(recipe)}


def of_directory(directory: Path) -> dict:
    """Inspects a run's directory (of each source the newest data), or the data directory of one source.

    Raises:
        PerdureError: If there is no finished data.
    """
    if is_finished(directory) and (directory / "docs.parquet").is_file():
        out = directory.absolute().parent.parent
        source = read_json(directory / "manifest.json")["source"]
        return inspect(out.name, out, {source: directory}) | {"mixtures": []}
    found = [path.parent for path in directory.glob("data/*@*/_SUCCESS")]
    newest = {
        path.name.rpartition("@")[0]: path
        for path in sorted(found, key=lambda path: (path / "_SUCCESS").stat().st_mtime)
    }
    if not newest:
        raise PerdureError(
            f"{directory}: no finished data in it; name a recipe, a run's directory, or one below its `data/`"
        )
    found = inspect(directory.absolute().name, directory, dict(sorted(newest.items())))
    counts = {source["name"]: source["counts"] for source in found["sources"]}
    return found | {"mixtures": _mixtures_of(directory, counts)}


def _mixtures_of(directory: Path, counts: dict[str, dict]) -> list[dict]:
    """Mixtures as versions were made with, and of those that wait as the newest of them was prepared; raw text may be gone."""
    recipes = sorted(directory.glob("versions/*/recipe.yaml"), key=lambda path: path.stat().st_mtime)
    if not recipes:
        return []
    newest = version_recipe(recipes[-1].parent).model_copy(update={"out": directory})
    return mixtures(as_recorded(newest), counts)


def inspect(name: str, out: Path, data: dict[str, Path | None]) -> dict:
    """Reads artefacts.

    Args:
        name: What to call the run.
        out: Its directory.
        data: Data directory of each source, None where there is none yet.

    Returns:
        `name`, `out`, and `sources`, each with `name`, `directory` (None if not finished), `counts` (of the manifest),
        `examples` (dropped documents by step), `heavy_drops` (steps that dropped more than a fifth), `topics` (`accuracy` or `top_words`, if there are topics), `subset`,
        `parts` (subsets by label or perplexity that versions chose), `scores` (see `perplexities.distribution`), and
        `sample` (a document's tokens, their losses in nats under the model that knows it best, and the excess over those
        under the one that knows it least).
    """
    sources = [
        {"name": source, "directory": None} if path is None else {"name": source} | _source(out, path)
        for source, path in data.items()
    ]
    return {"name": name, "out": str(out), "sources": sources}


def _source(out: Path, directory: Path) -> dict:
    manifest = read_json(directory / "manifest.json")
    scores = newest(path.parent for path in directory.glob("scores/*/_SUCCESS"))
    for place in (directory, *scores):
        require_whole(place, ["docs.parquet"])
    return {
        "directory": str(directory),
        "counts": manifest["counts"],
        "examples": _examples(RunPaths(out).clean / manifest["clean"]),
        "heavy_drops": heavy_drops(manifest["counts"], RunPaths(out).clean / manifest["clean"] / "dropped"),
        "topics": _facts(
            RunPaths(out).topics, manifest["topics"], ("accuracy", "majority", "measured_on", "top_words")
        ),
        "subset": _facts(RunPaths(out).subset, manifest["subset"], ("taken", "available")),
        "parts": _parts(directory),
        "scores": [distribution(directory, path) for path in scores],
        "sample": _sample(out, directory, manifest, scores),
    }


def _facts(parent: Path, name: str | None, keys: tuple[str, ...]) -> dict | None:
    """Some entries of an artefact's manifest; None if there is no such artefact (any more)."""
    if name is None or not is_finished(parent / name):
        return None
    manifest = read_json(parent / name / "manifest.json")
    return {key: manifest[key] for key in keys if key in manifest}


def _examples(directory: Path) -> dict[str, list[dict]]:
    found = sorted((directory / "dropped").glob("*.jsonl"))
    if found and is_finished(directory):
        require_whole(directory, [f"dropped/{path.name}" for path in found])
    return {path.stem: json_lines(path, path.open("rb")) for path in found}


def _parts(directory: Path) -> list[str]:
    """Parts of a source that versions chose, in words; only those by perplexity say what tables of labels do not."""
    manifests = [
        read_json(path.with_name("manifest.json")) for path in sorted(directory.glob("parts/*/_SUCCESS"))
    ]
    return [
        f"{describe(manifest['domain'], manifest)} under {manifest['inputs']['scores'].rpartition('@')[0]}"
        for manifest in manifests
        if manifest["inputs"]["lowest"]
    ]


def _sample(out: Path, directory: Path, manifest: dict, scores: list[Path]) -> dict | None:
    """The training document of fitting length with the lowest hash, always the same one of those that have scores."""
    tokenizer = _tokenizer(out, manifest["tokenizer_hash"])
    known = np.zeros(manifest["counts"]["train"]["documents"], bool)
    for path in scores:
        known |= scored(directory, path)
    row = _fitting(directory / "docs.parquet", known)
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
    model, losses = found[0] if found else (None, [None] * count)
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
        "excess": [
            None if None in pair else round(pair[1] - pair[0], 3) for pair in zip(losses, most, strict=True)
        ]
        if trainee
        else None,
    }


def _fitting(path: Path, known: np.ndarray) -> dict | None:
    """The row of the training document with scores, if any has, and of fitting length, if one has, that has the lowest hash.

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


def _tokenizer(out: Path, wanted: str):
    from perdure.pipeline.core.tokenizers import load_tokenizer

    for directory in sorted(out.glob("tokenizer@*")):
        if is_finished(directory) and read_json(directory / "manifest.json")["tokenizer_hash"] == wanted:
            return load_tokenizer(directory).tokenizer
    return None
