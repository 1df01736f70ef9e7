"""A sweep as plain text: its runs before they start, and the tables of what they found."""

from collections.abc import Callable
from typing import Any

import yaml

from perdure.pipeline.core.formats import format_duration, format_tokens
from perdure.pipeline.core.manifest import is_finished
from perdure.pipeline.evaluate.report.text_tables import text_table
from perdure.pipeline.evaluate.units import UNIT_NAMES
from perdure.pipeline.run.sweep.gather import row_in
from perdure.pipeline.run.sweep.schema import Fuar, Gap, Row, Spread, SweepResult
from perdure.pipeline.run.sweep.spec import SweepPlan
from perdure.pipeline.run.sweep.store import version_places

NONE = "-"
"""Stands for what is not measured."""


def plan_text(plan: SweepPlan) -> str:
    """The plan of a sweep as text: its runs, and which of their versions are shared or finished."""
    places = version_places(plan)
    users: dict = {}
    for run in plan.runs:
        for place in places[run.name].values():
            users.setdefault(place, []).append(run.name)
    lines = [f"{plan.name}: {len(plan.runs)} runs in {plan.directory}"]
    for run in plan.runs:
        parts = []
        for name, place in places[run.name].items():
            first = users[place][0]
            state = (
                "finished"
                if is_finished(place)
                else "to train"
                if first == run.name
                else f"shared with {first}"
            )
            parts.append(f"{name} {state}")
        lines.append(f"  {run.name}: {', '.join(parts)}")
    made = sum(is_finished(place) for place in users)
    lines.append(
        f"{len(users)} versions to make for {sum(map(len, users.values()))} places, {made} of them finished"
    )
    return "\n".join(lines)


def format_setting(setting: dict[str, Any]) -> str:
    """A setting in words: the last part of each field with its value."""
    parts = []
    for path, value in setting.items():
        text = value if isinstance(value, str) else yaml.safe_dump(value, default_flow_style=True, width=1000)
        text = text.removesuffix("...\n").strip()
        parts.append(text if path == "variant" else f"{path.rpartition('.')[2]} {text}")
    return ", ".join(parts) or "the recipe's own"


def sweep_table(found: SweepResult) -> str:
    """The tables of a sweep: losses in both units and cost, probes, and stability gaps."""
    unit, other = units(found)
    tables = [_losses(found, unit), _in_other_unit(found, other)]
    if kinds := probe_kinds(found):
        tables.append(_probes(found, kinds))
    if domains := gap_domains(found):
        tables.append(_gaps(found, domains, unit))
    broken = [f"{run['name']}: {run['error']}" for run in found["runs"] if run["error"]]
    parts = ["\n".join([title, "", *text_table(rows, rows[0].index("runs")), ""]) for title, rows in tables]
    return "\n".join(["", *parts, *([*broken, ""] if broken else [])])


def units(found: SweepResult) -> list[str]:
    """The unit that a sweep's losses are shown in first, and the other one."""
    return sorted(UNIT_NAMES, key=lambda unit: unit != found["unit"])


def probe_kinds(found: SweepResult) -> list[str]:
    """The kinds of probes that any row has."""
    return list(dict.fromkeys(kind for row in found["rows"] for kind in row["probes"] or ()))


def gap_domains(found: SweepResult) -> list[str | None]:
    """Domains with a stability gap in any row, after None, the mean of all."""
    gaps = [row["stability_gap"] for row in found["rows"] if row["stability_gap"]]
    domains = dict.fromkeys(domain for gap in gaps for domain in gap["domains"])
    return [None, *domains] if gaps else []


def gap_of(row: Row, domain: str | None) -> Gap[Spread] | None:
    """A row's stability gap on a domain, None being the mean of all."""
    gaps = row["stability_gap"]
    if gaps is None:
        return None
    return gaps["macro"] if domain is None else gaps["domains"].get(domain)


def format_spread(
    spread: Spread | None, of: int | None = None, words: Callable[[float], str] | None = None
) -> str:
    """A mean with its standard deviation, if there is one.

    Args:
        spread: See `perdure.pipeline.run.sweep.gather.over_runs`.
        of: How many runs could have had the number: those that do not are told.
        words: How to write a number; default: three digits.
    """
    if spread is None:
        return NONE
    words = words or "{:.3f}".format
    text = words(spread["mean"]) + ("" if spread["sd"] is None else f" ± {words(spread['sd'])}")
    return text if of is None or spread["n"] == of else f"{text} ({spread['n']} of {of})"


