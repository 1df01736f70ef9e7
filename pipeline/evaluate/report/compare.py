"""`perdure compare`: versions of several runs side by side, from their reports."""

from pathlib import Path
from typing import Any

from perdure.pipeline.core.console import duration_words, tokens_words
from perdure.pipeline.core.errors import PerdureError
from perdure.pipeline.core.files import read_json
from perdure.pipeline.core.pages import render
from perdure.pipeline.core.paths import VERSIONS, RunPaths
from perdure.pipeline.evaluate.bootstrap import LEVEL, decided, doubt, interval
from perdure.pipeline.evaluate.report.paired import Drawn, Measured, drawn_losses, read_measured
from perdure.pipeline.evaluate.report.words import hours_words, signed
from perdure.pipeline.evaluate.units import BITS, NATS, WORDS, common_unit, in_unit

COPIED = (
    "status",
    "tokens",
    "lineage_tokens",
    "tokens_per_second",
    "seconds",
    "device",
    "device_hours",
    "mfu",
    "selected_fraction",
)


def compare(places: list[Path]) -> dict[str, Any]:
    """Gathers what is compared.

    Args:
        places: Directories of runs, of which all versions that were measured are taken, or of versions
            (`RUN/versions/NAME`). A version that is named twice counts where it is named first.

    Returns:
        JSON-serialisable, null where something is not measured: `domains`; `rows`, per version `run`, `version`,
        `parent`, `losses` and `change` (against the version it started from) by domain, `acc`, `bwt` and `forgetting` in nats
        per token, `bits_per_byte` by domain, `in_bits_per_byte` (`change`, `acc`, `bwt`, `forgetting`, `against_first`), by domain
        `against_first`: the loss less that of the first row with a loss on it, see `_against`, and of its report
        `status`, `tokens`, `lineage_tokens`,
        `tokens_per_second`, `seconds`, `device`, `device_hours` (of GPUs or CPU cores), `mfu`, `selected_fraction`;
        `measure`, which of `losses` and `bits_per_byte` is shown: the latter wherever tokenizers differ, or domains' tokens
        hold unlike amounts of text; `best`, the lowest of it by domain, null if the interval of its difference to any other does
        not leave out 0, or if there is none; `level` of intervals; `notes`, lines on what makes rows incomparable.

    Raises:
        PerdureError: If a directory is none of a run with a report, or there is nothing to compare.
    """
    rows: list[dict] = []
    models: list[Measured] = []
    reports: dict[str, dict] = {}
    tokenizers: dict[str, str] = {}
    measured: dict[str, dict[tuple, str]] = {}
    for place in places:
        run, name = (place.parent.parent, place.name) if place.parent.name == VERSIONS else (place, None)
        if not RunPaths(run).report.exists():
            raise PerdureError(
                f"{place}: no run with a report; name the directory of a run (which has `report.json`), or a version's, "
                "as in runs/NAME/versions/V"
            )
        report = read_json(RunPaths(run).report)
        known = {version["id"]: version for version in report["versions"]}
        if name is not None and name not in known:
            raise PerdureError(f"{place}: {run} has no version {name}; it has {', '.join(known)}")
        reports[str(run)] = report
        tokenizers |= {data["tokenizer_hash"]: str(run) for data in report["data"].values() if data}
        for version in known.values():
            if _wanted(version, name):
                if (str(run), version["id"]) not in {(row["run"], row["version"]) for row in rows}:
                    rows.append(_row(report, str(run), version))
                    models.append(read_measured(run, report, version["id"]))
                for domain, found in (version["evaluation"] or {}).items():
                    key = found["documents"], found["tokens"], found["bytes"]
                    measured.setdefault(domain, {}).setdefault(key, str(run))
    if not rows:
        raise PerdureError(
            f"{', '.join(map(str, places))}: no version there is finished and measured; `perdure run RECIPE` does both"
        )
    domains = list(dict.fromkeys(domain for row in rows for domain in row["losses"]))
    unit = common_unit(reports.values())
    measure = "bits_per_byte" if unit == BITS else "losses"
    best, why = {}, dict[tuple[str, str], list[str]]()
    for domain in domains:
        members = [number for number, row in enumerate(rows) if row[measure].get(domain) is not None]
        drawn = drawn_losses([models[number] for number in members], domain)
        best[domain] = _best([rows[number][measure][domain] for number in members], drawn, unit)
        for place, number in enumerate(members[1:], start=1):
            row, first = rows[number], rows[members[0]]
            row["against_first"][domain] = _against(row, first, domain, place, drawn, NATS)
            row["in_bits_per_byte"]["against_first"][domain] = _against(
                row, first, domain, place, drawn, BITS
            )
            if drawn.why[place]:
                reason = domain, drawn.why[place]
                why.setdefault(reason, []).append(f"{row['run']}/{row['version']}")
    return {
        "domains": domains,
        "rows": rows,
        "measure": measure,
        "level": LEVEL,
        "best": best,
        "notes": [
            *_notes(tokenizers, measured),
            *(
                f"{domain}: no interval for {', '.join(names)}: {reason}."
                for (domain, reason), names in why.items()
            ),
        ],
    }


