"""Detection of data that has changed since versions were trained on it."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from perdure.pipeline.core.errors import PerdureError
from perdure.pipeline.core.files import read_json
from perdure.pipeline.core.hashes import hash_file
from perdure.pipeline.core.manifest import is_finished
from perdure.pipeline.core.records import read_inputs
from perdure.pipeline.data import identity
from perdure.pipeline.data.stage import finished_data, tokenizer_directory
from perdure.pipeline.plan.planning import data_hash
from perdure.pipeline.plan.withdrawn import withdrawals, withdrawn_hash
from perdure.pipeline.recipe import HuggingFaceTokenizer, Recipe

Changes = list[str]


def changed_data(recipe: Recipe, names: Iterable[str]) -> dict[str, str]:
    """Versions that were begun on other data than the recipe's sources give now, and what differs, in words.

    Finished data is compared by its hash, as before training; of data that would have to be made anew, what it is made from.
    """
    versions = {name: recipe.paths.version(name) for name in names}
    records = {name: version for name, version in versions.items() if version.inputs.exists()}
    if not records:
        return {}
    try:
        finished, clean = finished_data(recipe), identity.clean_inputs(recipe)
        tokenizer = _tokenizer_hash(recipe)
    except PerdureError:
        return {}  # an input is missing, which has a problem of its own
    found = {}
    for name, version in records.items():
        record = read_inputs(version)
        theirs, differing = record["identity"], []
        if tokenizer not in (None, theirs["tokenizer_hash"]):
            differing.append(f"tokenizer: {theirs['tokenizer_hash'][:16]} -> {tokenizer[:16]}")
        for source, known in theirs["data"].items():
            if directory := finished.get(source):
                if (now := data_hash(directory)) != known:
                    differing.append(f"data.{source}: {known} -> {now}")
            elif source in clean:
                made = recipe.paths.data / Path(record["data"][source]).name / "manifest.json"
                differing += _made_otherwise(made, clean[source], f"data.{source}.") if made.exists() else []
        differing += _withdrawn(recipe, name, theirs.get("withdrawn"), finished)
        if differing:
            found[name] = (
                "was trained on other data; restore it, give the version another name, or delete that directory to train it "
                f"anew. What differs: {'; '.join(differing)}"
            )
    return found


def _withdrawn(recipe: Recipe, name: str, then: str | None, finished: dict[str, Path | None]) -> Changes:
    """What was withdrawn from a version, if it is something else now, so far as data is there to tell."""
    asked = {source for _, source, _ in withdrawals(recipe, name)}
    there = {source: directory for source, directory in finished.items() if directory}
    if recipe.versions[name].is_computed or not asked <= there.keys():
        return []
    try:
        now = withdrawn_hash(recipe, name, there)
    except PerdureError:
        return []  # an id that is nobody's, which has a problem of its own
    return [] if now == then else [f"withdrawn: {then} -> {now}"]


def _tokenizer_hash(recipe: Recipe) -> str | None:
    """SHA-256 of the recipe's `tokenizer.json`; None while it is not known."""
    if is_finished(directory := tokenizer_directory(recipe)):
        return read_json(directory / "manifest.json")["tokenizer_hash"]
    tokenizer = recipe.tokenizer
    return (
        hash_file(tokenizer.path / "tokenizer.json") if isinstance(tokenizer, HuggingFaceTokenizer) else None
    )


def _made_otherwise(manifest: Path, now: dict, place: str) -> Changes:
    """What a source's data was made from, by its manifest, and would not be made from any more."""
    then = read_json(manifest)["inputs"]
    edited = [part["fingerprint"].get("edited") for part in (then, now)]
    found = [f"{place}fingerprint.edited: {edited[0]} -> {edited[1]}"] if edited[0] != edited[1] else []
    return found + _changes(then, now, place)


def _changes(then: Any, now: Any, place: str) -> Changes:
    """Differences in the fields that two descriptions share; releases record more or fewer fields."""
    if isinstance(then, dict) and isinstance(now, dict):
        shared = [key for key in then if key in now and key != "covers"]
        return [line for key in shared for line in _changes(then[key], now[key], f"{place}{key}.")]
    if isinstance(then, list) and isinstance(now, list) and len(then) == len(now):
        return [line for n, pair in enumerate(zip(then, now)) for line in _changes(*pair, f"{place}{n}.")]
    return [] if then == now else [f"{place.removesuffix('.')}: {then!r} -> {now!r}"]
