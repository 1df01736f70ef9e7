"""Checks of what versions are measured on besides held-out documents, and of where training is told."""

import importlib.util
from collections import Counter
from collections.abc import Iterator

from perdure.pipeline.checks.hints import missing
from perdure.pipeline.errors import Problem
from perdure.pipeline.evaluate.probes import parse_probes
from perdure.pipeline.recipe import Recipe

Problems = Iterator[Problem]

MOST = 20
"""Bad items of one file that are named."""


def probes(recipe: Recipe) -> Problems:
    """Files of probes whose items are all right, under names of their own."""
    names = Counter(path.name for path in recipe.evaluation.probes)
    for number, path in enumerate(recipe.evaluation.probes):
        where = f"evaluation.probes.{number}"
        if not path.is_file():
            yield missing(where, path, "file")
            continue
        if names[path.name] > 1:
            yield Problem(where, str(path), "another file of probes has the same name; rename one")
        bad = [item for item in parse_probes(path) if isinstance(item, str)]
        for complaint in bad[:MOST]:
            yield Problem(where, str(path), complaint)
        if len(bad) > MOST:
            yield Problem(where, str(path), f"and {len(bad) - MOST} more items like these")


def harness(recipe: Recipe) -> Problems:
    """The package and the directory of tasks."""
    section = recipe.evaluation.harness
    if section is None:
        return
    if importlib.util.find_spec("lm_eval") is None:
        yield Problem("evaluation.harness", None, "needs lm-evaluation-harness: install `perdure[harness]`")
    if not section.include_path.is_dir():
        yield missing("evaluation.harness.include_path", section.include_path, "directory")


def wandb(recipe: Recipe) -> Problems:
    """The package of Weights & Biases."""
    if recipe.logging.wandb is not None and importlib.util.find_spec("wandb") is None:
        yield Problem("logging.wandb", None, "needs Weights & Biases: install `perdure[wandb]`", absent=True)


CHECKS = (probes, harness, wandb)
