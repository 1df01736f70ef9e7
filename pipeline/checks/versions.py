"""Checks of versions: what they start from, train on, refer to, and their learning rate."""

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

from perdure.pipeline.checks.hints import near
from perdure.pipeline.checks.model import model_directory
from perdure.pipeline.errors import Problem
from perdure.pipeline.manifest import hash_file
from perdure.pipeline.mixture import mixture_shares
from perdure.pipeline.plan import num_samples
from perdure.pipeline.recipe import CosineSchedule, HuggingFaceTokenizer, InfiniteSchedule, Recipe, Version
from perdure.pipeline.sizes import finished_sources

Problems = Iterator[Problem]


def _earlier(recipe: Recipe, name: str) -> list[str]:
    names = list(recipe.versions)
    return names[: names.index(name)]


def _unknown_version(recipe: Recipe, name: str, wanted: str) -> str:
    """What is wrong with a reference to a version that is not an earlier one."""
    if wanted == name:
        return "is this version itself; should be an earlier one"
    if wanted in recipe.versions:
        return f"comes later; should stand before `{name}`"
    earlier = _earlier(recipe, name)
    return (
        f"no such earlier version{near(wanted, earlier)}" if earlier else "no version stands before this one"
    )


def start(recipe: Recipe, name: str, version: Version) -> Problems:
    """A parent that stands earlier."""
    if version.start.type == "update" and version.start.parent not in _earlier(recipe, name):
        parent = version.start.parent
        yield Problem(f"versions.{name}.start.parent", parent, _unknown_version(recipe, name, parent))


def mixture_names(recipe: Recipe, name: str, version: Version) -> Problems:
    """Names of new sources."""
    yield from _names(recipe, f"versions.{name}.mixture.sources", version.mixture.sources)


def replay_names(recipe: Recipe, name: str, version: Version) -> Problems:
    """Names of replayed sources."""
    if version.mixture.replay is not None:
        yield from _names(recipe, f"versions.{name}.mixture.replay.sources", version.mixture.replay.sources)


def _names(recipe: Recipe, where: str, members: dict) -> Problems:
    for source in members:
        if source not in recipe.sources:
            yield Problem(f"{where}.{source}", source, f"no such source{near(source, recipe.sources)}")


def curriculum(recipe: Recipe, name: str, version: Version) -> Problems:
    """A model for the order by perplexity, and an order for the model."""
    mixture, where = version.mixture, f"versions.{name}.mixture.perplexity_model"
    members = [*mixture.sources.values(), *(mixture.replay.sources.values() if mixture.replay else ())]
    ordered = any(member.order == "easy_to_hard" for member in members)
    if mixture.perplexity_model is None:
        if ordered:
            yield Problem(
                where, None, "required by `order: easy_to_hard`: an earlier version, or a model directory"
            )
    else:
        yield from _model_or_version(recipe, name, where, mixture.perplexity_model)
        if not ordered:
            yield Problem(where, mixture.perplexity_model, "has no use: no source has `order: easy_to_hard`")


def reference(recipe: Recipe, name: str, version: Version) -> Problems:
    """The reference model of selective training."""
    if version.selection is not None:
        where = f"versions.{name}.selection.reference"
        yield from _model_or_version(recipe, name, where, version.selection.reference)


def _model_or_version(recipe: Recipe, name: str, where: str, wanted: str) -> Problems:
    if "/" in wanted:
        yield from model_directory(where, Path(wanted), recipe)
        yield from _same_tokenizer(recipe, where, Path(wanted))
    elif wanted not in _earlier(recipe, name):
        yield Problem(
            where, wanted, _unknown_version(recipe, name, wanted) + " (a directory is written with a `/`)"
        )


def _same_tokenizer(recipe: Recipe, where: str, directory: Path) -> Problems:
    """Losses can be compared token by token only under one tokenizer."""
    theirs = directory / "tokenizer.json"
    if not (isinstance(recipe.tokenizer, HuggingFaceTokenizer) and theirs.is_file()):
        return
    ours = recipe.tokenizer.path / "tokenizer.json"
    if ours.is_file() and hash_file(ours) != hash_file(theirs):
        remedy = f"its tokenizer ({hash_file(theirs)[:8]}) should be the recipe's ({hash_file(ours)[:8]})"
        yield Problem(where, str(directory), remedy)


def rates(recipe: Recipe, name: str, version: Version) -> Problems:
    """Learning rates in their order."""
    where, schedule = f"versions.{name}.schedule", version.schedule
    falling = ("max_lr", "constant_lr", "min_lr")
    for higher, lower in pairwise(name for name in falling if hasattr(schedule, name)):
        high, low = getattr(schedule, higher), getattr(schedule, lower)
        if low > high:
            yield Problem(f"{where}.{lower}", low, f"should be at most {higher} ({high:g})")


def phases(recipe: Recipe, name: str, version: Version) -> Problems:
    """Phases of the learning rate that fit into the version."""
    where, schedule = f"versions.{name}.schedule", version.schedule
    if isinstance(schedule, InfiniteSchedule):
        until = schedule.constant_until
        if until < schedule.cooldown:
            yield Problem(
                f"{where}.constant_until", until, f"should be at least cooldown ({schedule.cooldown:g})"
            )
        if until < 1 <= until + schedule.warmup:
            remedy = f"leaves no step to anneal after warmup ({schedule.warmup:g}); should be lower, or 1"
            yield Problem(f"{where}.constant_until", until, remedy)
    elif isinstance(schedule, CosineSchedule) and schedule.warmup == 1:
        yield Problem(f"{where}.warmup", schedule.warmup, "should be below 1, to leave steps for the decay")


def repetition(recipe: Recipe) -> Problems:
    """Sources that are already tokenised, and would repeat too often."""
    finished, seq_length = finished_sources(recipe), recipe.training.seq_length
    for name, version in recipe.versions.items():
        samples = num_samples(recipe, version)
        for key, share in mixture_shares(version.mixture).items():
            if (counts := finished.get(key.removeprefix("replay/"))) is None:
                continue
            available = counts["train"]["tokens"]
            epochs = float(share) * samples / max(1, -(-available // seq_length))
            if epochs > version.mixture.max_repetition:
                yield Problem(
                    f"versions.{name}.mixture.max_repetition",
                    version.mixture.max_repetition,
                    f"`{key}` would repeat {epochs:.1f} times ({float(share) * samples * seq_length:,.0f} tokens of "
                    f"{available:,}); lower its weight or the version's tokens, or raise this",
                )


CHECKS = (start, mixture_names, replay_names, curriculum, reference, rates, phases)
