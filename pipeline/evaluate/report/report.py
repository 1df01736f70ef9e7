"""Writes the report of a run: `report.json`, `lineage.json`, `report/*.html`, and a table on the console."""

import logging
from pathlib import Path

import yaml

from perdure.pipeline.core.files import write_atomic
from perdure.pipeline.evaluate.report.board import write_board
from perdure.pipeline.evaluate.report.formats import cost_lines, loss_table
from perdure.pipeline.evaluate.report.harness_scores import harness_lines
from perdure.pipeline.evaluate.report.ledger_lines import ledger_lines
from perdure.pipeline.evaluate.report.page import render_page
from perdure.pipeline.evaluate.report.siblings import replay_controls
from perdure.pipeline.evaluate.report.summary import build_report
from perdure.pipeline.evaluate.report_types import Report
from perdure.pipeline.recipe import Recipe

logger = logging.getLogger(__name__)


def write_report(recipe: Recipe, recipe_path: Path | str = "RECIPE") -> Report:
    """Writes a run's report, with a page for the run and one for each version, and prints its findings.

    Args:
        recipe: The run, finished or not: what it has not made yet is shown as missing.
        recipe_path: Named in the command that makes versions, while there are none.

    Returns:
        What `report.json` holds, see `build_report`.

    Raises:
        PerdureError: If an artefact is broken or the report cannot be written.
    """
    report = build_report(recipe)
    page = recipe.paths.pages / "index.html"
    write_atomic(page, render_page(report))
    for version in report["versions"]:
        if version["status"] != "waiting":
            write_atomic(page.parent / f"{version['id']}.html", render_page(report, version["id"]))
    write_board(report, recipe.paths.pages / "tb")
    logger.info(loss_table(report))
    words = [*report["findings"], *ledger_lines(report), *harness_lines(report), *cost_lines(report)]
    for finding in ("", *words, ""):
        logger.info(finding)
    logger.info(_next_commands(recipe, report, recipe_path))
    return report


def _next_commands(recipe: Recipe, report: Report, recipe_path: Path | str) -> str:
    """Lines with the commands to use next."""
    finished = [version["id"] for version in report["versions"] if version["status"] == "finished"]
    commands = {}
    if finished:
        name, purpose = _exported(report, finished)
        commands[f"perdure export {recipe.directory} {name} --to {recipe.name}-{name}"] = purpose
    if report["curves"]:
        commands[f"tensorboard --logdir {recipe.directory}"] = "look at every step"
    if finished:
        commands["perdure recipe new my-recipe.yaml"] = "begin a recipe of your own"
    else:
        commands[f"perdure run {recipe_path}"] = "no version is finished yet: this makes them"
    lines = [
        f"Report: {recipe.directory / 'report' / 'index.html'} (open it in a browser; beside it, one page for each version)",
        "Next:",
    ]
    return "\n".join([*lines, *(f"  {command}  # {purpose}" for command, purpose in commands.items())])


def _exported(report: Report, finished: list[str]) -> tuple[str, str]:
    """The version to export and its description: the last finished one that is no control without replay."""
    controls = replay_controls(yaml.safe_load(report["recipe"])["versions"])
    name = next((name for name in reversed(finished) if name not in controls), finished[-1])
    passed = finished[finished.index(name) + 1 :]
    but = f" but for {', '.join(passed)} (without replay)" if passed else ""
    return name, f"the newest version{but}, as a Hugging Face model"
