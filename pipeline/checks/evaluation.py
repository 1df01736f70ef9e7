"""Checks of what versions are measured on besides held-out documents, and of where training is told."""

import importlib.util
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import cast

from perdure.pipeline.checks.lenient import BROKEN
from perdure.pipeline.core.errors import PerdureError, Problem
from perdure.pipeline.core.hints import missing, near
from perdure.pipeline.evaluate.harness import task_names
from perdure.pipeline.evaluate.probes import Mistake, parse_probes
from perdure.pipeline.plan.domains import source_of
from perdure.pipeline.plan.forecast import expected_mixture
from perdure.pipeline.plan.lineage import lineage
from perdure.pipeline.plan.mixture import members
from perdure.pipeline.recipe import Forget, Recipe

Problems = Iterator[Problem]

MOST = 20
"""Kinds of mistakes of one file that are named."""


def probes(recipe: Recipe) -> Problems:
    """Checks that files of probes exist, have names of their own and no mistakes."""
    names = Counter(path.name for path in recipe.evaluation.probes)
    for number, path in enumerate(recipe.evaluation.probes):
        where = f"evaluation.probes.{number}"
        if not path.is_file():
            yield missing(where, path, "file")
            continue
        if names[path.name] > 1:
            yield Problem(where, str(path), "another file of probes has the same name; rename one")
        yield from _bad_items(where, path)


def _bad_items(where: str, path: Path) -> Problems:
    """Every kind of mistake of a file's items once, with the number of lines that have it."""
    kinds: dict[str, list[Mistake]] = {}
    for item in parse_probes(path):
        for mistake in item if isinstance(item, list) else ():
            kinds.setdefault(mistake.kind, []).append(mistake)
    for found in islice(kinds.values(), MOST):
        several = f"{len(found)} lines, the first one is " if len(found) > 1 else ""
        yield Problem(where, str(path), f"{several}{found[0]}")
    if len(kinds) > MOST:
        yield Problem(where, str(path), f"and {len(kinds) - MOST} more kinds of mistakes")


def harness(recipe: Recipe) -> Problems:
    """Checks that lm-evaluation-harness is installed and its directory has all tasks."""
    section = recipe.evaluation.harness
    if section is None:
        return
    if importlib.util.find_spec("lm_eval") is None:
        yield Problem("evaluation.harness", None, "needs lm-evaluation-harness: install `perdure[harness]`")
    if not section.include_path.is_dir():
        yield missing("evaluation.harness.include_path", section.include_path, "directory")
        return
    try:
        known = task_names(section.include_path)
    except PerdureError as error:
        where = "evaluation.harness.include_path"
        yield Problem(where, str(section.include_path), str(error).removeprefix(f"{section.include_path}: "))
        return
    for number, task in enumerate(section.tasks):
        if task not in known and not Path(task).expanduser().is_file():
            remedy = (
                f"no such task or group in {section.include_path}{near(task, known) or ', which has none'}"
            )
            yield Problem(f"evaluation.harness.tasks.{number}", task, remedy)


def wandb(recipe: Recipe) -> Problems:
    """Checks that Weights & Biases is installed where it is asked for."""
    if recipe.logging.wandb is not None and importlib.util.find_spec("wandb") is None:
        yield Problem("logging.wandb", None, "needs Weights & Biases: install `perdure[wandb]`", absent=True)


def exact(recipe: Recipe) -> Problems:
    """Checks that exact references are versions that read nothing of a source, and that somebody is to forget it."""
    versions = recipe.versions.values()
    forgetful = [version for version in versions if isinstance(version.objective, Forget)]
    forgotten = {source_of(cast(Forget, version.objective).source) for version in forgetful}
    is_told = any(version.objective is BROKEN for version in versions) or any(
        cast(Forget, version.objective).source not in version.mixture.sources for version in forgetful
    )
    for source, name in recipe.evaluation.exact.items():
        where = f"evaluation.exact.{source}"
        if source not in forgotten:
            if not is_told:  # else it follows from that mistake
                remedy = "no version forgets it; should name the source of an `objective: {type: forget}`"
                yield Problem(where, source, remedy)
        elif name not in recipe.versions:
            yield Problem(where, name, f"no such version{near(name, recipe.versions)}")
        elif source in {source_of(key.removeprefix("replay/")) for key in _read(recipe, name)}:
            yield Problem(
                where, name, f"it, or what it comes from, reads `{source}`; should be one that never did"
            )


def _read(recipe: Recipe, name: str) -> set[str]:
    """Places in the mixtures of a version and all that it comes from."""
    found: set[str] = set()
    for each in lineage(recipe, name):
        found |= members(expected_mixture(recipe, each)).keys()
    return found


CHECKS = (probes, harness, wandb, exact)
