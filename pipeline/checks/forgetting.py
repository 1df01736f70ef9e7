"""Checks of a version that forgets documents: that they are whole and told apart, and that nothing else weighs its tokens."""

from collections.abc import Iterator

from perdure.pipeline.checks.mixtures import named_places
from perdure.pipeline.core.errors import Problem
from perdure.pipeline.core.hints import near
from perdure.pipeline.plan.domains import parse, source_of
from perdure.pipeline.plan.packing import packing_of
from perdure.pipeline.plan.withdrawn import forgotten_sources, is_forgotten
from perdure.pipeline.recipe import Forget, KLAnchor, Recipe, Update, Version
from perdure.pipeline.recipe.anchors import anchor_source

Problems = Iterator[Problem]


def forgotten(recipe: Recipe, name: str, version: Version) -> Problems:
    """Checks that what is forgotten is a place of whole documents, beside something that is retained."""
    objective, mixture, where = version.objective, version.mixture, f"versions.{name}"
    if not isinstance(objective, Forget):
        return
    if (member := mixture.sources.get(objective.source)) is None:
        remedy = f"is not in `mixture.sources`{near(objective.source, mixture.sources)}"
        yield Problem(f"{where}.objective.source", objective.source, remedy)
        return
    if parse(objective.source).is_part:
        remedy = (
            "a part of a source cannot be forgotten, since all of its source would be withdrawn; put its documents into a "
            "source of their own"
        )
        yield Problem(f"{where}.objective.source", objective.source, remedy)
    if len(mixture.sources) == 1 and mixture.replay is None:
        remedy = (
            "nothing is retained beside it, so that the model would be lost; name other sources, or `replay`"
        )
        yield Problem(f"{where}.mixture.sources", objective.source, remedy)
    if source_of(objective.source) in recipe.sources and packing_of(recipe, objective.source, member) is None:
        remedy = "forgets whole documents; set it to `best_fit` or `next_fit`"
        yield Problem(f"{where}.mixture.sources.{objective.source}.packing", member.packing, remedy)
    if not recipe.training.document_mask:
        remedy = f"should be true: `{name}` forgets documents, whose likelihoods do not depend on others in their sample"
        yield Problem("training.document_mask", False, remedy)
    if objective.method == "npo" and not isinstance(version.start, Update):
        remedy = f"compares with the parent's export, which `start: {{type: {version.start.type}}}` has not; use an `update`"
        yield Problem(f"{where}.objective.method", "npo", f"{remedy}, or `simnpo`")
    if objective.method == "graddiff" and objective.beta is not None:
        yield Problem(f"{where}.objective.beta", objective.beta, "has no use with `graddiff`")


def read_again(recipe: Recipe, name: str, version: Version) -> Problems:
    """Checks that nothing is read, or measured for an anchor, of sources that the version or what it comes from forgets."""
    gone, where = forgotten_sources(recipe, name), f"versions.{name}"
    places = [
        (path, domain)
        for path, domain, _ in named_places(version, f"{where}.mixture")
        if ".replay.sources." in path or not is_forgotten(version, domain)
    ]
    if source := anchor_source(version.anchor):
        places.append((f"{where}.anchor.estimate.source", source))
    for path, domain in places if gone else ():
        if source_of(domain) in gone:
            remedy = "this version, or one that it comes from, forgets all of its documents; leave it out"
            yield Problem(path, domain, remedy)


def combined(recipe: Recipe, name: str, version: Version) -> Problems:
    """Checks that nothing else decides weights of tokens, or shares of sources, in a version that forgets."""
    if not isinstance(version.objective, Forget):
        return
    kl = version.anchor if isinstance(version.anchor, KLAnchor) else None
    others = {
        "selection": (version.selection, "both weigh tokens"),
        "anchor": (kl, "both weigh tokens; `l2` and `fisher` can stand beside it"),
        "mixture.reweight": (version.mixture.reweight, "it would give what is forgotten a larger share"),
        "mixture.domain_order": (version.mixture.domain_order, "what is retained has to stand beside it"),
    }
    for field, (value, why) in others.items():
        if value is not None:
            told = value if isinstance(value, str) else value.model_dump(exclude_unset=True)
            yield Problem(
                f"versions.{name}.{field}", told, f"cannot stand beside `objective: {{type: forget}}`: {why}"
            )
    if recipe.training.z_loss:
        remedy = f"should be 0: `{name}` forgets, and a negative weight would reward what it penalises"
        yield Problem("training.z_loss", recipe.training.z_loss, remedy)


CHECKS = (forgotten, read_again, combined)