def _against(
    row: dict, first: dict, domain: str, place: int, drawn: Drawn, unit: str
) -> dict[str, Any] | None:
    """What a row's loss on a domain is less the first one's, in a unit, pairing documents; None without pairs in this unit.

    `difference`, its `interval`, over how many `documents`, and `doubt`: `within the noise`, `too few documents`, or empty.
    """
    key = "losses" if unit == NATS else "bits_per_byte"
    span = interval(drawn.values[unit][place] - drawn.values[unit][0])
    if span is None:
        return None
    return {
        "difference": row[key][domain] - first[key][domain],
        "interval": span,
        "documents": drawn.documents,
        "doubt": doubt(span, drawn.documents),
    }


def _best(losses: list[float], drawn: Drawn, unit: str) -> float | None:
    """The lowest of some models' losses, if it is lower than every other one by more than chance."""
    lowest = min(losses)
    winner, values = losses.index(lowest), drawn.values[unit]
    others = [number for number, loss in enumerate(losses) if loss > lowest]
    spans = [interval(values[number] - values[winner]) for number in others]
    return lowest if spans and all(decided(span, drawn.documents) for span in spans) else None


def _wanted(version: dict, name: str | None) -> bool:
    return version["id"] == name if name else version["evaluation"] is not None


def _row(report: dict, run: str, version: dict) -> dict[str, Any]:
    name = version["id"]
    evaluation = version["evaluation"] or {}
    return {
        "run": run,
        "version": name,
        "parent": version["parent"],
        "losses": {domain: found["loss"] for domain, found in evaluation.items()},
        "bits_per_byte": {domain: found["bits_per_byte"] for domain, found in evaluation.items()},
        **_changes(report, version, NATS),
        "against_first": {},
        "in_bits_per_byte": _changes(report, version, BITS) | {"against_first": {}},
        **{key: version.get(key) for key in COPIED},
    }


def _changes(report: dict, version: dict, unit: str) -> dict[str, Any]:
    """A version's `change` by domain, `acc`, `bwt` and mean `forgetting` in a unit, null in what an earlier release left out."""
    name, metrics = version["id"], report if unit == NATS else report.get("in_bits_per_byte", {})
    return {
        "change": in_unit(report, unit)["change"][name],
        **{key: metrics.get(key, {}).get(name) for key in ("acc", "bwt")},
        "forgetting": metrics.get("forgetting", {}).get(name, {}).get("mean"),
    }


def _differ(kinds: dict[tuple, str]) -> bool:
    """Whether a domain was measured on different texts: their numbers of documents or bytes differ."""
    return len({(documents, count) for documents, _, count in kinds}) > 1


