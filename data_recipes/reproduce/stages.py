"""Tables and picture of ../stages.yaml: what each stage of a model's life costs the others.

python data_recipes/reproduce/stages.py runs/stages --page docs/results/stages.md
"""

from collections.abc import Sequence
from pathlib import Path

from perdure.data_recipes.reproduce.studies import (
    claim_row,
    line,
    mean_and_sd,
    over_seeds,
    publish,
    reports,
    sweep_and_page,
    table,
)
from perdure.pipeline.evaluate.report.figures import Axis, line_chart
from perdure.pipeline.evaluate.report_types import Ability, Report

TEXT, CHATS, PREFERRED, NEW = ("prose", "code"), "chats", "pairs: preferred", "tests"
MEASURED = (*TEXT, CHATS, PREFERRED, NEW)
PATH = ("base", "domain", "instructed", "preferred")
ENDS = ("plain", "replayed", "merged")
SOURCE = "ours"


def value(report: Report, version: str, name: str) -> float:
    """What was measured: the loss in nats per token, or the share of pairs whose preferred answer has gained."""
    return _given(_ability(report, name)["values"][_row(report, version)])


def left(report: Report, version: str, name: str) -> float:
    """What is left of the best in the run."""
    return _given(_ability(report, name)["left"][_row(report, version)])


def _ability(report: Report, name: str) -> Ability:
    (found,) = [ability for ability in report["abilities"] or [] if ability["name"] == name]
    return found


def _row(report: Report, version: str) -> int:
    return [entry["id"] for entry in report["versions"]].index(version) + 1


def _given(number: float | None) -> float:
    assert number is not None
    return number


def rise(report: Report, before: str, after: str, name: str) -> float:
    """How far a loss has risen, or a share has fallen, from one version to another."""
    change = value(report, after, name) - value(report, before, name)
    return -change if name == PREFERRED else change


def value_table(found: Sequence[Report]) -> str:
    """What was measured of every version."""
    rows = [
        [
            f"`{version}`",
            *(mean_and_sd([value(report, version, name) for report in found]) for name in MEASURED),
        ]
        for version in (*PATH, *ENDS)
    ]
    return table(["version", *MEASURED], rows)


def claim_rows(found: Sequence[Report]) -> list[list[str]]:
    """What is said of stages, held against every seed."""
    rows = [
        _rises("instructing costs what was known", "domain", "instructed", TEXT[0], found),
        _rises("preferring costs what was known", "instructed", "preferred", TEXT[0], found),
        _rises("an update without replay costs the instructions", "preferred", "plain", CHATS, found),
        _rises("it costs the preference", "preferred", "plain", PREFERRED, found),
        _rises("it costs what was known", "preferred", "plain", TEXT[0], found),
    ]
    for end, what in (("replayed", "a quarter of replay"), ("merged", "merging half of the way back")):
        for name in (TEXT[0], CHATS):
            plain, own = (
                [rise(report, "preferred", version, name) for report in found] for version in ("plain", end)
            )
            rows.append(
                claim_row(
                    f"{what} prevents most of that of {name}",
                    SOURCE,
                    [less < most / 2 for less, most in zip(own, plain, strict=True)],
                    [(f"`{end}`", own), ("`plain`", plain)],
                )
            )
        gained, kept = (
            [-rise(report, "preferred", version, NEW) for report in found] for version in ("plain", end)
        )
        rows.append(
            claim_row(
                f"{what} keeps nine tenths of what is learned",
                SOURCE,
                [own > 0.9 * most for own, most in zip(kept, gained, strict=True)],
                [(f"`{end}`", kept), ("`plain`", gained)],
            )
        )
    return rows


def _rises(claim: str, before: str, after: str, name: str, found: Sequence[Report]) -> list[str]:
    rises = [rise(report, before, after, name) for report in found]
    return claim_row(f"{claim} ({name})", SOURCE, [own > 0 for own in rises], [(f"`{after}`", rises)])


def picture(found: Sequence[Report]) -> str:
    """What is left of the best, stage by stage, with the replayed last update; the plain one is dashed."""
    lines = []
    for colour, name in enumerate(MEASURED):
        for end in ("replayed", "plain"):
            seeds = [[100 * left(report, version, name) for report in found] for version in (*PATH, end)]
            label = name if end == "replayed" else f"{name}, plain"
            lines.append(line(label, over_seeds(seeds), colour, dashed=end == "plain"))
    y_axis = Axis("left of the best in the run (%)", 0)
    names = [*PATH, "second domain"]
    return line_chart(
        names, lines, y_axis, "What is left, stage by stage", Axis("after the stage"), points=True
    )


def main(sweep: Path, page: Path | None) -> None:
    """Prints the tables, writes the picture, and puts both in the page."""
    found = reports(sweep)
    parts = {
        "values": value_table(found),
        "claims": table(["claim", "source", "here", "verdict"], claim_rows(found)),
    }
    publish(sweep, page, parts, {"stages": picture(found)})


if __name__ == "__main__":
    main(*sweep_and_page(__doc__))
