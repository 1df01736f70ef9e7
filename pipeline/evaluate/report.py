"""The report a run ends with: `report.json`, `lineage.json`, `report/index.html`, and a table on the console."""

from collections.abc import Callable

from perdure.pipeline.evaluate.page import render_page
from perdure.pipeline.evaluate.summary import build_report
from perdure.pipeline.evaluate.words import loss_table, replay_findings
from perdure.pipeline.manifest import write_atomic
from perdure.pipeline.recipe import Recipe


def write_report(recipe: Recipe, say: Callable[[str], None] = print) -> dict:
    """Writes all of a run's reports and says what it found.

    Args:
        recipe: The run, finished or not: what it has not made yet is shown as missing.
        say: Takes each paragraph for the console.

    Returns:
        What `report.json` holds, see `build_report`.

    Raises:
        PerdureError: If an artefact is broken or the report cannot be written.
    """
    report = build_report(recipe)
    page = recipe.directory / "report" / "index.html"
    write_atomic(page, render_page(report))
    say(loss_table(report))
    for finding in replay_findings(report):
        say(finding)
    say(f"Report: {page}\nNumbers: {recipe.directory / 'report.json'}")
    return report