def _notes(tokenizers: dict[str, str], measured: dict[str, dict[tuple, str]]) -> list[str]:
    notes = []
    if len(tokenizers) > 1:
        notes.append(
            "The runs have different tokenizers, so that losses per token have different meanings: these are bits per byte "
            f"({', '.join(f'{run}: {key[:8]}' for key, run in tokenizers.items())})."
        )
    for domain, kinds in measured.items():
        if _differ(kinds):
            texts = ", ".join(f"{documents:,} documents in {run}" for (documents, *_), run in kinds.items())
            notes.append(
                f"{domain} was measured on different held-out text: {texts}; none is called the lowest."
            )
    return notes


def compare_table(found: dict[str, Any]) -> str:
    """What was gathered as plain text; the lowest loss of a domain has a star."""
    head = [cell for domain in found["domains"] for cell in (domain, "")]
    metrics = {"ACC": "acc", "BWT": "bwt", "forgetting": "forgetting"}
    cells = [["run", "version", *head, *metrics, *"tokens tokens/s MFU time".split(), "GPU or core h"]]
    for row in found["rows"]:
        line = [row["run"], row["version"]]
        changes = row if found["measure"] == "losses" else row["in_bits_per_byte"]
        for domain in found["domains"]:
            loss = row[found["measure"]].get(domain)
            change = changes["change"].get(domain)
            star = "*" if loss is not None and loss == found["best"][domain] else " "
            line.append("-" if loss is None else f"{loss:.3f}{star}")
            line.append("" if change is None else f"({change:+.3f})")
        line += ["-" if changes[key] is None else f"{changes[key]:+.3f}" for key in metrics.values()]
        line.append(tokens_words(row["tokens"]))
        line.append("-" if row["tokens_per_second"] is None else f"{row['tokens_per_second']:,.0f}")
        line.append("-" if row["mfu"] is None else f"{row['mfu']:.1%}")
        line.append("-" if row["seconds"] is None else duration_words(row["seconds"]))
        line.append("-" if row["device_hours"] is None else hours_words(row["device_hours"], row["device"]))
        cells.append(line)
    unit = WORDS[NATS if found["measure"] == "losses" else BITS]
    title = (
        f"Held-out loss, {unit} (change against the version it started from); * is the lowest of its column, by an interval "
        "that leaves out 0 against every other"
    )
    parts = [title, "", *_lines(cells)]
    if len(found["rows"]) > 1:
        paired = [["run", "version", *found["domains"]]]
        paired += [[row["run"], row["version"], *_paired_cells(found, row)] for row in found["rows"]]
        head = f"Less the first version with a loss on the domain, {unit}, and its {found['level']:.0%} interval over documents, in pairs"
        parts += ["", head, "", *_lines(paired)]
    notes = [f"note: {note}" for note in found["notes"]]
    return "\n".join([*parts, *([""] if notes else []), *notes])


def _lines(cells: list[list[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*cells)]
    lines = [
        "  ".join(
            cell.ljust(width) if place < 2 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(line, widths))
        ).rstrip()
        for line in cells
    ]
    return [lines[0], "-" * max(map(len, lines)), *lines[1:]]


def _paired_cells(found: dict[str, Any], row: dict[str, Any]) -> list[str]:
    """A row's differences to the first one, with intervals and what they say."""
    own, cells = row if found["measure"] == "losses" else row["in_bits_per_byte"], []
    for domain in found["domains"]:
        entry = own["against_first"].get(domain)
        if entry is None:
            first = row[found["measure"]].get(domain) is not None and domain not in own["against_first"]
            cells.append("first" if first else "-")
            continue
        low, high = entry["interval"]
        doubted = f", {entry['doubt']}" if entry["doubt"] else ""
        cells.append(f"{entry['difference']:+.3f} ({low:+.3f} to {high:+.3f}{doubted})")
    return cells


def render_compare(found: dict[str, Any]) -> str:
    """What was gathered as one HTML file; equal arguments give equal bytes."""
    filters = {
        "signed": signed,
        "tokens": tokens_words,
        "duration": duration_words,
        "hours": hours_words,
    }
    return render("compare.html", filters, found=found)
