"""The comparison of versions as plain text, and as one HTML file."""

from perdure.pipeline.core.formats import format_duration, format_tokens
from perdure.pipeline.evaluate.report.compare import Changes, ComparedVersion, Comparison, losses_in
from perdure.pipeline.evaluate.report.formats import format_hours
from perdure.pipeline.evaluate.report.html import SHARED, render
from perdure.pipeline.evaluate.report.text_tables import text_table
from perdure.pipeline.evaluate.units import BITS, NATS, UNIT_NAMES


def compare_table(found: Comparison) -> str:
    """The comparison as plain text; the lowest loss of a domain has a star."""
    head = [cell for domain in found["domains"] for cell in (domain, "")]
    unit = _unit(found)
    names = ["ACC", "BWT", "forgetting", "tokens", "tokens/s", "MFU", "time", "GPU or core h"]
    cells = [["run", "version", *head, *names]]
    for row in found["rows"]:
        line: list[str] = [row["run"], row["version"]]
        changes = _changes(row, unit)
        for domain in found["domains"]:
            loss = losses_in(row, unit).get(domain)
            change = changes["change"].get(domain)
            star = "*" if loss is not None and loss == found["best"][domain] else " "
            line.append("-" if loss is None else f"{loss:.3f}{star}")
            line.append("" if change is None else f"({change:+.3f})")
        metrics = (changes["acc"], changes["bwt"], changes["forgetting"])
        line += ["-" if value is None else f"{value:+.3f}" for value in metrics]
        line.append(format_tokens(row["tokens"]))
        line.append("-" if row["tokens_per_second"] is None else f"{row['tokens_per_second']:,.0f}")
        line.append("-" if row["mfu"] is None else f"{row['mfu']:.1%}")
        line.append("-" if row["seconds"] is None else format_duration(row["seconds"]))
        line.append("-" if row["device_hours"] is None else format_hours(row["device_hours"], row["device"]))
        cells.append(line)
    title = (
        f"Held-out loss, {UNIT_NAMES[unit]} (change against the version it started from); * is the lowest of its column, by an "
        "interval that leaves out 0 against every other"
    )
    parts = [title, "", *text_table(cells, left=2)]
    if len(found["rows"]) > 1:
        paired = [["run", "version", *found["domains"]]]
        paired += [[row["run"], row["version"], *_paired_cells(found, row)] for row in found["rows"]]
        below = (
            f"Less the first version with a loss on the domain, {UNIT_NAMES[unit]}, and its {found['level']:.0%} interval "
            "over documents, in pairs"
        )
        parts += ["", below, "", *text_table(paired, left=2)]
    notes = [f"note: {note}" for note in found["notes"]]
    return "\n".join([*parts, *([""] if notes else []), *notes])


def _paired_cells(found: Comparison, row: ComparedVersion) -> list[str]:
    """Cells with a row's differences to the first row and their intervals."""
    unit = _unit(found)
    differences, cells = _changes(row, unit)["against_first"], list[str]()
    for domain in found["domains"]:
        entry = differences.get(domain)
        if entry is None:
            first = losses_in(row, unit).get(domain) is not None and domain not in differences
            cells.append("first" if first else "-")
            continue
        low, high = entry["interval"]
        doubted = f", {entry['doubt']}" if entry["doubt"] else ""
        cells.append(f"{entry['difference']:+.3f} ({low:+.3f} to {high:+.3f}{doubted})")
    return cells


def _unit(found: Comparison) -> str:
    return NATS if found["measure"] == "losses" else BITS


def _changes(row: ComparedVersion, unit: str) -> Changes:
    return row if unit == NATS else row["in_bits_per_byte"]


def render_compare(found: Comparison) -> str:
    """The comparison as one HTML file; equal arguments give equal bytes."""
    return render(SHARED, "compare.html", {}, found=found)
