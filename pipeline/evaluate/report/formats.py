"""Formats of a report's numbers, for the console and the page."""

from perdure.pipeline.core.formats import format_tokens
from perdure.pipeline.evaluate.report.text_tables import text_table
from perdure.pipeline.evaluate.report_types import Report
from perdure.pipeline.evaluate.units import BITS, UNIT_NAMES, in_unit
from perdure.pipeline.evaluate.version_types import VersionSummary

UNCHANGED = 0.005
"""Changes below this many nats per token, or bits per byte, are called `unchanged`."""
TABLE_DOMAINS = 5
"""Most domains side by side in a table on the console."""


def format_hours(hours: float, device: str | None) -> str:
    """Hours with their device, as in `1.25 GPU h` and `0.0321 core h`."""
    unit = "core h" if device == "cpu" else "GPU h"
    return f"{hours:,.0f} {unit}" if hours >= 1000 else f"{hours:.3g} {unit}"


def cost_lines(report: Report) -> list[str]:
    """A line with the cost of all training; none if no version has counted it."""
    cost = report["cost"]
    kinds = ((cost["gpu_hours"], None), (cost["cpu_core_hours"], "cpu"))
    parts = [format_hours(hours, device) for hours, device in kinds if hours is not None]
    lost = sum(version["lost_hours"] or 0 for version in report["versions"])
    again = f", {lost:.3g} h of it in steps that were lost and done again" if lost else ""
    missing = f" ({', '.join(cost['uncounted'])} not counted)" if cost["uncounted"] else ""
    return [f"All training took {' and '.join(parts)}{again}{missing}."] if parts else []


def format_change(change: float) -> str:
    """A change with its sign, as in `+0.071`."""
    return f"{change:+.3f}".replace("-", "\N{MINUS SIGN}")


def format_share(share: float) -> str:
    """A share as a percentage, without needless digits."""
    return f"{100 * share:.3g}%"


def format_origin(version: VersionSummary) -> str:
    """What a version started from: its parent, with the step if it is not the parent's last, or all that it is merged from."""
    if origin := version.get("origin"):
        return origin
    parent = "initial model" if version["parent"] is None else version["parent"]
    return parent if version.get("left_at_step") is None else f"{parent} at step {version['left_at_step']:,}"


def format_mixture(mixture: list[dict]) -> str:
    """A version's mixture, as in `90% code, 10% replayed prose`."""
    return ", ".join(
        f"{format_share(member['share'])} {'replayed ' if member['replay'] else ''}{member['source']}"
        for member in mixture
    )


def format_layout(parallel: dict) -> str:
    """A parallel layout, as in `tensor 2, data 4, distributed optimizer`."""
    sizes = [(kind, parallel[f"{kind}_parallel"]) for kind in ("tensor", "pipeline", "data")]
    parts = [f"{kind} {size}" for kind, size in sizes if size > 1] or ["one rank"]
    kinds = ("sequence_parallel", "distributed_optimizer")
    return ", ".join(parts + [kind.replace("_", " ") for kind in kinds if parallel.get(kind)])


def verdict(change: float) -> str:
    """`better`, `worse` or `unchanged`."""
    if abs(change) < UNCHANGED:
        return "unchanged"
    return "better" if change < 0 else "worse"


def heldout_text(name: str, text: dict) -> str:
    """What of a domain's held-out text is measured, as in `web 24 of 150 documents, 4.87k of 24.1k tokens, 2 in pieces`."""
    parts = []
    for unit, words in (("documents", "{:,}".format), ("tokens", format_tokens)):
        count, total = text[unit], text.get(f"heldout_{unit}")
        of = f" of {words(total)}" if total is not None and text["tokens"] < text["heldout_tokens"] else ""
        parts.append(f"{words(count)}{of} {unit}")
    cut = text.get("cut_documents")
    return f"{name} {', '.join(parts)}" + (f", {cut:,} in pieces" if cut else "")


def loss_table(report: Report) -> str:
    """Held-out loss by version and domain, the change against the parent beside it, in plain text.

    Once in the report's unit, once in the other. More than `TABLE_DOMAINS` domains make several tables below one another.
    """
    units = sorted(UNIT_NAMES, key=lambda unit: unit != report["unit"])
    starts = range(0, len(report["domains"]), TABLE_DOMAINS)
    parts = []
    for unit in units:
        parts.append(
            f"Held-out loss, {UNIT_NAMES[unit]} (change against the version it started from; lower is better)"
        )
        parts += [_table(report, slice(start, start + TABLE_DOMAINS), unit) for start in starts]
    if report["heldout"]:
        texts = [f"  {heldout_text(name, text)}" for name, text in report["heldout"].items()]
        parts.append("\n".join(["Measured on, of what is held out:", *texts]))
    return "\n\n".join(parts)


def _table(report: Report, part: slice, unit: str) -> str:
    domains, shown = report["domains"][part], in_unit(report, unit)
    # A mean over domains is one of bits per byte: tokens of one hold more text than those of another.
    means = report["macro"]["bits_per_byte"] if unit == BITS and len(report["macro"]["domains"]) > 1 else None
    spans = (report.get("intervals") or {}).get("macro_bits_per_byte") or [None] * len(report["loss_matrix"])
    known = any(spans)
    head = [cell for domain in domains for cell in (domain, "")]
    head += ["mean", *["95% of resamples"][:known]] if means else []
    rows = [["version", "from", *head]]
    models = [("initial model", ""), *((entry["id"], format_origin(entry)) for entry in report["versions"])]
    for row, (model, losses) in enumerate(zip(models, shown["loss_matrix"], strict=True)):
        cells = [*model]
        for domain, loss in zip(domains, losses[part]):
            change = shown["change"].get(model[0], {}).get(domain)
            cells += ["-" if loss is None else f"{loss:.3f}", "" if change is None else f"({change:+.3f})"]
        if means:
            cells.append("-" if means[row] is None else f"{means[row]:.3f}")
            span = spans[row]
            cells += ["" if span is None else f"{span[0]:.3f} to {span[1]:.3f}"][:known]
        rows.append(cells)
    return "\n".join(text_table(rows, left=2))
