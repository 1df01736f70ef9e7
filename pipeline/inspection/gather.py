"""Everything that artefacts of the data stage say about themselves, as one JSON-serialisable mapping."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as parquet

from perdure.pipeline.errors import PerdureError
from perdure.pipeline.manifest import is_finished, read_json
from perdure.pipeline.recipe import Recipe
from perdure.pipeline.shards import REF_MISSING, REF_NATS_PER_UNIT, open_shard

BINS = 24
"""Bars of a histogram of perplexities, of equal width in their logarithm."""
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
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

    return inspect(recipe.name, recipe.directory, finished_data(recipe))


def of_directory(directory: Path) -> dict:
    """Inspects a run's directory (of each source the newest data), or the data directory of one source.

    Raises:
        PerdureError: If there is no finished data.
    """
    if is_finished(directory) and (directory / "docs.parquet").is_file():
        out = directory.absolute().parent.parent
        return inspect(out.name, out, {read_json(directory / "manifest.json")["source"]: directory})
    found = [path.parent for path in directory.glob("data/*@*/_SUCCESS")]
    newest = {
        path.name.rpartition("@")[0]: path
        for path in sorted(found, key=lambda path: (path / "_SUCCESS").stat().st_mtime)
    }
    if not newest:
        raise PerdureError(
            f"{directory}: no finished data in it; name a recipe, a run's directory, or one below its `data/`"
        )
    return inspect(directory.absolute().name, directory, dict(sorted(newest.items())))


def inspect(name: str, out: Path, data: dict[str, Path | None]) -> dict:
    """Reads artefacts.

    Args:
        name: What to call the run.
        out: Its directory.
        data: Data directory of each source, None where there is none yet.

    Returns:
        `name`, `out`, and `sources`, each with `name`, `directory` (None if not finished), `counts` (of the manifest),
        `examples` (dropped documents by step), `topics` (`accuracy` or `top_words`, if there are topics), `subset`,
        `scores` (per model: quantiles and a histogram of document perplexities), and `sample` (a document's tokens, and
        their losses by the first model, in nats).
    """
    sources = [
        {"name": source, "directory": None} if path is None else {"name": source} | _source(out, path)
        for source, path in data.items()
    ]
    return {"name": name, "out": str(out), "sources": sources}


def _source(out: Path, directory: Path) -> dict:
    manifest = read_json(directory / "manifest.json")
    scores = sorted(path.parent for path in directory.glob("scores/*/_SUCCESS"))
    return {
        "directory": str(directory),
        "counts": manifest["counts"],
        "examples": _examples(out / "clean" / manifest["clean"] / "dropped"),
        "topics": _facts(
            out / "topics", manifest["topics"], ("accuracy", "majority", "measured_on", "top_words")
        ),
        "subset": _facts(out / "subset", manifest["subset"], ("taken", "available")),
        "scores": [_perplexities(path) for path in scores],
        "sample": _sample(out, directory, manifest, scores[0] if scores else None),
    }


def _facts(parent: Path, name: str | None, keys: tuple[str, ...]) -> dict | None:
    """Some entries of an artefact's manifest; None if there is no such artefact (any more)."""
    if name is None or not is_finished(parent / name):
        return None
    manifest = read_json(parent / name / "manifest.json")
    return {key: manifest[key] for key in keys if key in manifest}


def _examples(directory: Path) -> dict[str, list[dict]]:
    return {
        path.stem: [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        for path in sorted(directory.glob("*.jsonl"))
    }


def _perplexities(scores: Path) -> dict:
    """Distribution of the documents' perplexities under a model."""
    column = parquet.read_table(scores / "docs.parquet", columns=["perplexity"])["perplexity"].to_numpy()
    values = np.log(column[np.isfinite(column)])
    if not len(values):
        return {"model": scores.name.rpartition("@")[0], "documents": 0}
    low, high = np.quantile(values, [0.005, 0.995])
    edges = np.linspace(low, max(high, low + 1e-6), BINS + 1)
    bars = np.histogram(np.clip(values, low, edges[-1]), edges)[0]
    return {
        "model": scores.name.rpartition("@")[0],
        "documents": len(values),
        "quantiles": {f"{q:.0%}": round(float(np.exp(np.quantile(values, q))), 3) for q in QUANTILES},
        "edges": [round(float(edge), 3) for edge in np.exp(edges)],
        "histogram": bars.tolist(),
    }


def _sample(out: Path, directory: Path, manifest: dict, scores: Path | None) -> dict | None:
    """The training document of fitting length with the lowest hash, always the same one."""
    columns = ["split", "shard", "sequence", "id", "num_tokens", "hash", "topic", "language"]
    rows = parquet.read_table(directory / "docs.parquet", columns=columns, filters=[("split", "=", "train")])
    lengths = rows["num_tokens"].to_numpy()
    fitting = np.flatnonzero((lengths >= FITTING[0]) & (lengths <= FITTING[1]))
    places = fitting if len(fitting) else np.arange(len(lengths))
    tokenizer = _tokenizer(out, manifest["tokenizer_hash"])
    if not len(places) or tokenizer is None:
        return None
    hashes = rows["hash"].to_pylist()
    row = rows.slice(min(places.tolist(), key=lambda place: hashes[place]), 1).to_pylist()[0]
    shard = open_shard(directory / f"{row['shard']:05d}")
    start, count = shard.start(row["sequence"]), min(row["num_tokens"], SAMPLE_TOKENS)
    tokens = shard.values[start : start + count].tolist()
    losses: list[float | None] = [None] * count
    if scores is not None:
        units = open_shard(scores / f"{row['shard']:05d}.ref").values[start : start + count].tolist()
        losses = [None if unit == REF_MISSING else round(unit * REF_NATS_PER_UNIT, 3) for unit in units]
    return {
        "id": row["id"],
        "topic": row["topic"],
        "language": row["language"],
        "num_tokens": row["num_tokens"],
        "model": scores.name.rpartition("@")[0] if scores else None,
        "tokens": [tokenizer.decode([token], skip_special_tokens=False) for token in tokens],
        "losses": losses,
    }


def _tokenizer(out: Path, wanted: str):
    from tokenizers import Tokenizer

    for directory in sorted(out.glob("tokenizer@*")):
        if is_finished(directory) and read_json(directory / "manifest.json")["tokenizer_hash"] == wanted:
            return Tokenizer.from_file(str(directory / "tokenizer.json"))
    return None
