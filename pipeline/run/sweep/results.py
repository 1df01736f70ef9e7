"""Writes the results of a sweep: `sweep.json`, tables, a page, plots, and TensorBoard's table of hyper-parameters."""

import logging
import shutil
from typing import Any

from perdure.pipeline.core.files import read_json, write_atomic, write_json
from perdure.pipeline.core.hashes import hash_of
from perdure.pipeline.core.paths import RunPaths
from perdure.pipeline.evaluate.report.figures import standalone
from perdure.pipeline.evaluate.units import BITS, NATS
from perdure.pipeline.run.sweep.charts import Chart, charts
from perdure.pipeline.run.sweep.gather import gather, row_in
from perdure.pipeline.run.sweep.page import render_sweep
from perdure.pipeline.run.sweep.schema import SweepResult
from perdure.pipeline.run.sweep.spec import SweepPlan
from perdure.pipeline.run.sweep.table import format_setting, sweep_table

logger = logging.getLogger(__name__)


BOARD = {"heldout_loss": NATS, "heldout_bits_per_byte": BITS}
"""Metrics of TensorBoard's table; curves beside it are in nats per token."""


def write_results(plan: SweepPlan, failed: dict[str, str] | None = None) -> SweepResult:
    """Writes `<out>/sweep.json`, `sweep.html`, `plots/` and `runs/<run>/tb` from what is there, and says the tables.

    Args:
        plan: The sweep.
        failed: By name of runs that failed just now, why.

    Returns:
        What `sweep.json` holds, see `gather`.
    """
    found = gather(plan, failed)
    write_json(RunPaths(plan.directory).sweep, found)
    drawn = charts(found)
    write_atomic(RunPaths(plan.directory).sweep_page, render_sweep(found, drawn))
    _write_plots(plan, drawn)
    _write_board(plan, found)
    logger.info(sweep_table(found))
    logger.info(f"Page with plots: {plan.directory / 'sweep.html'}; numbers: {plan.directory / 'sweep.json'}")
    if drawn:
        logger.info(f"Plots as files: {plan.directory / 'plots'}")
    logger.info(
        f"tensorboard --logdir {plan.directory / 'runs'}  # curves of all runs; HPARAMS compares them"
    )
    return found


def _write_plots(plan: SweepPlan, drawn: list[Chart]) -> None:
    """Writes a file for each plot, and removes those of an earlier state of the sweep."""
    folder = RunPaths(plan.directory).plots
    files = {folder / f"{chart.name}.svg": standalone(chart.svg) for chart in drawn}
    for file in folder.glob("*.svg"):
        if file not in files:
            file.unlink()
    for file, picture in files.items():
        write_atomic(file, picture)


def _write_board(plan: SweepPlan, found: SweepResult) -> None:
    """Writes TensorBoard's table of hyper-parameters: held-out losses of each whole run, in both units."""
    for run in found["runs"]:
        board = plan.directory / run["directory"] / "tb"
        done, state = board / "hparams.json", hash_of(run)
        if run["status"] != "whole" or (done.exists() and read_json(done, str) == state):
            continue
        from torch.utils.tensorboard.summary import hparams
        from torch.utils.tensorboard.writer import SummaryWriter

        settings = {path: _scalar(value) for path, value in run["setting"].items()}
        settings |= {} if run["seed"] is None else {"seed": run["seed"]}
        metrics = {
            f"{kind}/{name}/{domain}": loss
            for kind, unit in BOARD.items()
            for name in found["compared"]
            if name in run["versions"]
            for domain, loss in row_in(run["versions"][name], unit)["losses"].items()
            if loss is not None
        }
        shutil.rmtree(board, ignore_errors=True)
        with SummaryWriter(str(board)) as writer:
            for summary in hparams(settings, metrics):
                writer.file_writer.add_summary(summary)
            for name, value in metrics.items():
                writer.add_scalar(name, value, 0)
        write_json(done, state)


def _scalar(value: Any) -> bool | int | float | str:
    return value if isinstance(value, bool | int | float | str) else format_setting({"": value}).strip()
