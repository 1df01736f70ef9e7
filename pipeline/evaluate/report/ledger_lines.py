"""Findings of a report beyond its table of losses, as lines for the console."""

from perdure.pipeline.core.formats import format_tokens
from perdure.pipeline.evaluate.dated import TIMINGS
from perdure.pipeline.evaluate.report.abilities import stage_lines
from perdure.pipeline.evaluate.report_types import Report
from perdure.pipeline.evaluate.units import NATS, UNIT_NAMES, in_unit


def ledger_lines(report: Report) -> list[str]:
    """A line per finding: changes within the noise, stability gaps, probe scores, and missing measurements."""
    return [
        *_chance(report),
        *_gaps(report),
        *_answers(report),
        *_infills(report),
        *_preferences(report),
        *stage_lines(report),
        *_missing(report),
        *_unmeasured(report),
    ]


def _chance(report: Report) -> list[str]:
    """Lines on changes whose interval includes 0."""
    level = report["intervals"]["level"]
    lines = []
    for version, domains in report["intervals"]["change"].items():
        within = [domain for domain, bounds in domains.items() if bounds and bounds[0] <= 0 <= bounds[1]]
        if within:
            lines.append(
                f"{version}: on {', '.join(within)} the change may be chance: its {level:.0%} interval over documents "
                "holds 0."
            )
    return lines


def _gaps(report: Report) -> list[str]:
    lines, unit = [], report.get("unit", NATS)
    for version, gap in in_unit(report, unit)["stability_gap"].items():
        for domain, found in gap["domains"].items():
            # What was never shown is no loss of knowledge, whichever way it moves.
            if (found["depth"] or 0) > 0 and domain in report["shown"][version]:
                back = found["recovery_tokens"]
                end = "is not back" if back is None else f"is back after {format_tokens(back)}"
                lines.append(
                    f"{version}: while it trained, the loss on {domain} rose by {found['depth']:.3f} {UNIT_NAMES[unit]}, "
                    f"most after {format_tokens(found['worst_tokens'])} tokens, and {end}."
                )
    return lines


def _answers(report: Report) -> list[str]:
    """Lines on each version's probe accuracies, with changes against what it started from."""
    probes, lines = report["probes"], list[str]()
    if probes is None:
        return lines
    for row, version in enumerate(report["versions"], start=1):
        changed = probes["change"].get(version["id"], {}).get("parent", {})
        for file, kinds in (probes["scores"][row] or {}).items():
            parts = [
                f"{kind} {entry['correct']} of {entry['items']}{_guessed(entry)}{_movement(changed.get(file, {}).get(kind))}"
                for kind, entry in kinds.items()
            ]
            lines.append(f"{version['id']}: {file}: {', '.join(parts)}{_leaked(report, file)}")
        lines += dated_lines(version["id"], (probes.get("split") or {row: None})[row])
        if (fuar := probes["fuar"].get(version["id"], {}).get("parent")) is not None:
            lines.append(f"{version['id']}: {format_fuar(fuar)}")
    return lines


def _infills(report: Report) -> list[str]:
    """Lines on what the middles of held-out documents cost each version, beside the loss left to right."""
    unit, lines = report.get("unit", NATS), list[str]()
    key, matrix = ("loss" if unit == NATS else "bits_per_byte"), in_unit(report, unit)["loss_matrix"]
    for source, rows in (report.get("fill_in_the_middle") or {}).items():
        column = report["domains"].index(source)
        for row, version in enumerate(report["versions"], start=1):
            if (found := rows[row]) and (whole := matrix[row][column]) is not None:
                lines.append(
                    f"{version['id']}: filling in middles of {source} costs {found[key]:.3f} {UNIT_NAMES[unit]}, "
                    f"left to right {whole:.3f}."
                )
    return lines


def _preferences(report: Report) -> list[str]:
    """Lines on how often each version finds the preferred answer likelier."""
    return [
        f"{version['id']}: the preferred answer of {source} is the likelier one by byte in {found['win_rate']:.0%} of "
        f"{found['pairs']:,} pairs"
        + ("." if found["accuracy"] is None else f", and has gained on the other in {found['accuracy']:.0%}.")
        for source, rows in (report.get("preferences") or {}).items()
        for version, found in zip(report["versions"], rows[1:])
        if found
    ]


def dated_lines(version: str, found: dict | None) -> list[str]:
    """Lines on a version's dated probes, split by its cut-off."""
    if found is None:
        return []
    if found["refused"]:
        return [
            f"{version}: dated probes are not split, since its newest text is unknown: {found['refused']}"
        ]
    lines = []
    for file, kinds in found["files"].items():
        parts = [
            f"{words} {kinds[kind]['correct']} of {kinds[kind]['items']}{_guessed(kinds[kind])}"
            for kind, words in TIMINGS.items()
            if "correct" in kinds.get(kind, {})
        ]
        parts.append(f"undecided {kinds['undecided']['items']}")
        parts += [f"without date {undated}"] if (undated := kinds["undated"]["items"]) else []
        lines.append(f"{version}: {file}, newest text {found['cutoff']}: {', '.join(parts)}")
    return lines


def _leaked(report: Report, file: str) -> str:
    """How many items of a probe file are in the training data."""
    found = (report["contamination"] or {}).get("probes", {}).get(file)
    return f"; {found['leaked']} of {found['items']} items leaked" if found and found["leaked"] else ""


def _movement(change: dict | None) -> str:
    if change is None:
        return ""
    chance = ", within chance" if change.get("within_chance") else ""
    return (
        f" ({100 * change['change']:+.1f} points: {change['gained']} gained, {change['lost']} lost{chance})"
    )


def _guessed(entry: dict) -> str:
    """Whether an accuracy may be that of guessing, and the share of old answers."""
    chance = f", guessing gives {entry['chance']:.0%}" if entry.get("within_chance") else ""
    old = f", old answer {entry['old']:.0%}" if entry.get("old") is not None else ""
    return chance + old


def format_fuar(fuar: dict) -> str:
    """FUAR with its interval, its verdict, and the changes that its formula leaves out."""
    words = "no gain, so no FUAR"
    if fuar["value"] is not None:
        low, high = (
            "unbounded" if end is None else f"{end:.2f}" for end in fuar.get("interval") or (None, None)
        )
        span = f" ({low} to {high})" if fuar.get("interval") else ""
        words = f"FUAR {fuar['value']:.2f}{span}, {'within chance' if fuar.get('within_chance') else fuar['words']}"
    left = [f"{kind} {100 * change:+.1f} points" for kind, change in fuar.get("uncounted", {}).items()]
    return f"{words}; taken for 0: {', '.join(left)}" if left else words


def _unmeasured(report: Report) -> list[str]:
    if not report["unmeasured"]:
        return []
    names = ", ".join(report["unmeasured"])
    return [
        f"No losses of {names}: not measured on this recipe's held-out text and probes. `perdure eval` does it."
    ]


def _missing(report: Report) -> list[str]:
    missing = report["intervals"]["missing"]
    models = ["the initial model"] * missing["initial"] + missing["versions"]
    if not models:
        return []
    return [
        f"No intervals for {', '.join(models)}: measured before documents were kept apart. `perdure eval` measures "
        "finished versions again."
    ]
