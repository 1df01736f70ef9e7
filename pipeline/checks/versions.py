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
from perdure.pipeline.recipe import (
    Average,
    Branch,
    HuggingFaceTokenizer,
    KeepEvery,
    Merge,
    Recipe,
    Update,
    Version,
)

Problems = Iterator[Problem]
MOST_STEPS = 1_000_000_000
MOST_KEPT = 10_000
"""Checkpoints of one version that `keep: {every: N}` may keep."""


def earlier(recipe: Recipe, name: str) -> list[str]:
    """Versions that stand before another."""
    names = list(recipe.versions)
    return names[: names.index(name)]


def unknown_version(recipe: Recipe, name: str, wanted: str) -> str:
    """What is wrong with a reference to a version that is not an earlier one."""
    if wanted == name:
        return "is this version itself; should be an earlier one"
    if wanted in recipe.versions:
        return f"comes later; should stand before `{name}`"
    before = earlier(recipe, name)
    return f"no such earlier version{near(wanted, before)}" if before else "no version stands before this one"


def parent(recipe: Recipe, name: str, version: Version) -> Problems:
    """Checks that what a version starts from are earlier versions."""
    where, start, before = f"versions.{name}.start", version.start, earlier(recipe, name)
    if isinstance(start, Merge):
        named = [(f"{where}.weights.{parent}", parent) for parent in start.weights]
        named += [(f"{where}.versions.{number}", parent) for number, parent in enumerate(start.versions)]
        named += [(f"{where}.base", start.base)] if start.base is not None else []
        if not start.named:
            remedy = "required: the share of each version, by name"
            yield Problem(f"{where}.weights", None, remedy)
    else:
        wanted, field = parent_of(version), "of" if isinstance(start, Average) else "parent"
        named = [(f"{where}.{field}", wanted)] if wanted is not None else []
    for place, wanted in named:
        if wanted not in before:
            yield Problem(place, wanted, unknown_version(recipe, name, wanted))


def budget(recipe: Recipe, name: str, version: Version) -> Problems:
    """Checks that versions that train have a budget, and those that are computed have none."""
    where, kind = f"versions.{name}.tokens", version.start.type
    if version.is_computed and version.tokens:
        remedy = f"should be 0: a version by `{kind}` does not train; train an `update` of it"
        yield Problem(where, version.tokens, remedy)
    elif not version.is_computed and not version.tokens:
        yield Problem(where, 0, f"should be greater than 0: a version by `{kind}` trains")


def branch_step(recipe: Recipe, name: str, version: Version) -> Problems:
    """Checks that the parent keeps a checkpoint at the step of a branch."""
    start, where = version.start, f"versions.{name}.start.step"
    if not isinstance(start, Branch) or start.parent not in earlier(recipe, name):
        return
    if recipe.versions[start.parent].is_computed:
        kind = recipe.versions[start.parent].start.type
        remedy = f"`{start.parent}` is a {kind}, which has no steps; start an `update` of it"
        yield Problem(where, start.step, remedy)
        return
    steps = num_steps(recipe, recipe.versions[start.parent])
    if start.step > steps:
        yield Problem(where, start.step, f"should be at most {steps}, the steps of `{start.parent}`")
    elif not is_finished(recipe.paths.version(name).directory) and (
        reason := missing_checkpoint(recipe, start)
    ):
        yield Problem(where, start.step, reason)


def moments(recipe: Recipe, name: str, version: Version) -> Problems:
    """Checks that moments are kept of parents that have some: a computed version has none."""
    start = version.start
    if not isinstance(start, Update) or start.moments == "reset" or start.parent not in earlier(recipe, name):
        return
    if recipe.versions[start.parent].is_computed:
        kind = recipe.versions[start.parent].start.type
        remedy = f"`{start.parent}` is a {kind}, which has weights and no moments; use `reset`"
        yield Problem(f"versions.{name}.start.moments", "keep", remedy)


def computed(recipe: Recipe, name: str, version: Version) -> Problems:
    """Checks that a version that does not train has no fields of training but those of its first parent."""
    first = parent_of(version)
    if not version.is_computed or first not in earlier(recipe, name):
        return
    kind, origin = version.start.type, recipe.versions[first]
    for field, info in Version.model_fields.items():
        own = getattr(version, field)
        if field in ("start", "tokens"):
            continue
        if own != (getattr(origin, field) if field in ("mixture", "schedule") else info.get_default()):
            remedy = f"has no use: a version by `{kind}` does not train; leave it out"
            yield Problem(f"versions.{name}.{field}", None, remedy)


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
            where, wanted, unknown_version(recipe, name, wanted) + " (a directory is written with a `/`)"
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


CHECKS = (branch_step, moments, computed, length, kept, reference)
"""All but `parent` and `budget`, without which none of these can be made."""
