"""Tables and picture of averages.yaml: averages of checkpoints beside decays of the learning rate over the same steps.

python data_recipes/reproduce/averages.py runs/averages --page docs/results/averages.md
"""

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from perdure.data_recipes.reproduce.studies import (
    claim_row,
    in_units,
    line,
    losses,
    mean_and_sd,
    over_seeds,
    publish,
    reports,
    sweep_and_page,
    table,
)
from perdure.pipeline.evaluate.report.figures import Axis, Line, line_chart
from perdure.pipeline.evaluate.report_types import Report

DOMAIN, CONTROL = "english", "constant"
WINDOWS = (40, 80, 160)
"""Steps over which the rate decays, or checkpoints are averaged."""
SHAPES = ("average_80", "linear_80", "inverse_sqrt_80")
SOURCE = "WSM 2025"


def loss(report: Report, version: str) -> float:
    """Held-out loss of a version."""
    return losses(report, version)[DOMAIN]


def less(report: Report, version: str, other: str = CONTROL) -> float:
    """Loss of a version less that of another one."""
    return loss(report, version) - loss(report, other)


def spread(report: Report, versions: Sequence[str]) -> float:
    """The highest of some losses less the lowest."""
    found = [loss(report, version) for version in versions]
    return max(found) - min(found)


def losses_by_window(found: Sequence[Report]) -> str:
    """The loss by length of the window, decayed and averaged, and how they differ."""
    rows = [["`constant`", mean_and_sd([loss(report, CONTROL) for report in found]), "", "", ""]]
    for window in WINDOWS:
        decay, average = f"decay_{window}", f"average_{window}"
        rows.append(
            [
                f"{window} steps",
                mean_and_sd([loss(report, decay) for report in found]),
                mean_and_sd([loss(report, average) for report in found]),
                mean_and_sd([less(report, average) for report in found], "{:+.3f}"),
                mean_and_sd([less(report, average, decay) for report in found], "{:+.3f}"),
            ]
        )
    return table(
        ["window", "decayed", "averaged", "averaged, less `constant`", "averaged, less decayed"], rows
    )


def losses_by_shape(found: Sequence[Report]) -> str:
    """The loss by weights of the checkpoints, over one window."""
    rows = [
        [
            f"`{version}`",
            mean_and_sd([loss(report, version) for report in found]),
            mean_and_sd([less(report, version) for report in found], "{:+.3f}"),
        ]
        for version in (*SHAPES, "ema")
    ]
    return table(["version", "loss", "less `constant`"], rows)


def claim_rows(found: Sequence[Report]) -> list[list[str]]:
    """The paper's claims, each held against every seed."""
    averages = [f"average_{window}" for window in WINDOWS]
    gains = {name: [less(report, name) for report in found] for name in averages}
    best_less = [best(report, "average") - best(report, "decay") for report in found]
    windows, weights = ([spread(report, names) for report in found] for names in (averages, SHAPES))
    worst = [max(less(report, name) for name in averages) for report in found]
    return [
        claim_row(
            "averaging gains on the end of a constant rate",
            SOURCE,
            [value < 0 for value in worst],
            [(f"`{name}`", values) for name, values in gains.items()],
        ),
        claim_row(
            "the best average is better than the best decay",
            SOURCE,
            [value < 0 for value in best_less],
            [("average less decay", best_less)],
        ),
        claim_row(
            "the window's length matters more than the weights",
            SOURCE,
            [window > weight for window, weight in zip(windows, weights, strict=True)],
            [("range over windows", windows), ("over weights", weights)],
            "{:.3f}",
        ),
        claim_row(
            "a running average is the weakest choice",
            SOURCE,
            [less(report, "ema") > value for report, value in zip(found, worst, strict=True)],
            [("`ema` less the mean of the windows", [ema_gap(report) for report in found])],
        ),
    ]


def best(report: Report, kind: str) -> float:
    """The lowest loss over the windows of `average` or `decay`."""
    return min(loss(report, f"{kind}_{window}") for window in WINDOWS)


def ema_gap(report: Report) -> float:
    """Loss of the running average less the mean over the windows."""
    return loss(report, "ema") - fmean(loss(report, f"average_{window}") for window in WINDOWS)


def picture(found: Sequence[Report], unit: str) -> str:
    """Losses over the length of the window, less that of the constant run, seed by seed."""
    lines: list[Line] = []
    for colour, (kind, label) in enumerate(
        {"decay": "decayed rate", "average": "average of checkpoints"}.items()
    ):
        seeds = [[less(report, f"{kind}_{window}") for report in found] for window in WINDOWS]
        lines.append(line(label, over_seeds(seeds), colour))
    x_axis = Axis("last steps decayed or averaged over")
    y_axis = Axis(f"loss, less the constant run's ({unit})")
    return line_chart(WINDOWS, lines, y_axis, "Loss by length of the window", x_axis, points=True)


def main(sweep: Path, page: Path | None) -> None:
    """Prints the tables, writes the picture, and puts both in the page."""
    unit, found = in_units(reports(sweep))[0]
    parts = {
        "windows": losses_by_window(found),
        "weights": losses_by_shape(found),
        "claims of averages": table(["claim", "source", f"here ({unit})", "verdict"], claim_rows(found)),
    }
    publish(sweep, page, parts, {"averages": picture(found, unit)})


if __name__ == "__main__":
    main(*sweep_and_page(__doc__))
