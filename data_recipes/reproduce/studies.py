"""Shared by the scripts of this folder: reads the reports of a sweep, and makes tables and figures over seeds."""

import argparse
import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from perdure.pipeline.core.files import read_json
from perdure.pipeline.core.paths import RunPaths
from perdure.pipeline.evaluate.report.figures import Line, standalone
from perdure.pipeline.evaluate.report.text_tables import markdown_table
from perdure.pipeline.evaluate.report_types import Report
from perdure.pipeline.evaluate.units import UNIT_NAMES, common_unit, in_unit
from perdure.pipeline.evaluate.version_types import MixturePhase


def reports(sweep: Path) -> list[Report]:
    """`report.json` of each of a sweep's runs, by name; see docs/evaluation.md.

    Raises:
        SystemExit: If a run has none: means over the other seeds would look like those of all.
    """
    found = sorted(sweep.glob("runs/*/report.json"))
    if not found:
        raise SystemExit(f"{sweep}: no runs with a report.json; run `perdure sweep` first")
    wanted = {path.name for path in sweep.glob("runs/*")}
    if (summary := RunPaths(sweep).sweep).exists():
        wanted |= {Path(run["directory"]).name for run in read_json(summary)["runs"]}
    if missing := wanted - {path.parent.name for path in found}:
        raise SystemExit(
            f"{sweep}: no report of {', '.join(sorted(missing))} yet; run the sweep to its end first"
        )
    return [read_json(path) for path in found]


def in_units(found: list[Report]) -> list[tuple[str, list[Report]]]:
    """The reports in each unit of losses, by its name; the unit in which to compare these runs comes first."""
    units = sorted(UNIT_NAMES, key=lambda unit: unit != common_unit(found))
    return [(UNIT_NAMES[unit], [_in_unit(report, unit) for report in found]) for unit in units]


def _in_unit(report: Report, unit: str) -> Report:
    """The report with its loss matrix and stability gaps in a unit."""
    own = in_unit(report, unit)
    changed = {"loss_matrix": own["loss_matrix"], "stability_gap": own["stability_gap"]}
    return cast(Report, report | changed)


def directory(description: str | None) -> Path:
    """The sweep's directory from the command line."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=description, formatter_class=raw)
    parser.add_argument("sweep", type=Path, help="the directory of `perdure sweep --out`")
    return parser.parse_args().sweep


def sweep_and_page(description: str | None) -> tuple[Path, Path | None]:
    """The sweep's directory and the page to put tables in, from the command line."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=description, formatter_class=raw)
    parser.add_argument("sweep", type=Path, help="the directory of `perdure sweep --out`")
    parser.add_argument(
        "--page", type=Path, help="a page of docs/results/ whose tables and pictures are made anew"
    )
    options = parser.parse_args()
    return options.sweep, options.page


def write_page(page: Path, parts: dict[str, str], pictures: dict[str, str]) -> None:
    """Puts tables between a page's marks, and pictures beside it.

    Args:
        page: A Markdown file. `<!-- NAME -->` begins the part of that name, `<!-- end -->` ends it.
        parts: Markdown by name.
        pictures: From `line_chart` or `scatter_chart`, by name of the file without `.svg`; the part `pictures` shows them.

    Raises:
        SystemExit: If a part has no marks.
    """
    text = page.read_text(encoding="utf-8")
    titles = {name: re.findall('aria-label="([^"]*)"', svg)[0] for name, svg in pictures.items()}
    shown = "\n".join(f"![{title}]({name}.svg)" for name, title in titles.items())
    for name, part in (parts | ({"pictures": shown} if shown else {})).items():
        marks = re.compile(rf"(<!-- {re.escape(name)} -->\n).*?(<!-- end -->)", re.DOTALL)
        if not marks.search(text):
            raise SystemExit(f"{page}: no part between `<!-- {name} -->` and `<!-- end -->`")
        text = marks.sub(rf"\g<1>{_literal(part.rstrip())}\n\g<2>", text)
    page.write_text(text, encoding="utf-8")
    for name, svg in pictures.items():
        (page.parent / f"{name}.svg").write_text(standalone(svg), encoding="utf-8")


