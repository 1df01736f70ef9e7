"""`perdure compare`: versions of several runs side by side, from their reports."""

from pathlib import Path
from typing import Any

from perdure.pipeline.console import duration_words, tokens_words
from perdure.pipeline.errors import PerdureError
from perdure.pipeline.evaluate.units import BITS, NATS, WORDS, in_unit
from perdure.pipeline.evaluate.words import hours_words, signed
from perdure.pipeline.manifest import read_json
from perdure.pipeline.pages import render

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
            (`RUN/versions/NAME`).

    Returns:
        JSON-serialisable, null where something is not measured: `domains`; `rows`, per version `run`, `version`,
        `parent`, `losses` and `change` (against the version it started from) by domain, `acc`, `bwt` and `forgetting` in nats
        per token, `bits_per_byte` by domain, `in_bits_per_byte` (`change`, `acc`, `bwt`, `forgetting`), and of its report
        `status`, `tokens`, `lineage_tokens`,
        `tokens_per_second`, `seconds`, `device`, `device_hours` (of GPUs or CPU cores), `mfu`, `selected_fraction`;
        `measure`, which of `losses` and `bits_per_byte` is shown: the latter wherever tokenizers differ, or domains' tokens
        hold unlike amounts of text; `best`, the lowest of it by domain, null where texts differ; `notes`, lines on what makes
        rows incomparable.

    Raises:
        PerdureError: If a directory is none of a run with a report, or there is nothing to compare.
    """
    rows: list[dict] = []
    tokenizers: dict[str, str] = {}
    measured: dict[str, dict[tuple, str]] = {}
    units: set[str | None] = set()
    for place in places:
        run, name = (place.parent.parent, place.name) if place.parent.name == "versions" else (place, None)
        if not (run / "report.json").exists():
            raise PerdureError(
                f"{place}: no run with a report; name the directory of a run (which has `report.json`), or a version's, "
                "as in runs/NAME/versions/V"
            )
        report = read_json(run / "report.json")
        known = {version["id"]: version for version in report["versions"]}
        if name is not None and name not in known:
            raise PerdureError(f"{place}: {run} has no version {name}; it has {', '.join(known)}")
        rows += [_row(report, str(run), version) for version in known.values() if _wanted(version, name)]
        units.add(report.get("unit"))
        tokenizers |= {data["tokenizer_hash"]: str(run) for data in report["data"].values() if data}
        for version in known.values():
            if _wanted(version, name):
                for domain, found in (version["evaluation"] or {}).items():
                    key = found["documents"], found["tokens"], found["bytes"]
                    measured.setdefault(domain, {}).setdefault(key, str(run))
    if not rows:
        raise PerdureError(
            f"{', '.join(map(str, places))}: no version there is finished and measured; `perdure run RECIPE` does both"
        )
    domains = list(dict.fromkeys(domain for row in rows for domain in row["losses"]))
    measure = "bits_per_byte" if len(tokenizers) > 1 or BITS in units else "losses"
    return {
        "domains": domains,
        "rows": rows,
        "measure": measure,
        "best": {
            domain: None
            if _differ(measured.get(domain, {}))
            else _lowest([row[measure].get(domain) for row in rows])
            for domain in domains
        },
        "notes": _notes(tokenizers, measured),
    }


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
        "in_bits_per_byte": _changes(report, version, BITS),
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


def _lowest(losses: list[float | None]) -> float | None:
    return min((loss for loss in losses if loss is not None), default=None)


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
    widths = [max(map(len, column)) for column in zip(*cells)]
    lines = [
        "  ".join(
            cell.ljust(width) if place < 2 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(line, widths))
        ).rstrip()
        for line in cells
    ]
    unit = WORDS[NATS if found["measure"] == "losses" else BITS]
    title = (
        f"Held-out loss, {unit} (change against the version it started from); * is the lowest of its column"
    )
    notes = [f"note: {note}" for note in found["notes"]]
    return "\n".join(
        [title, "", lines[0], "-" * max(map(len, lines)), *lines[1:], *([""] if notes else []), *notes]
    )


def render_compare(found: dict[str, Any]) -> str:
    """What was gathered as one HTML file; equal arguments give equal bytes."""
    filters = {
        "signed": signed,
        "tokens": tokens_words,
        "duration": duration_words,
        "hours": hours_words,
    }
    return render("compare.html", filters, found=found)
