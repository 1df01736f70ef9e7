"""The report as one HTML file that opens offline: a pure function of `report.json`."""

from collections.abc import Callable

from perdure.pipeline.core.kernel_words import fp8_words
from perdure.pipeline.evaluate.bootstrap import doubt
from perdure.pipeline.evaluate.report import abilities
from perdure.pipeline.evaluate.report.date_chart import date_charts
from perdure.pipeline.evaluate.report.figures import SERIES_COLOURS, Axis, Line, histogram, line_chart
from perdure.pipeline.evaluate.report.formats import (
    cost_lines,
    format_change,
    format_layout,
    format_mixture,
    format_origin,
    heldout_text,
    verdict,
)
from perdure.pipeline.evaluate.report.harness_scores import harness_rows
from perdure.pipeline.evaluate.report.html import SHARED, render
from perdure.pipeline.evaluate.report.ledger_lines import format_fuar
from perdure.pipeline.evaluate.report_types import Report
from perdure.pipeline.evaluate.units import BITS, NATS, UNIT_NAMES, in_unit
from perdure.pipeline.evaluate.version_types import VersionSummary
from perdure.pipeline.plan.cutoffs import cutoff_words

LEDGER = (
    "macro",
    "labels",
    "probes",
    "fill_in_the_middle",
    "preferences",
    "contamination",
    "harness_initial",
)
"""Keys of a report that are null or missing where nothing was measured, see docs/evaluation.md."""
LOSS_AXIS = Axis("training loss (nats per token)")
_MARKED = 8
"""Most changes of the mixture that are labelled in a chart."""
_STRONGEST = 60
"""Percent of colour behind the strongest cell; more would hurt the contrast of its text."""


def render_page(report: Report, version: str | None = None) -> str:
    """Renders the page.

    Args:
        report: What `build_report` returns (or `report.json` holds).
        version: The version that the page is about; without one, it is about all of the run.

    Returns:
        HTML; equal arguments give equal bytes.
    """
    filters: dict[str, Callable[..., str]] = {
        "verdict": verdict,
        "mixture": format_mixture,
        "origin": format_origin,
        "layout": format_layout,
        "fp8": fp8_words,
        "fuar": format_fuar,
        "cutoff": cutoff_words,
        "perplexity": "{:,.4g}".format,
    }
    row_of = {entry["id"]: row for row, entry in enumerate(report["versions"], start=1)}
    path = _path(report["versions"], version)
    shown = [entry for entry in path if version in (None, entry["id"])]
    names = [entry["id"] for entry in shown]
    unit = report.get("unit", NATS)
    own, other = in_unit(report, unit), in_unit(report, BITS if unit == NATS else NATS)
    gaps = {name: gap for name, gap in own["stability_gap"].items() if name in names}
    return render(
        SHARED,
        "page.html",
        filters,
        report=report | {"versions": path},
        title=f"{report['name']}: {version}" if version else report["name"],
        one=version is not None,
        shown=shown,
        known=[entry["id"] for entry in path],
        row_of=row_of,
        in_matrix=[(entry["id"], row_of[entry["id"]]) for entry in path],
        unit=UNIT_NAMES[unit],
        other_unit=UNIT_NAMES[BITS if unit == NATS else NATS],
        matrix=own["loss_matrix"],
        other=other["loss_matrix"],
        change=own["change"],
        ranges=own["intervals"],
        metrics=own,
        best=[_best(column) for column in zip(*own["loss_matrix"])],
        texts=[heldout_text(*text) for text in report.get("heldout", {}).items()],
        ledger={key: report.get(key) for key in LEDGER}
        | {"intervals": report.get("intervals") or {"change": {}}},
        abilities=abilities.shown(report, [entry["id"] for entry in path]),
        in_bits=unit == BITS,
        scores=harness_rows(report, [entry["id"] for entry in path]),
        gaps={
            name: gap | {"chart": _gap_chart(report, name, gap, UNIT_NAMES[unit])}
            for name, gap in gaps.items()
        },
        date_charts=date_charts(report, [entry["id"] for entry in path]),
        tree=_tree(path, None),
        charts={entry["id"]: _charts(report, entry) for entry in shown if entry["id"] in report["curves"]},
        chosen={name: _histogram(name, report["chosen"][name]) for name in names if name in report["chosen"]},
        passages={name: _passage(report["passages"][name]) for name in names if name in report["passages"]},
        colour={domain: i % SERIES_COLOURS for i, domain in enumerate(report["domains"])},
        cost=cost_lines(report) if "cost" in report and version is None else [],
        shade=_shade,
        judge=lambda name, domain: _judge(report, name, domain),
        heat=_heat,
    )


def _path(versions: list[VersionSummary], name: str | None) -> list[VersionSummary]:
    """The versions from the root to one of them; all of them without a name."""
    if name is None:
        return versions
    by_name, path = {version["id"]: version for version in versions}, list[VersionSummary]()
    while name is not None:
        path.insert(0, by_name[name])
        name = by_name[name]["parent"]
    return path


def _best(losses: tuple[float | None, ...]) -> float | None:
    return min((loss for loss in losses if loss is not None), default=None)


def _tree(versions: list[VersionSummary], parent: str | None) -> list[tuple[VersionSummary, list]]:
    """Versions below `parent`, each with the versions below it."""
    return [(version, _tree(versions, version["id"])) for version in versions if version["parent"] == parent]


# ------------------------------------------------------------------------------------------- colours


