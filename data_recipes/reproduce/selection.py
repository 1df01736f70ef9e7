"""Tables and figures of ../noisy_web.yaml: loss on clean text under each kind of selection, and how much noise each keeps.

python data_recipes/reproduce/selection.py runs/selection
"""

import statistics
from pathlib import Path

from perdure.data_recipes.reproduce.noise import CLEAN, measure
from perdure.data_recipes.reproduce.studies import (
    directory,
    in_units,
    line,
    losses,
    mean_and_sd,
    over_seeds,
    reports,
    save,
    table,
)
from perdure.pipeline.core.paths import RunPaths
from perdure.pipeline.evaluate.report.figures import Axis, Line, line_chart
from perdure.pipeline.evaluate.report_types import Report
from perdure.pipeline.recipe import load_recipe

SOURCE, YARDSTICK, CONTROL = "noisy", "clean", "plain"
TOKENS, SMOOTHING = 40_000, 16
"""Training tokens that are chosen from again, and the neighbours in `smoothed`."""
ARMS = {
    "excess": "excess",
    "random": "random",
    "highest_loss": "highest_loss",
    "reference_loss": "reference_loss",
    "intersection": "intersection",
    "smoothed": f"reference_loss +-{SMOOTHING}",
}
"""Versions that select, and the names of their ways of choosing in `measure`."""
ROWS = {
    **{f"`{arm}`": (arm, arm, way) for arm, way in ARMS.items()},
    **{f"`{arm}`, first step": (arm, "base", arm) for arm in ("excess", "highest_loss")},
}
"""Rows of the table of noise: the version that selects, the one whose losses count, the way of choosing."""


def chosen(run: Path) -> dict[str, dict]:
    """By row of `ROWS` what its selection keeps in one run: `rates` and `separation`, see `measure`."""
    recipe, found, made = load_recipe(RunPaths(run).version("excess").recipe, out=run), {}, {}
    for row, (arm, trainee, way) in ROWS.items():
        if (arm, trainee) not in made:
            made[arm, trainee] = measure(recipe, arm, SOURCE, TOKENS, SMOOTHING, trainee)
        found[row] = made[arm, trainee]["ways"][way]
    return found


def gains(found: list[Report]) -> str:
    """Table of final losses on clean text, and of their differences to plain training by seed."""
    rows = []
    for version in ("base", "reference", CONTROL, *ARMS):
        each = [losses(report, version)[YARDSTICK] for report in found]
        less = [loss - losses(report, CONTROL)[YARDSTICK] for loss, report in zip(each, found, strict=True)]
        rows.append(
            [
                f"`{version}`",
                *(f"{loss:.3f}" for loss in each),
                mean_and_sd(each),
                mean_and_sd(less, "{:+.3f}"),
            ]
        )
    seeds = [f"seed {number + 1}" for number in range(len(found))]
    return table(["version", *seeds, "mean", f"less `{CONTROL}`"], rows)


def kept(each: list[dict[str, dict]]) -> str:
    """Table of the shares of clean tokens and of each kind of noise that are kept, over seeds."""
    kinds = [CLEAN, "noise", *sorted(each[0]["`excess`"]["rates"].keys() - {CLEAN, "noise"})]
    rows = []
    for row in ROWS:
        rates = [run[row]["rates"] for run in each]
        ratios = [found["noise"] / found[CLEAN] for found in rates]
        cells = [mean_and_sd([found[kind] for found in rates]) for kind in kinds]
        rows.append(
            [
                row,
                *cells,
                mean_and_sd(ratios, "{:.2f}"),
                mean_and_sd([run[row]["separation"] for run in each]),
            ]
        )
    return table(["chosen by", *kinds, "noise / clean", "AUC"], rows)


def clean_loss(found: list[Report], unit: str) -> str:
    """Chart of the loss on clean text while training."""
    lines = []
    for colour, arm in enumerate((CONTROL, *ARMS)):
        gaps = [report["stability_gap"][arm] for report in found]
        spread = over_seeds(list(zip(*(gap["loss"][YARDSTICK] for gap in gaps), strict=True)))
        lines.append(line(arm, spread, colour))
    title = "Clean text, by what the noisy text is chosen by"
    return line_chart(gaps[0]["tokens"], lines, Axis(f"held-out loss, {unit}"), title)


def kinds_kept(each: list[dict[str, dict]]) -> str:
    """Chart of the shares kept, by kind of text."""
    kinds = [CLEAN, *sorted(each[0]["`excess`"]["rates"].keys() - {CLEAN, "noise"})]
    lines = [
        Line(
            arm, [statistics.fmean(run[f"`{arm}`"]["rates"][kind] for run in each) for kind in kinds], colour
        )
        for colour, arm in enumerate(ARMS, 1)
    ]
    title = "What is kept of each kind of text"
    y_axis = Axis("share of its tokens selected", 0, 1)
    return line_chart(kinds, lines, y_axis, title, Axis("kind"), points=True)


def main(sweep: Path) -> None:
    """Prints the tables and writes the figures."""
    both = in_units(reports(sweep))
    for unit, found in both:
        print(f"Loss on clean text in the end, {unit}\n")
        print(gains(found))
    unit, found = both[0]
    save(sweep, "selection-clean", clean_loss(found, unit))
    each = [chosen(path.parent) for path in sorted(sweep.glob("runs/*/report.json"))]
    print(
        f"Shares of {TOKENS:,} training tokens that are selected, with the finished models unless it says otherwise\n"
    )
    print(kept(each))
    save(sweep, "selection-noise", kinds_kept(each))


if __name__ == "__main__":
    main(directory(__doc__))
