"""Checks of versions with an adapter, and of versions that build on one."""

from collections.abc import Iterator

from perdure.pipeline.checks.versions import earlier, unknown_version
from perdure.pipeline.core.errors import Problem
from perdure.pipeline.core.manifest import is_finished
from perdure.pipeline.model.adapter_sizes import adapted
from perdure.pipeline.model.families import FAMILIES
from perdure.pipeline.model.shape import model_shape
from perdure.pipeline.plan.recorded import recorded_recipe
from perdure.pipeline.recipe import (
    Branch,
    ExtendedTokenizer,
    FisherAnchor,
    L2Anchor,
    LoRA,
    Recipe,
    Update,
    Version,
)

Problems = Iterator[Problem]


def adapter_start(recipe: Recipe, name: str, version: Version) -> Problems:
    """Checks that a version with an adapter is an update that begins with new moments."""
    start = version.start
    if version.adapter is None:
        return
    if not isinstance(start, Update):
        remedy = f"an adapter is trained beside a finished parent's weights: `start: {{type: update}}`, not `{start.type}`"
        yield Problem(f"versions.{name}.adapter", version.adapter.type, remedy)
    elif start.moments == "keep":
        remedy = "should be `reset` with an adapter: the parent has no moments of its new matrices"
        yield Problem(f"versions.{name}.start.moments", "keep", remedy)


def adapter_dropout(recipe: Recipe, name: str, version: Version) -> Problems:
    """Checks that an adapter has no dropout."""
    if version.adapter is not None and version.adapter.dropout:
        remedy = (
            "should be 0: its random masks would differ between layouts, and after a resume under another one"
        )
        yield Problem(f"versions.{name}.adapter.dropout", version.adapter.dropout, remedy)


def checkpoint_with_adapter(recipe: Recipe, name: str, version: Version) -> Problems:
    """Checks that no version takes a checkpoint of one with an adapter, which holds frozen weights beside it.

    Averages have their own check.
    """
    start, anchor, where, taken = version.start, version.anchor, "start", None
    if isinstance(start, Branch) or (isinstance(start, Update) and start.moments == "keep"):
        taken = start.parent
    elif isinstance(start, Update) and isinstance(anchor, FisherAnchor) and anchor.estimate == "moments":
        where, taken = "anchor.estimate", start.parent
    if taken in earlier(recipe, name) and recipe.versions[taken].adapter is not None:
        remedy = (
            f"checkpoints of `{taken}` hold its parent's weights and an adapter beside them; only its merged export can be "
            "used, as by `start: {type: update, moments: reset}`"
        )
        yield Problem(f"versions.{name}.{where}", start.type if where == "start" else "moments", remedy)


def orthogonal_to(recipe: Recipe, name: str, version: Version) -> Problems:
    """Checks that the adapters to be orthogonal to are those of earlier versions, on a layer that this one has, too."""
    if version.adapter is None:
        return
    own = _modules(recipe, version.adapter)
    for number, wanted in enumerate(version.adapter.orthogonal_to):
        where = f"versions.{name}.adapter.orthogonal_to.{number}"
        if wanted not in earlier(recipe, name):
            yield Problem(where, wanted, unknown_version(recipe, name, wanted))
        elif (other := recipe.versions[wanted].adapter) is None:
            yield Problem(where, wanted, "has no adapter; should be a version that trained one")
        elif not own & _modules(recipe, other):
            yield Problem(
                where, wanted, "its adapter shares no target with this one, so there is nothing to keep apart"
            )


def anchored_adapter(recipe: Recipe, name: str, version: Version) -> Problems:
    """Checks that no anchor of weights is asked for where the weights are frozen."""
    if version.adapter is not None and isinstance(version.anchor, L2Anchor | FisherAnchor):
        remedy = "has no use beside an adapter: the weights that it would hold are frozen, and it would pull A and B alone"
        yield Problem(f"versions.{name}.anchor", version.anchor.type, remedy)


def new_rows(recipe: Recipe, name: str, version: Version) -> Problems:
    """Checks that no vocabulary is extended in a version whose embeddings are frozen."""
    start = version.start
    if version.adapter is None or not isinstance(start, Update):
        return
    parent = recipe.paths.version(start.parent)
    if not isinstance(recipe.tokenizer, ExtendedTokenizer) or not is_finished(parent.directory):
        return  # a parent that is yet to be trained is trained with the extended vocabulary, all of it
    made = recorded_recipe(parent.directory)
    if made is not None and made.tokenizer != recipe.tokenizer:
        remedy = (
            f"`{start.parent}` was trained without the tokens that `tokenizer` adds, and their new rows would stay frozen; "
            "train all weights in the version that extends the vocabulary"
        )
        yield Problem(f"versions.{name}.adapter", version.adapter.type, remedy)


def _modules(recipe: Recipe, adapter: LoRA) -> set[str]:
    rules = FAMILIES[model_shape(recipe).family].layer
    return {name for rule in rules for name in adapted(rule, adapter)}


CHECKS = (adapter_start, adapter_dropout, checkpoint_with_adapter, orthogonal_to, anchored_adapter, new_rows)