def _judge(report: Report, name: str, domain: str) -> str:
    """Verdict on a change of a loss: `better`, `worse`, `unchanged`, or why it is not significant."""
    change = next(version for version in report["versions"] if version["id"] == name)["change"][domain]
    intervals = report.get("intervals") or {"change": {}}
    bounds = intervals["change"].get(name, {}).get(domain)
    if domain not in report["shown"][name]:
        return "not shown"
    if bounds and (reason := doubt(bounds, intervals["documents"][domain])):
        return reason
    return "" if change is None else verdict(change)


def _shade(change: float | None, judged: str) -> str:
    """CSS background of a cell: blue for a lower loss, orange for a higher one, stronger for larger changes."""
    if change is None or judged not in ("better", "worse"):
        return "transparent"
    return _tint(f"--{judged}", abs(change) / (abs(change) + 0.5))


def _heat(excess: float | None) -> str:
    """CSS background of a token: stronger for larger excess loss, none without."""
    if excess is None or excess <= 0:
        return "transparent"
    return _tint("--excess", excess / (excess + 1))


def _tint(colour: str, strength: float) -> str:
    return f"color-mix(in srgb, var({colour}) {_STRONGEST * strength:.0f}%, transparent)"


# ------------------------------------------------------------------------------------------- figures


def _charts(report: Report, version: VersionSummary) -> list[str]:
    """A version's charts: loss per source, learning rate, mixture and selection."""
    curve, name = report["curves"][version["id"]], version["id"]
    tokens = curve["tokens"]
    colours = {domain: i for i, domain in enumerate(report["domains"])}
    lines = []
    for key, values in curve["source_loss"].items():
        source, replay = key.removeprefix("replay/"), key.startswith("replay/")
        lines.append(Line(f"{source} (replay)" if replay else source, values, colours[source], dashed=replay))
    if len(lines) > 1:
        lines.append(Line("all", curve["loss"], ink=True))
    changes = (version["phases"] or [])[1:]
    named = len(changes) <= _MARKED
    marks = [(phase["after_tokens"], phase["reason"] if named else "") for phase in changes]
    phases = [(phase["after_tokens"], phase["phase"]) for phase in version["schedule_phases"]]
    phases = [phase for phase in phases if phase[0] <= tokens[-1]]
    rates = [Line("lr", curve["lr"], ink=True)]
    charts = [
        line_chart(tokens, lines, LOSS_AXIS, f"{name}: training loss by source", marks=marks),
        line_chart(tokens, rates, Axis("learning rate", 0), f"{name}: learning rate", marks=phases),
    ]
    if changes:
        charts.append(_mixture_chart(version, tokens[-1], colours))
    if version["selection"]:
        split = [
            Line("selected tokens", curve["loss_selected"], 3),
            Line("other tokens", curve["loss_unselected"], 7, dashed=True),
        ]
        fraction = [Line("selected", curve["selected_fraction"], ink=True)]
        charts += [
            line_chart(tokens, split, LOSS_AXIS, f"{name}: loss by selection"),
            line_chart(
                tokens, fraction, Axis("selected share of tokens", 0, 1), f"{name}: selected share of tokens"
            ),
        ]
    return charts


def _mixture_chart(version: VersionSummary, end: int, colours: dict[str, int]) -> str:
    """Chart of the planned shares of a mixture over a version's tokens."""
    phases = version["phases"] or []
    starts = [phase["after_tokens"] for phase in phases]
    ends = [*starts[1:], max(end, starts[-1])]
    places = [place for pair in zip(starts, ends) for place in pair]
    lines = []
    for member in version["mixture"]:
        shares = [phase["shares"].get(member["key"], 0) for phase in phases for _ in range(2)]
        label = f"{member['source']} (replay)" if member["replay"] else member["source"]
        lines.append(Line(label, shares, colours.get(member["source"], 0), dashed=member["replay"]))
    y_axis = Axis("share of tokens in the mixture", 0)
    return line_chart(places, lines, y_axis, f"{version['id']}: mixture over time")


def _gap_chart(report: Report, name: str, gap: dict, unit: str) -> str:
    """Chart of held-out losses while a version trained."""
    colours = {domain: i for i, domain in enumerate(report["domains"])}
    lines = [Line(domain, losses, colours.get(domain, 0)) for domain, losses in gap["loss"].items()]
    y_axis = Axis(f"held-out loss ({unit})")
    return line_chart(gap["tokens"], lines, y_axis, f"{name}: held-out loss while training")


def _histogram(name: str, found: dict) -> str | None:
    """Histogram of selected tokens by excess loss; None under another score."""
    if found["excess_edges"] is None:
        return None
    parts = [("selected", found["excess_selected"], 3), ("other tokens", found["excess_other"], 7)]
    return histogram(
        found["excess_edges"], parts, "excess loss (nats)", "tokens", f"{name}: tokens by excess loss"
    )


def _passage(passage: dict) -> dict:
    """A passage's tokens with printable text, and their losses as titles."""
    tokens = []
    columns = ("tokens", "loss", "reference_loss", "excess", "selected")
    for text, loss, reference, excess, selected in zip(*(passage[key] for key in columns), strict=True):
        compared = (
            "no reference loss"
            if excess is None
            else f"reference {reference:.2f}, excess {format_change(excess)}"
        )
        tokens.append(
            {
                "text": printable(text),
                "selected": selected,
                "excess": excess,
                "title": f"loss {loss:.2f}, {compared}, {'selected' if selected else 'not selected'}",
            }
        )
    return {"source": passage["source"], "tokens": tokens, "selected": passage["selected_count"]}


def printable(text: str) -> str:
    """Text with visible signs for line ends and control characters; a dot for an empty token."""
    pictures = {code: chr(0x2400 + code) for code in range(32) if chr(code) not in "\t\n"}
    return text.translate(pictures | {0x7F: "\u2421", ord("\n"): "\u23ce\n"}) or "\u00b7"
