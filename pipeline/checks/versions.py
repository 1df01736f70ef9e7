"""Checks of versions: what they start from and refer to."""

from collections.abc import Iterator
from pathlib import Path

from perdure.pipeline.checks.model import model_directory
from perdure.pipeline.core.errors import Problem
from perdure.pipeline.core.hashes import hash_file
from perdure.pipeline.core.hints import near
from perdure.pipeline.core.manifest import is_finished
from perdure.pipeline.plan.lineage import missing_checkpoint, parent_of
from perdure.pipeline.plan.plan import num_steps
from perdure.pipeline.recipe import Branch, HuggingFaceTokenizer, KeepEvery, Recipe, Version

Problems = Iterator[Problem]
MOST_STEPS = 1_000_000_000
MOST_KEPT = 10_000
"""Checkpoints of one version that `keep: {every: N}` may keep."""


def earlier(recipe: Recipe, name: str) -> list[str]:
    """Versions that stand before another."""
    names = list(recipe.versions)
    return names[: names.index(name)]


def _unknown_version(recipe: Recipe, name: str, wanted: str) -> str:
    """What is wrong with a reference to a version that is not an earlier one."""
    if wanted == name:
        return "is this version itself; should be an earlier one"
    if wanted in recipe.versions:
        return f"comes later; should stand before `{name}`"
    before = earlier(recipe, name)
    return f"no such earlier version{near(wanted, before)}" if before else "no version stands before this one"


def parent(recipe: Recipe, name: str, version: Version) -> Problems:
    """Checks that the parent is an earlier version."""
    wanted = parent_of(version)
    if wanted is not None and wanted not in earlier(recipe, name):
        yield Problem(f"versions.{name}.start.parent", wanted, _unknown_version(recipe, name, wanted))


def branch_step(recipe: Recipe, name: str, version: Version) -> Problems:
    """Checks that the parent keeps a checkpoint at the step of a branch."""
    start, where = version.start, f"versions.{name}.start.step"
    if not isinstance(start, Branch) or start.parent not in earlier(recipe, name):
        return
    steps = num_steps(recipe, recipe.versions[start.parent])
    if start.step > steps:
        yield Problem(where, start.step, f"should be at most {steps}, the steps of `{start.parent}`")
    elif not is_finished(recipe.paths.version(name).directory) and (
        reason := missing_checkpoint(recipe, start)
    ):
        yield Problem(where, start.step, reason)


def length(recipe: Recipe, name: str, version: Version) -> Problems:
    """Checks that the version has at most `MOST_STEPS` steps."""
    if (steps := num_steps(recipe, version)) > MOST_STEPS:
        remedy = f"would be {steps:,} steps; should be at most {MOST_STEPS:,} (tokens, or a larger global_batch_size)"
        yield Problem(f"versions.{name}.tokens", version.tokens, remedy)


def kept(recipe: Recipe, name: str, version: Version) -> Problems:
    """Checks that the checkpoints to keep are steps of the version."""
    steps, keep = num_steps(recipe, version), version.keep
    if isinstance(keep, KeepEvery):
        where = f"versions.{name}.keep.every"
        if keep.every > steps:
            yield Problem(where, keep.every, f"should be at most {steps}, the version's steps")
        elif (number := steps // keep.every) > MOST_KEPT:
            remedy = f"would keep {number:,} checkpoints; should keep at most {MOST_KEPT:,} (a larger number)"
            yield Problem(where, keep.every, remedy)
        return
    for number, step in enumerate(keep):
        if step > steps:
            yield Problem(
                f"versions.{name}.keep.{number}", step, f"should be at most {steps}, the version's steps"
            )


def reference(recipe: Recipe, name: str, version: Version) -> Problems:
    """Checks that selection has a reference model where its score needs one."""
    if (selection := version.selection) is None:
        return
    where, score = f"versions.{name}.selection.reference", f"`score: {selection.score}`"
    if selection.reference is not None:
        yield from model_or_version(recipe, name, where, selection.reference)
        if not selection.sidecars:
            yield Problem(where, selection.reference, f"has no use with {score}, which needs no reference")
    elif selection.sidecars:
        yield Problem(where, None, f"required by {score}: an earlier version, or a model directory")
    if selection.smoothing and (selection.use_nll or not selection.sidecars):
        yield Problem(
            f"versions.{name}.selection.smoothing",
            selection.smoothing,
            f"has no use with {score}: it averages what a reference says, for `score: reference_loss`, "
            "`reference_entropy` or `intersection`",
        )


def model_or_version(recipe: Recipe, name: str, where: str, wanted: str) -> Problems:
    """Checks that a reference to a model is a model directory or an earlier version."""
    if "/" in wanted:
        yield from model_directory(where, Path(wanted), recipe)
        yield from _same_tokenizer(recipe, where, Path(wanted))
    elif wanted not in earlier(recipe, name):
        yield Problem(
            where, wanted, _unknown_version(recipe, name, wanted) + " (a directory is written with a `/`)"
        )


def _same_tokenizer(recipe: Recipe, where: str, directory: Path) -> Problems:
    """Checks that a model has the run's tokenizer, as losses are compared token by token."""
    theirs = directory / "tokenizer.json"
    if not (isinstance(recipe.tokenizer, HuggingFaceTokenizer) and theirs.is_file()):
        return
    ours = recipe.tokenizer.path / "tokenizer.json"
    if ours.is_file() and hash_file(ours) != hash_file(theirs):
        remedy = f"its tokenizer ({hash_file(theirs)[:8]}) should be the recipe's ({hash_file(ours)[:8]})"
        yield Problem(where, str(directory), remedy)


CHECKS = (branch_step, length, kept, reference)
"""All but `parent`, without which none of these can be made."""
