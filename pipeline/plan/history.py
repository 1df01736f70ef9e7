"""What a version's records tell of its course: steps done, phases of the mixture, tokens consumed of each domain."""

from pathlib import Path

from perdure.pipeline.core.integrity import metrics_lines
from perdure.pipeline.core.manifest import is_finished
from perdure.pipeline.core.paths import VersionPaths
from perdure.pipeline.plan.consumption import ledger
from perdure.pipeline.plan.lineage import appended_phases, history
from perdure.pipeline.plan.plan import Plan, open_plan
from perdure.pipeline.recipe import Recipe


def steps_done(directory: Path) -> int:
    """Steps that `metrics.jsonl` tells of; its last line may be half written."""
    lines = metrics_lines(VersionPaths(directory).metrics)
    return lines[-1]["step"] if lines else 0


def mixture_phases(recipe: Recipe, name: str) -> list[dict] | None:
    """A version's mixture over time: after which step which shares hold, and why; None before it was planned."""
    if (plan := _plan(recipe, name)) is None:
        return None
    batch, found = recipe.training.global_batch_size, []
    for phase, entry in zip(plan.phases, plan.description["phases"]):
        until = phase.first_sample + phase.num_samples
        if until > plan.first_sample:
            after = max(0, phase.first_sample - plan.first_sample) // batch
            shares = {key: count / len(phase.pattern) for key, count in zip(plan.keys, phase.counts)}
            found.append({"after_step": after, "reason": entry["reason"], "shares": shares})
    return found


def source_ledger(recipe: Recipe, name: str) -> dict[str, dict[str, int]] | None:
    """Tokens consumed and remaining per domain along a version's path, see `consumption.ledger`; None before its plan."""
    if (plan := _plan(recipe, name)) is None:
        return None
    steps = steps_done(recipe.paths.version(name).directory)
    end = plan.first_sample + steps * recipe.training.global_batch_size
    return ledger([(plan, end), *history(recipe, name)])


def _plan(recipe: Recipe, name: str) -> Plan | None:
    version = recipe.paths.version(name)
    return open_plan(version.plan, appended=appended_phases(version)) if is_finished(version.plan) else None