def _literal(text: str) -> str:
    """The text as a replacement of `re.sub` that is taken as it stands."""
    return text.replace("\\", r"\\")


def publish(sweep: Path, page: Path | None, parts: dict[str, str], pictures: dict[str, str]) -> None:
    """Prints a study's tables and saves its pictures; puts both in `page` if there is one."""
    for part in parts.values():
        print(part)
    for name, svg in pictures.items():
        save(sweep, name, svg)
    if page is not None:
        write_page(page, parts, pictures)


def verdict(held: Sequence[bool]) -> str:
    """What a claim that held or did not with each seed comes to."""
    number = sum(held)
    if number == len(held):
        return "reproduced"
    return f"in {number} of {len(held)} seeds" if number else "not reproduced"


def claim_row(
    claim: str,
    source: str,
    held: Sequence[bool],
    numbers: Sequence[tuple[str, Sequence[float | None]]] = (),
    form: str = "{:+.3f}",
) -> list[str]:
    """A row of a table of claims: the claim, its source, numbers, and the verdict.

    Args:
        claim: In words.
        source: The paper.
        held: Whether it held, by seed.
        numbers: What is shown: a name, and the number by seed.
        form: Their format.
    """
    shown = [f"{name} {mean_and_sd(values, form)}" for name, values in numbers]
    return [claim, source, "; ".join(shown), verdict(held)]


def losses(report: Report, version: str) -> dict[str, float]:
    """Held-out loss of a finished version by domain, in the report's unit; see `in_units`."""
    row = [entry["id"] for entry in report["versions"]].index(version) + 1
    pairs = zip(report["domains"], report["loss_matrix"][row], strict=True)
    return {domain: loss for domain, loss in pairs if loss is not None}


def mixture_phases(report: Report, version: str) -> list[MixturePhase]:
    """The phases of a planned version's mixture."""
    (phases,) = [entry["phases"] for entry in report["versions"] if entry["id"] == version]
    assert phases is not None
    return phases


def mean_and_sd(values: Sequence[float | None], form: str = "{:.3f}") -> str:
    """Mean and, in brackets, the standard deviation (n - 1) over seeds, and how many have a value if not all do."""
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    notes = [form.replace("+", "").format(statistics.stdev(known))] if len(known) > 1 else []
    notes += [f"{len(known)} of {len(values)}"] if len(known) < len(values) else []
    return form.format(statistics.fmean(known)) + (f" ({'; '.join(notes)})" if notes else "")


@dataclass(frozen=True)
class Spread:
    """A curve over seeds: one number per place on the x axis; None leaves a gap.

    Attributes:
        mean: Means over the seeds.
        low: The lowest of them.
        high: The highest of them.
    """

    mean: list[float | None]
    low: list[float | None]
    high: list[float | None]

    def at(self, places: Sequence[int | None]) -> "Spread":
        """The same curve at some of its places; None is a gap."""
        low, mean, high = (
            [None if place is None else values[place] for place in places]
            for values in (self.low, self.mean, self.high)
        )
        return Spread(mean, low, high)


def over_seeds(values: Sequence[Sequence[float]]) -> Spread:
    """Means, lowest and highest values over seeds.

    Args:
        values: Per place on the x axis, one number per seed.
    """
    return Spread(
        [statistics.fmean(seeds) for seeds in values],
        [min(seeds) for seeds in values],
        [max(seeds) for seeds in values],
    )


def line(label: str, spread: Spread, colour: int, dashed: bool = False) -> Line:
    """The curve of the means, with a band from the lowest to the highest seed."""
    return Line(label, spread.mean, colour, dashed, low=spread.low, high=spread.high)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    return markdown_table([head, *rows]) + "\n"


def save(sweep: Path, name: str, svg: str) -> None:
    """Writes a picture of `line_chart` to `<sweep>/figures/<name>.svg`."""
    path = sweep / "figures" / f"{name}.svg"
    path.parent.mkdir(exist_ok=True)
    path.write_text(standalone(svg), encoding="utf-8")
    print(f"{path}\n")
