"""A version's training so far, from its plan and metrics: steps, phases of the mixture, tokens consumed by domain."""

from collections.abc import Sequence
from pathlib import Path

from perdure.pipeline.core.errors import PerdureError
from perdure.pipeline.core.files import read_json
from perdure.pipeline.core.integrity import metrics_lines, require_whole
from perdure.pipeline.core.manifest import is_finished
from perdure.pipeline.core.paths import VersionPaths
from perdure.pipeline.core.remedies import remedy
from perdure.pipeline.plan.consumption import Ancestor, ledger
from perdure.pipeline.plan.lineage import ancestors, plan_owner
from perdure.pipeline.plan.plan import Plan, open_plan
from perdure.pipeline.recipe import Recipe


def steps_done(directory: Path) -> int:
    """Number of steps in `metrics.jsonl`, whose last line may be half written."""
    lines = metrics_lines(VersionPaths(directory).metrics)
    return lines[-1]["step"] if lines else 0


def mixture_phases(recipe: Recipe, name: str) -> list[dict] | None:
    """A version's mixture over time: after which step which shares hold, why, and which places are `plain`, read without
    the prefixes of their source, if some are; None before it was planned.
    """
    if (plan := _plan(recipe, name)) is None:
        return None
    batch, found = recipe.training.global_batch_size, []
    for phase, entry in zip(plan.phases, plan.description["phases"]):
        until = phase.first_sample + phase.num_samples
        if until > plan.first_sample:
            after = max(0, phase.first_sample - plan.first_sample) // batch
            shares = {key: count / len(phase.pattern) for key, count in zip(plan.keys, phase.counts)}
            plain = {"plain": list(phase.plain)} if phase.plain else {}
            found.append({"after_step": after, "reason": entry["reason"], "shares": shares} | plain)
    return found


def source_ledger(recipe: Recipe, name: str) -> dict[str, dict[str, int]] | None:
    """Tokens consumed and remaining per domain along a version's path, see `consumption.ledger`; None before its plan."""
    if recipe.versions[name].is_computed:  # what its path consumed
        return ledger(history(recipe, name)) if is_finished(recipe.paths.version(name).directory) else None
    if (plan := _plan(recipe, name)) is None:
        return None
    steps = steps_done(recipe.paths.version(name).directory)
    end = plan.first_sample + steps * recipe.training.global_batch_size
    return ledger([(plan, end), *history(recipe, name)])


def _plan(recipe: Recipe, name: str) -> Plan | None:
    version = recipe.paths.version(name)
    return open_plan(version.plan, appended=appended_phases(version)) if is_finished(version.plan) else None


def history(recipe: Recipe, name: str) -> list[Ancestor]:
    """The plans of a version's ancestors that trained, nearest first, each with the global index after its last sample used.

    Raises:
        PerdureError: If one is missing.
    """
    batch, found = recipe.training.global_batch_size, []
    for ancestor, steps in reversed(_trained(recipe, name)):
        paths = recipe.paths.version(ancestor)
        if is_finished(paths.directory) and not is_finished(paths.plan):
            raise PerdureError(f"{paths.plan}: not whole; {remedy(paths.plan)}")
        if not is_finished(paths.plan):
            raise PerdureError(
                f"version {name}: its ancestor {ancestor} has no plan in {paths.directory}; `perdure run` trains all in order"
            )
        require_whole(paths.plan)
        plan = open_plan(paths.plan)
        end = plan.first_sample + steps * batch
        appended = [entry for entry in appended_phases(paths) if entry["first_sample"] < end]
        found.append((open_plan(paths.plan, appended=appended), end))
    return found


def history_of_plan(recipe: Recipe, name: str, found: Sequence[Ancestor]) -> Sequence[Ancestor]:
    """The `history` of the version whose plan a version reads."""
    owner, _ = plan_owner(recipe, name)
    return found if owner == name else found[len(found) - len(_trained(recipe, owner)) :]


def _trained(recipe: Recipe, name: str) -> list[tuple[str, int]]:
    """The ancestors that trained: those that were computed from weights have no plan."""
    return [entry for entry in ancestors(recipe, name) if not recipe.versions[entry[0]].is_computed]


def appended_phases(version: VersionPaths) -> list[dict]:
    """Phases that training has added to a version's plan so far."""
    return _newest_record(version).get("phases", [])


def recorded_kernels(version: VersionPaths) -> list[dict]:
    """What computed a version so far, from which `step` on, oldest first; empty where no record says."""
    return _newest_record(version).get("kernels") or []


def _newest_record(version: VersionPaths) -> dict:
    """A finished version's record, else its newest checkpoint's state; empty before there is one."""
    states = [path / "state.json" for path in version.finished_checkpoints().values()]
    record = version.record if version.record.exists() else states[-1] if states else None
    return read_json(record) if record else {}