def format_recovery(gap: Gap[Spread] | None) -> str:
    """Tokens until a loss recovered, and in how many runs it did."""
    if gap is None or gap["depth"] is None:
        return NONE
    if gap["recovery_tokens"] is None:
        return "never"
    return format_spread(gap["recovery_tokens"], gap["depth"]["n"], lambda count: format_tokens(round(count)))


def format_fuar(ratio: Fuar[Spread] | None) -> str:
    """FUAR, and how many runs have one: those without a gain do not."""
    if ratio is None or ratio["gained"] is None:
        return NONE
    return "no gain" if ratio["value"] is None else format_spread(ratio["value"], ratio["gained"]["n"])


def _losses(found: SweepResult, unit: str) -> tuple[str, list[list[str]]]:
    head = [cell for domain in found["domains"] for cell in (domain, "")]
    rows = [[*_names(found, None), *head, "tokens", "of lineage", "tokens/s", "time"]]
    for row in found["rows"]:
        cells = [*_names(found, row), *_loss_cells(found, row, unit)]
        cells += [_mean(row[key], format_tokens) for key in ("tokens", "lineage_tokens")]
        cells += [
            _mean(row["tokens_per_second"], "{:,}".format),
            _mean(row["seconds"], format_duration),
        ]
        rows.append(cells)
    whole = sum(run["status"] == "whole" for run in found["runs"])
    over_seeds = ", mean ± standard deviation over seeds" if len(found["seeds"]) > 1 else ""
    several = len(found["compared"]) > 1
    what = "Held-out loss" + ("" if several else f" of {found['compared'][0]}")
    title = (
        f"{found['name']}: {whole} of {len(found['runs'])} runs whole. {what}, {UNIT_NAMES[unit]}{over_seeds} "
        "(change against the version it started from)"
    )
    return title, rows


def _in_other_unit(found: SweepResult, unit: str) -> tuple[str, list[list[str]]]:
    head = [cell for domain in found["domains"] for cell in (domain, "")]
    rows = [[*_names(found, row), *_loss_cells(found, row, unit)] for row in found["rows"]]
    return f"The same in {UNIT_NAMES[unit]}", [[*_names(found, None), *head], *rows]


def _loss_cells(found: SweepResult, row: Row, unit: str) -> list[str]:
    cells, shown = [], row_in(row, unit)
    for domain in found["domains"]:
        loss, change = shown["losses"][domain], shown["change"][domain]
        cells += [format_spread(loss), f"({change['mean']:+.3f})" if change else ""]
    return cells


def _probes(found: SweepResult, kinds: list[str]) -> tuple[str, list[list[str]]]:
    rows = [[*_names(found, None), *kinds, "FUAR", "FUAR to initial"]]
    for row in found["rows"]:
        probes, fuar = row["probes"] or {}, row["fuar"] or {}
        ratios = [format_fuar(fuar.get(base)) for base in ("parent", "initial")]
        rows.append([*_names(found, row), *(format_spread(probes.get(kind)) for kind in kinds), *ratios])
    title = "Share of probes answered rightly, and FUAR (accuracy dropped over gained) against the version it started from"
    return f"{title} and against the initial model", rows


def _gaps(found: SweepResult, domains: list[str | None], unit: str) -> tuple[str, list[list[str]]]:
    head = [cell for domain in domains for cell in (domain or "mean", "back after")]
    rows = [[*_names(found, None), *head]]
    for row in found["rows"]:
        gaps = [gap_of(row_in(row, unit), domain) for domain in domains]
        cells = [cell for gap in gaps for cell in (format_spread(gap and gap["depth"]), format_recovery(gap))]
        rows.append([*_names(found, row), *cells])
    rise = "the largest rise of the loss over its start while training"
    title = f"Stability gap: {rise}, {UNIT_NAMES[unit]}, and the tokens until"
    return f"{title} it is back", rows


def _names(found: SweepResult, row: Row | None) -> list[str]:
    """The first cells of a row, or of the head for None; columns with one value are left out."""
    setting, several = any(row["setting"] for row in found["rows"]), len(found["compared"]) > 1
    cells = (
        ["setting", "version", "runs"]
        if row is None
        else [format_setting(row["setting"]), row["version"], f"{len(row['runs'])} of {row['planned']}"]
    )
    return [*cells[: setting or not several], *cells[1 : 1 + several], cells[2]]


def _mean(spread: Spread | None, words: Callable[[int], str]) -> str:
    return words(round(spread["mean"])) if spread else NONE
