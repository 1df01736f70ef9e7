"""How often what a version's ancestors trained on is replayed, before any plan is there."""

from collections.abc import Iterator
from fractions import Fraction

from perdure.pipeline.checks.packed import packed
from perdure.pipeline.checks.sizes import domain_tokens
from perdure.pipeline.core.errors import Problem
from perdure.pipeline.plan.domains import source_of
from perdure.pipeline.plan.forecast import consumed_before, expected_mixture, planned_samples
from perdure.pipeline.plan.lineage import plan_owner
from perdure.pipeline.plan.mixture import is_replayed
from perdure.pipeline.plan.plan import num_steps
from perdure.pipeline.recipe import Recipe, Version
from perdure.pipeline.recipe.remembered import parent_of, remembered


def pool_repetition(
    finished: dict[str, dict], recipe: Recipe, name: str, version: Version
) -> Iterator[Problem]:
    """Checks that `replay.from_parents` repeats what ancestors trained on at most `max_repetition` times.

    All that is replayed comes round equally often, so the whole pool counts. It is taken at its largest: what ancestors took
    of a source under several orders is added up, and a source without finished data is as large as need be.
    """
    replay = version.mixture.replay
    if replay is None or not replay.from_parents:
        return
    owner, steps_before = plan_owner(recipe, name)
    if _follows_reweighting(recipe, owner):
        return  # planning counts it
    consumed, seq_length = consumed_before(recipe, owner), recipe.training.seq_length
    expected = expected_mixture(recipe, owner).replay
    pool = Fraction(0)
    for domain in expected.sources if expected else ():
        samples = consumed.get(domain) or consumed[f"replay/{domain}"]
        counts = finished.get(source_of(domain))
        if counts and (tokens := domain_tokens(counts, domain)):
            told = packed(recipe, domain, expected.sources[domain]) if expected else None
            whole = told["samples"] if told and told["packing"] else -(-tokens // seq_length)
            samples = min(samples, Fraction(whole))
        pool += samples
    planned = planned_samples(recipe, owner, steps_before + num_steps(recipe, version))
    replayed = sum(samples for key, samples in planned.items() if is_replayed(key))
    if pool and (epochs := replayed / pool) > version.mixture.max_repetition:
        yield Problem(
            f"versions.{name}.mixture.max_repetition",
            version.mixture.max_repetition,
            f"replay would repeat what the ancestors trained on {float(epochs):.1f} times "
            f"({float(replayed) * seq_length:,.0f} tokens of {float(pool) * seq_length:,.0f}); lower its share or the "
            "version's tokens, or raise this",
        )


@remembered
def _follows_reweighting(recipe: Recipe, name: str) -> bool:
    """Whether the shares of some ancestor follow perplexity."""
    if (parent := parent_of(recipe.versions[name])) is None:
        return False
    return bool(recipe.versions[parent].mixture.reweight) or _follows_reweighting(recipe, parent)
