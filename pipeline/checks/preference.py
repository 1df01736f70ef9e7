"""Checks of versions that learn from pairs of answers."""

from collections.abc import Iterator

from perdure.pipeline.checks.packed import packed
from perdure.pipeline.checks.versions import model_or_version
from perdure.pipeline.core.errors import Problem
from perdure.pipeline.core.hints import near
from perdure.pipeline.plan.domains import source_of
from perdure.pipeline.plan.mixture import members
from perdure.pipeline.plan.packing import packing_of
from perdure.pipeline.recipe import KLAnchor, Preference, Recipe, Version

Problems = Iterator[Problem]


def sources(recipe: Recipe, name: str, version: Version) -> Problems:
    """Checks that new data is pairs, or is retained with a weight, and that samples hold whole pairs."""
    if not isinstance(version.objective, Preference):
        return
    where, retain = f"versions.{name}", version.objective.retain
    new = {domain: member for key, (domain, member) in members(version.mixture).items() if key == domain}
    known = {domain: member for domain, member in new.items() if source_of(domain) in recipe.sources}
    pairs = [domain for domain in known if recipe.sources[source_of(domain)].has_pairs]
    for domain in retain:
        if domain not in new:
            remedy = f"is no new data of this version{near(domain, new)}"
            yield Problem(f"{where}.objective.retain.{domain}", domain, remedy)
        elif domain in pairs:
            remedy = "is a source of pairs, which have the preference loss; `retain` is for the others"
            yield Problem(f"{where}.objective.retain.{domain}", domain, remedy)
    for domain, member in known.items():
        place = f"{where}.mixture.sources.{domain}"
        if domain not in pairs:
            if domain not in retain:
                remedy = (
                    "has no pairs; give its reader `chosen_field` and `rejected_field`, or name it in `objective.retain` with "
                    "the weight of its cross entropy, or in `replay`"
                )
                yield Problem(place, domain, remedy)
            continue
        how = packing_of(recipe, domain, member)
        if how is None:
            yield Problem(f"{place}.packing", "stream", "would cut pairs apart; use `best_fit` or `next_fit`")
        elif how[1] == "cut":
            yield Problem(f"{place}.overlong", "cut", "would cut pairs apart; use `drop`")
        elif (
            member.overlong is None and (told := packed(recipe, domain, member)) and told["dropped_documents"]
        ):
            remedy = (
                f"{told['dropped_documents']:,} of its pairs are longer than training.seq_length = "
                f"{recipe.training.seq_length:,}, both answers with the prompt; raise it, or leave them out: `overlong: drop`"
            )
            yield Problem(f"{place}.overlong", None, remedy)
    if known and not pairs and len(known) == len(new):
        yield Problem(f"{where}.mixture.sources", None, "has no source of pairs to learn from")


def settings(recipe: Recipe, name: str, version: Version) -> Problems:
    """Checks that there is a reference, and that nothing is asked for that does not combine with pairs."""
    if not isinstance(version.objective, Preference):
        return
    where, training = f"versions.{name}", recipe.training
    if version.objective.reference is not None:
        yield from model_or_version(recipe, name, f"{where}.objective.reference", version.objective.reference)
    elif version.scored_by is None:
        remedy = (
            f"required where a version starts by `{version.start.type}`: an earlier version, or a model directory; an `update` "
            f"has its parent"
        )
        yield Problem(f"{where}.objective.reference", None, remedy)
    if version.selection is not None:
        remedy = "selects tokens, and a pair's loss is of all its tokens; leave it out"
        yield Problem(f"{where}.selection", version.selection.score, remedy)
    if isinstance(version.anchor, KLAnchor):
        remedy = "is a loss of tokens beside that of pairs; `beta` is what keeps the model near its reference, or use `l2`"
        yield Problem(f"{where}.anchor", "kl", remedy)
    if training.z_loss:
        remedy = f"would reward what it should hold down where labels have negative weights, as in {where}; set it to 0"
        yield Problem("training.z_loss", training.z_loss, remedy)
    if not training.document_mask:
        remedy = f"should be true for {where}: the reference has seen each answer by itself"
        yield Problem("training.document_mask", False, remedy)
    context, _ = recipe.scoring.windows(training.seq_length)
    if context < training.seq_length:
        remedy = f"should be at least {training.seq_length:,} for {where}: the reference reads whole answers"
        yield Problem("scoring.context", context, remedy)


CHECKS = (sources, settings)
