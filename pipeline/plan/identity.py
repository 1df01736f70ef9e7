"""The parts of a recipe that decide a version's result."""

from typing import Any

from perdure.pipeline.core.records import RecipeIdentity
from perdure.pipeline.plan.averages import averaged_weights
from perdure.pipeline.plan.mixture import order_of_sources, without_idle
from perdure.pipeline.recipe import Average, Merge, Recipe, Version
from perdure.pipeline.recipe.remembered import parents_of


def deciding_fields(recipe: Recipe, name: str) -> RecipeIdentity:
    """The fields of a recipe that decide a version's result; no model is read, as it may be gone."""
    version = recipe.versions[name]
    dumped = version.model_dump(mode="json", exclude={"keep"})
    found: RecipeIdentity = {
        "seed": recipe.seed,
        "model": recipe.model.model_dump(mode="json"),
        "training": recipe.training.model_dump(exclude=not_deciding(recipe)),
        "version": deciding(dumped),
        "order_of_sources": order_of_sources(version.mixture),
        "reweight_tokens": reweight_tokens(recipe, version),
    }
    if version.is_computed:  # the first one is followed; a mapping says no order
        found["parents"] = list(parents_of(version))
    if isinstance(version.start, Average):  # `keep` of another version decides which are the last
        found["averaged"] = {
            str(step): weight for step, weight in averaged_weights(recipe, version.start).items()
        }
    return found


def deciding(version: dict[str, Any]) -> dict[str, Any]:
    """A dumped version without fields that do not affect its result: `max_repetition` matters with `reweight` alone."""
    mixture = version["mixture"]
    if not mixture.get("reweight"):
        mixture = {key: value for key, value in mixture.items() if key != "max_repetition"}
    return without_idle(version | {"mixture": mixture})


def reweight_tokens(recipe: Recipe, version: Version) -> int | None:
    """Held-out tokens per domain whose losses the version's shares follow, of sources or of parents; None if they follow
    none."""
    if isinstance(version.start, Merge):
        return recipe.evaluation.max_tokens if version.start.fitted else None
    rule = version.mixture.reweight
    return None if rule is None else rule.max_tokens or recipe.evaluation.max_tokens


def not_deciding(recipe: Recipe) -> set[str]:
    """Fields of `training` that change a version's weights by rounding at most."""
    guard = recipe.training.guard
    fields = {"log_interval", "async_checkpoint", "loss_implementation"}
    if recipe.training.ema is None:
        fields.add("ema")  # as in identities from before there was one
    return fields if "rollback" in (guard.on_nan, guard.on_spike) else fields | {"checkpoint_interval"}
