"""Prints the tree of versions and the difference of two: with colours on a terminal, plainly otherwise."""

from typing import Any

from rich.console import Console
from rich.tree import Tree

from perdure.pipeline.core.kernel_words import history_in_words
from perdure.pipeline.evaluate.units import NATS, UNIT_NAMES
from perdure.pipeline.plan.cutoffs import cutoff_words
from perdure.pipeline.plan.merged import fitted_words

REMAINING = "remaining: tokens not read as new data yet; replay may have brought some of them in"


def print_log(data: dict[str, Any]) -> None:
    """Prints what `perdure.pipeline.cli.log.log` returned."""
    root = Tree(f"[bold]{data['name']}[/]: initial model")
    nodes: dict[str | None, Tree] = {None: root}
    for version in data["versions"]:
        nodes[version["id"]] = nodes[version["parent"]].add(_version(version, data["unit"]))
    _console().print(root)


def _version(version: dict[str, Any], unit: str) -> str:
    origin = version["origin"] or (
        version["start"] if version["branch_step"] is None else f"branch at step {version['branch_step']:,}"
    )
    objective = f", {version['objective']}" if version["objective"] else ""
    lines = [f"[bold]{version['id']}[/]  {origin}{objective}, {_progress(version)}"]
    if found := version["evaluation" if unit == NATS else "bits_per_byte"]:
        losses = (f"{domain} {loss:.4f}" for domain, loss in found.items())
        lines.append(f"held-out loss ({UNIT_NAMES[unit]}): {', '.join(losses)}")
    if version["cutoff"]:
        lines.append(f"newest text: {cutoff_words(version['cutoff'])}")
    if version["fitted"]:
        lines.append(fitted_words(version["fitted"]))
    for phase in (version["phases"] or [])[1:]:
        shares = ", ".join(f"{key} {share:.2%}" for key, share in phase["shares"].items() if share)
        plain = f"; without prefixes: {', '.join(phase['plain'])}" if phase.get("plain") else ""
        lines.append(f"{phase['reason']} after step {phase['after_step']:,}: {shares}{plain}")
    lines += [f"computed by: {line}" for line in history_in_words(version["kernels"])]
    if version["sources"] and version["steps"]:
        left = (
            f"{source} {line['remaining']:,} of {line['total']:,}"
            + (f" ({line['replayed']:,} replayed)" if line["replayed"] else "")
            for source, line in version["sources"].items()
        )
        lines.append(f"tokens not yet read as new data: {', '.join(left)}")
    return "\n".join(lines)


def _progress(version: dict[str, Any]) -> str:
    if version["origin"]:
        return f"{version['lineage_tokens']:,} tokens of its ancestors, {version['status']}"
    if not version["steps"]:
        return f"{version['planned_steps']:,} steps of {version['schedule']}, waiting"
    done = (
        f"{version['steps']:,} steps"
        if version["status"] == "finished"
        else (f"{version['steps']:,} of {version['planned_steps']:,} steps")
    )
    return (
        f"{done}, {version['tokens']:,} tokens ({version['lineage_tokens']:,} with its ancestors'), "
        f"{version['schedule']}: {version['phase']} at {version['learning_rate']:.3g}, {version['status']}"
    )


def print_diff(data: dict[str, Any]) -> None:
    """Prints what `perdure.pipeline.cli.log.diff` returned."""
    console, (left, right) = _console(), data["versions"]
    console.print(f"[bold]{left} -> {right}[/]")
    for part in ("recipe", "schedule", "data"):
        console.print(f"{part}: {'the same' if not data[part] else ''}".rstrip())
        for line in data[part]:
            console.print(f"  {line}", markup=False)
        if part == "data" and data[part]:
            console.print(f"  ({REMAINING})")
    console.print(f"held-out loss ({UNIT_NAMES[data['unit']]}):")
    for domain, losses in data["results" if data["unit"] == NATS else "in_bits_per_byte"].items():
        before, after = ("-" if losses[name] is None else f"{losses[name]:.4f}" for name in (left, right))
        change = "" if losses["difference"] is None else f" ({losses['difference']:+.4f})"
        console.print(f"  {domain} {before} -> {after}{change}", markup=False)


def _console() -> Console:
    console = Console(highlight=False, soft_wrap=True)
    if not console.is_terminal:
        console.width = 200  # else rich would break a file's lines at 80 columns
    return console
