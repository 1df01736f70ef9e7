"""The report a run ends with: `report.json`, `lineage.json`, `report/*.html`, and a table on the console."""

from collections.abc import Callable

from perdure.pipeline.evaluate.board import write_board
from perdure.pipeline.evaluate.ledger_words import ledger_words
from perdure.pipeline.evaluate.page import render_page
from perdure.pipeline.evaluate.summary import build_report
from perdure.pipeline.evaluate.words import cost_words, loss_table
from perdure.pipeline.manifest import write_atomic
from perdure.pipeline.recipe import Recipe


def write_report(recipe: Recipe, say: Callable[[str], None] = print) -> dict:
    """Writes all of a run's reports, a page for all of it and one for each version, and says what it found.

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
    for version in report["versions"]:
        if version["status"] != "waiting":
            write_atomic(page.parent / f"{version['id']}.html", render_page(report, version["id"]))
    write_board(report, recipe.directory / "report" / "tb")
    say(loss_table(report))
    for finding in ("", *report["findings"], *ledger_words(report), *cost_words(report), ""):
        say(finding)
    say(_next_commands(recipe, report))
    return report


def _next_commands(recipe: Recipe, report: dict) -> str:
    """What to do with the run now; the model offered for export has the lowest mean loss over all domains."""
    commands = {"perdure recipe new my-recipe.yaml": "begin a recipe of your own"}
    if report["curves"]:
        commands = {f"tensorboard --logdir {recipe.directory}": "look at every step"} | commands
    measured = {
        version["id"]: sum(losses)
        for version, losses in zip(report["versions"], report["loss_matrix"][1:])
        if version["status"] == "finished" and None not in losses
    }
    if measured:
        best = min(measured, key=measured.__getitem__)
        export = f"perdure export {recipe.directory} {best} --to {recipe.name}-{best}"
        commands = {export: f"take {best} along as a Hugging Face model"} | commands
    lines = [
        f"Report: {recipe.directory / 'report' / 'index.html'} (open it in a browser; beside it, one page for each version)",
        "Next:",
    ]
    return "\n".join([*lines, *(f"  {command}  # {purpose}" for command, purpose in commands.items())])
