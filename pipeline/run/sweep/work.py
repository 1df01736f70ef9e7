"""Runs a sweep on this machine: its runs one after another, without what is finished."""

import logging
from pathlib import Path

from perdure.pipeline.checks.finished import against_data
from perdure.pipeline.core.errors import PerdureError, RecipeError
from perdure.pipeline.core.hashes import hash_of
from perdure.pipeline.core.logs import silenced
from perdure.pipeline.core.manifest import is_finished
from perdure.pipeline.data.stage import run_data
from perdure.pipeline.evaluate.harness import initial_records
from perdure.pipeline.evaluate.record import data_sections
from perdure.pipeline.evaluate.report.report import write_report
from perdure.pipeline.recipe import Recipe
from perdure.pipeline.run.run import alone, make_versions
from perdure.pipeline.run.sweep.gather import own_report
from perdure.pipeline.run.sweep.results import write_results
from perdure.pipeline.run.sweep.spec import Run, SweepPlan
from perdure.pipeline.run.sweep.store import link, version_places, with_kept_steps
from perdure.pipeline.train.ranks import ABOVE

logger = logging.getLogger(__name__)


def run_sweep(plan: SweepPlan) -> None:
    """Makes every run that is not whole, then the results; the others go on after a run that fails.

    Raises:
        PerdureError: At the end, if runs failed, naming them.
        Stopped: If a signal asked for it; what was trained is saved.
    """
    runs, places, failed = with_kept_steps(plan), version_places(plan), {}
    broken: dict[Path, str] = {}
    with alone(at(plan, plan.runs[0].recipe)):
        data: dict[str, dict[str, Path]] = {}
        for number, run in enumerate(runs, start=1):
            reason = next((broken[place] for place in places[run.name].values() if place in broken), None)
            try:
                link(plan, run, places[run.name])
                whole = is_whole(run)
                logger.info(
                    f"run {number} of {len(runs)}: {run.name}" + (": whole, skipped" if whole else "")
                )
                if reason:
                    raise PerdureError(reason)
                stage = hash_of(data_sections(run.recipe))
                if stage not in data:
                    with silenced(when=whole):
                        data[stage] = run_data(at(plan, run.recipe))
                if found := list(against_data(at(plan, run.recipe))):
                    raise RecipeError(run.name, found)
                with alone(run.recipe):
                    with silenced(when=whole):
                        make_versions(run.recipe, data[stage])
                    if not _reported(run):
                        with silenced():
                            write_report(run.recipe)
            except PerdureError as error:
                logger.error(f"error: {run.name}: {error}")
                words = "; ".join(line.strip() for line in str(error).splitlines())
                failed[run.name] = words.partition(f"; {ABOVE}")[0]
                unmade = (place for place in places[run.name].values() if not is_finished(place))
                if (place := next(unmade, None)) is not None:
                    broken.setdefault(place, f"{place.name}, which it needs, failed in {run.name}")
        write_results(plan, failed)
    if failed:
        raise PerdureError(
            f"{len(failed)} of {len(runs)} runs failed: {', '.join(failed)}; the reasons stand above. The same command "
            "tries them again"
        )


def at(plan: SweepPlan, recipe: Recipe) -> Recipe:
    """A run's recipe with the sweep's directory as `out`, where its data is made."""
    return recipe.model_copy(update={"out": plan.directory})


def is_whole(run: Run) -> bool:
    """Whether all versions of a run are finished and measured on its held-out text, and its report says so.

    Raises:
        PerdureError: If its report is broken, or its text is gone.
    """
    if not all(is_finished(run.recipe.paths.version(name).directory) for name in run.recipe.versions):
        return False
    report = own_report(run.recipe)
    return report is not None and not report["unmeasured"]


def _reported(run: Run) -> bool:
    """Whether the report is newer than everything that is measured after training."""
    report = run.recipe.paths.report
    later = [run.recipe.paths.version(name).harness for name in run.recipe.versions]
    later += [path for path, _ in initial_records(run.recipe).values()]
    later.append(run.recipe.paths.contamination)
    return all(path.stat().st_mtime <= report.stat().st_mtime for path in later if path.exists())
