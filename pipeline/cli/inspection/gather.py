"""What artefacts of the data stage say about themselves, as one JSON-serialisable mapping."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from perdure.pipeline.checks.mixture_table import mixtures
from perdure.pipeline.cli.inspection.perplexities import distribution, newest
from perdure.pipeline.cli.inspection.sample import sample_document
from perdure.pipeline.cli.inspection.schema import Inspection, Source
from perdure.pipeline.core.errors import PerdureError
from perdure.pipeline.core.files import read_json
from perdure.pipeline.core.integrity import json_lines, require_whole
from perdure.pipeline.core.manifest import is_finished
from perdure.pipeline.core.paths import RunPaths
from perdure.pipeline.data.cleaning.drops import heavy_drops
from perdure.pipeline.data.stage import finished_data
from perdure.pipeline.plan.parts import describe
from perdure.pipeline.plan.recorded import as_recorded, version_recipe
from perdure.pipeline.recipe import Recipe


def of_recipe(recipe: Recipe) -> Inspection:
    """Inspects the sources of a recipe; those that are not finished have no `directory`.

    Raises:
        PerdureError: If an input is missing, so that nobody can tell what is finished.
    """
    return inspect(recipe.name, recipe.directory, finished_data(recipe), mixtures(recipe))


def of_directory(directory: Path) -> Inspection:
    """Inspects a run's directory (of each source the newest data), or the data directory of one source.

    Raises:
        PerdureError: If there is no finished data.
    """
    if is_finished(directory) and (directory / "docs.parquet").is_file():
        out = directory.absolute().parent.parent
        source = read_json(directory / "manifest.json")["source"]
        return inspect(out.name, out, {source: directory})
    found = [path.parent for path in directory.glob("data/*@*/_SUCCESS")]
    data = {
        path.name.rpartition("@")[0]: path
        for path in sorted(found, key=lambda path: (path / "_SUCCESS").stat().st_mtime)
    }
    if not data:
        raise PerdureError(
            f"{directory}: no finished data in it; name a recipe, a run's directory, or one below its `data/`"
        )
    counts = {source: read_json(path / "manifest.json")["counts"] for source, path in data.items()}
    mixtures_made = _mixtures_of(directory, counts)
    return inspect(directory.absolute().name, directory, dict(sorted(data.items())), mixtures_made)


def _mixtures_of(directory: Path, counts: dict[str, dict]) -> list[dict]:
    """The mixtures of versions as recorded, by the recipe of the newest one; raw text may be gone."""
    recipes = sorted(directory.glob("versions/*/recipe.yaml"), key=lambda path: path.stat().st_mtime)
    if not recipes:
        return []
    newest = version_recipe(recipes[-1].parent).model_copy(update={"out": directory})
    return mixtures(as_recorded(newest), counts)


def inspect(
    name: str,
    out: Path,
    data: Mapping[str, Path | None],
    mixtures_made: list[dict[str, Any]] | None = None,
) -> Inspection:
    """Reads artefacts.

    Args:
        name: What to call the run.
        out: Its directory.
        data: Data directory of each source, None where there is none yet.
        mixtures_made: What versions take of the sources; default: nothing.
    """
    sources: list[Source] = [
        {"name": source, "directory": None} if path is None else _source(source, out, path)
        for source, path in data.items()
    ]
    return {"name": name, "out": str(out), "sources": sources, "mixtures": mixtures_made or []}


def _source(name: str, out: Path, directory: Path) -> Source:
    manifest = read_json(directory / "manifest.json")
    scores = newest(path.parent for path in directory.glob("scores/*/_SUCCESS"))
    for place in (directory, *scores):
        require_whole(place, ["docs.parquet"])
    cleaned = RunPaths(out).clean / manifest["clean"]
    return {
        "name": name,
        "directory": str(directory),
        "counts": manifest["counts"],
        "examples": dropped_examples(cleaned),
        "heavy_drops": heavy_drops(manifest["counts"], cleaned / "dropped"),
        "topics": _facts(
            RunPaths(out).topics, manifest["topics"], ("accuracy", "majority", "measured_on", "top_words")
        ),
        "subset": _facts(RunPaths(out).subset, manifest["subset"], ("taken", "available")),
        "parts": _parts(directory),
        "scores": [distribution(directory, path) for path in scores],
        "sample": sample_document(out, directory, manifest, scores),
    }


def _facts(parent: Path, name: str | None, keys: tuple[str, ...]) -> dict | None:
    """Some entries of an artefact's manifest; None if the artefact is missing."""
    if name is None or not is_finished(parent / name):
        return None
    manifest = read_json(parent / name / "manifest.json")
    return {key: manifest[key] for key in keys if key in manifest}


def dropped_examples(directory: Path) -> dict[str, list[dict]]:
    """Documents that cleaning dropped, by step.

    Args:
        directory: The directory of a source's cleaned documents.
    """
    found = sorted((directory / "dropped").glob("*.jsonl"))
    if found and is_finished(directory):
        require_whole(directory, [f"dropped/{path.name}" for path in found])
    return {path.stem: json_lines(path, path.open("rb")) for path in found}


def _parts(directory: Path) -> list[str]:
    """Descriptions of a source's parts that were chosen by perplexity; tables of labels already show the others."""
    manifests = [
        read_json(path.with_name("manifest.json")) for path in sorted(directory.glob("parts/*/_SUCCESS"))
    ]
    return [
        f"{describe(manifest['domain'], manifest)} under {manifest['inputs']['scores'].rpartition('@')[0]}"
        for manifest in manifests
        if manifest["inputs"]["lowest"]
    ]
