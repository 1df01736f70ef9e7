"""Identity of the text that a run measures on, and where a version's evaluations on it are.

A version's own evaluation, made as it was trained, stands beside it (`eval.json` and its tables). Whatever is measured of it
later on other held-out text or probes stands in `eval@<hash8>/` below it, so that runs that share a version, but not the
text, do not overwrite each other's numbers, and none of them reads another's.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from perdure.pipeline.core.files import read_json, write_json
from perdure.pipeline.core.hashes import hash_file, hash_of
from perdure.pipeline.core.manifest import is_finished
from perdure.pipeline.core.paths import VersionPaths
from perdure.pipeline.core.records import MeasuredOn
from perdure.pipeline.evaluate.documents import is_sampled
from perdure.pipeline.evaluate.infill import infilled_sources
from perdure.pipeline.evaluate.sampling import RULE
from perdure.pipeline.plan.domains import measured_domains, source_of
from perdure.pipeline.plan.planning import data_hash
from perdure.pipeline.recipe import Recipe


def measured_on(recipe: Recipe, data: Mapping[str, Path | None]) -> MeasuredOn:
    """Identity of all held-out text and probes of a recipe.

    Args:
        recipe: The recipe.
        data: Per source its finished data directory, or None.

    Returns:
        `max_tokens`; `data`: a hash by domain, None where there is no data yet; `sampled`, if any domain has more than
        `max_tokens`: by such a domain the rule of its sample; `probes`, if there are any: a hash by file, None for one that is
        gone; `fim`, if middles are to be filled in: by source a hash of how.
    """
    domains, asked = measured_domains(recipe), recipe.evaluation.max_tokens
    hashes = {source: None if path is None else data_hash(path) for source, path in data.items()}
    found: MeasuredOn = {
        "max_tokens": asked,
        "data": {domain: hashes.get(source_of(domain)) for domain in domains},
    }
    if sampled := sampled_domains(data, domains, asked):  # all of a text is measured alike under every rule
        found["sampled"] = dict.fromkeys(sampled, RULE)
    if infilled := infilled_sources(recipe):
        found["fim"] = infilled
    if recipe.evaluation.probes:
        files = recipe.evaluation.probes
        found["probes"] = {path.name: hash_file(path) if path.is_file() else None for path in files}
    return found


def sampled_domains(data: Mapping[str, Path | None], domains: Iterable[str], max_tokens: int) -> list[str]:
    """The domains with data and more than `max_tokens` held-out tokens, of which a sample is measured."""
    places = {domain: data.get(source_of(domain)) for domain in domains}
    return [domain for domain, place in places.items() if place and is_sampled(place, domain, max_tokens)]


def evaluation_directory(version: Path, on: MeasuredOn) -> Path:
    """Directory of a version's evaluation on this text: its own, or one below it.

    Args:
        version: The version's directory.
        on: From `measured_on`.
    """
    later, own = later_directory(version, on), VersionPaths(version).evaluation
    as_trained = own.exists() and read_json(own)["measured"] == on
    return version if as_trained and not is_finished(later) else later


def later_directory(version: Path, on: MeasuredOn) -> Path:
    """Directory of a finished version's later evaluation on this text."""
    return version / f"eval@{hash_of(on)[:8]}"


def evaluation(version: Path, on: MeasuredOn) -> dict[str, Any] | None:
    """A version's evaluation on this text; None if it was not measured."""
    path = VersionPaths(evaluation_directory(version, on)).evaluation
    return read_json(path) if path.exists() else None


def initial_evaluation(places: Iterable[Path], on: MeasuredOn) -> Path | None:
    """Path of the first `eval_initial.json` on this text; all versions with a random start share their initial model."""
    # Once, it did not say what it was measured on; of text that was sampled, it was another sample.
    unsaid = None if "sampled" in on else on
    found = (VersionPaths(place).initial_evaluation for place in places)
    return next(
        (path for path in found if path.exists() and read_json(path).get("measured", unsaid) == on), None
    )


def unmeasured(recipe: Recipe, on: MeasuredOn) -> list[str]:
    """The finished versions that were not measured on this text."""
    directories = {name: recipe.paths.version(name).directory for name in recipe.versions}
    return [name for name, path in directories.items() if is_finished(path) and evaluation(path, on) is None]


# ------------------------------------------------------------------------------------- a run's data


def data_sections(recipe: Recipe) -> dict:
    """What a run's data depends on; runs that agree in it share their data."""
    tree = recipe.model_dump(mode="json", include={"sources", "tokenizer"})
    drawn = any(source.subset or source.infilled or source.repository for source in recipe.sources.values())
    return tree | {"tasks": recipe.data.tasks, "seed": recipe.seed if drawn else None}


def text_sections(recipe: Recipe) -> dict:
    """What a run's held-out text and probes depend on, known before there is data."""
    asked = recipe.evaluation.model_dump(mode="json", include={"max_tokens", "probes"})
    return data_sections(recipe) | asked | {"domains": sorted(measured_domains(recipe))}


def record_data(recipe: Recipe, data: dict[str, Path]) -> None:
    """Records the recipe's data directories in `<out>/data.json`, for reports after the raw text is gone."""
    names = {source: path.name for source, path in data.items()}
    write_json(recipe.paths.data_record, {"of": hash_of(data_sections(recipe)), "data": names})


def run_data_directories(recipe: Recipe) -> dict[str, Path | None]:
    """By source its finished data directory or None: as recorded for this recipe, else found by its hash.

    Raises:
        PerdureError: If there is no record, and an input is missing.
    """
    from perdure.pipeline.data.stage import finished_data

    path = recipe.paths.data_record
    record = read_json(path) if path.exists() else None
    if record is None or record["of"] != hash_of(data_sections(recipe)):
        return finished_data(recipe)
    found = {source: recipe.paths.data / name for source, name in record["data"].items()}
    return {source: path if is_finished(path) else None for source, path in found.items()}
