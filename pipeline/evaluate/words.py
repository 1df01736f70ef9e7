"""A report's numbers in words: what the console and the page both say."""

UNCHANGED = 0.005
"""Changes below this many nats per token are called none."""
TABLE_DOMAINS = 5
"""Domains side by side in a table on the console."""


def tokens_words(count: int) -> str:
    """A token count with three significant digits: 950, 12.3k, 1.25M, 3B."""
    for unit, size in (("B", 10**9), ("M", 10**6), ("k", 10**3)):
        if count >= size * 0.9995:
            return f"{count / size:.3g}{unit}"
    return str(count)


def duration_words(seconds: float) -> str:
    """Minutes and seconds, or hours before them, as in `2:42` and `1:02:42`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def hours_words(hours: float, device: str | None) -> str:
    """Hours with what they are of, as in `1.25 GPU h` and `0.0321 core h`."""
    unit = "core h" if device == "cpu" else "GPU h"
    return f"{hours:,.0f} {unit}" if hours >= 1000 else f"{hours:.3g} {unit}"


def cost_words(report: dict) -> list[str]:
    """What all training took, in a line; none if no version has counted it."""
    cost = report["cost"]
    kinds = (("gpu_hours", None), ("cpu_core_hours", "cpu"))
    parts = [hours_words(cost[key], device) for key, device in kinds if cost[key] is not None]
    lost = sum(version["lost_hours"] or 0 for version in report["versions"])
    again = f", {lost:.3g} h of it in steps that were lost and done again" if lost else ""
    missing = f" ({', '.join(cost['uncounted'])} not counted)" if cost["uncounted"] else ""
    return [f"All training took {' and '.join(parts)}{again}{missing}."] if parts else []


def signed(change: float) -> str:
    """A change in nats per token with its sign, as in `+0.071`."""
    return f"{change:+.3f}".replace("-", "\N{MINUS SIGN}")


def share_words(share: float) -> str:
    """A share as a percentage, without needless digits."""
    return f"{100 * share:.3g}%"


def origin_words(version: dict) -> str:
    """What a version started from: its parent, and the step where it left that before its end."""
    parent = "initial model" if version["parent"] is None else version["parent"]
    return parent if version.get("left_at_step") is None else f"{parent} at step {version['left_at_step']:,}"


def mixture_words(mixture: list[dict]) -> str:
    """A version's mixture, as in `90% code, 10% replayed prose`."""
    return ", ".join(
        f"{share_words(member['share'])} {'replayed ' if member['replay'] else ''}{member['source']}"
        for member in mixture
    )


def layout_words(parallel: dict) -> str:
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


def loss_table(report: dict) -> str:
    """Held-out loss by version and domain, the change against the parent beside it, in plain text.

    More than `TABLE_DOMAINS` domains make several tables below one another.
    """
    title = "Held-out loss, nats per token (change against the version it started from; lower is better)"
    starts = range(0, len(report["domains"]), TABLE_DOMAINS)
    return "\n\n".join([title, *(_table(report, slice(start, start + TABLE_DOMAINS)) for start in starts)])


def _table(report: dict, part: slice) -> str:
    domains = report["domains"][part]
    rows = [["version", "from", *(cell for domain in domains for cell in (domain, ""))]]
    models = [{"id": "initial model", "parent": "", "change": dict.fromkeys(domains)}, *report["versions"]]
    for model, losses in zip(models, report["loss_matrix"], strict=True):
        cells = [model["id"], origin_words(model)]
        for domain, loss in zip(domains, losses[part]):
            change = model["change"][domain]
            cells += ["-" if loss is None else f"{loss:.3f}", "" if change is None else f"({change:+.3f})"]
        rows.append(cells)
    widths = [max(map(len, column)) for column in zip(*rows)]
    names = [f"{row[0]:<{widths[0]}}  {row[1]:<{widths[1]}}" for row in rows]
    numbers = ["  ".join(cell.rjust(width) for cell, width in zip(row[2:], widths[2:])) for row in rows]
    lines = [f"{name}  {cells}".rstrip() for name, cells in zip(names, numbers)]
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])
