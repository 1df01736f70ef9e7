"""Prints how long a recipe takes on many nodes, and from which measurements and assumptions that follows."""

from collections.abc import Iterable
from typing import Any

from perdure.pipeline.cli.preview_text import heading, new_console, table


def print_sizing(found: dict[str, Any], absent: list[str]) -> None:
    """Prints what `perdure.pipeline.checks.sizing.sizing` returned, and a line for each thing that is not on this machine."""
    console = new_console()
    nodes = f"{found['nodes']} node{'s' if found['nodes'] > 1 else ''}"
    heading(console, f"On {nodes} x {found['gpus_per_node']} GPUs = {found['gpus']} GPUs")
    console.print(table(("", ""), _rows(found)))
    heading(console, "Time")
    columns = ("version", "", "steps", "tokens", "step", "days", "GPU hours", "cost")
    console.print(table(columns[: None if "cost" in found["total"] else -1], _versions(found)))
    for line in _sources(found):
        console.print(line, style="dim", markup=False)
    for line in found["advice"]:
        console.print(f"advice: {line}", markup=False)
    if absent:
        heading(console, "Not on this machine, and so neither looked at nor counted")
        for line in absent:
            console.print(f"  {line}", markup=False)


def _sources(found: dict[str, Any]) -> Iterable[str]:
    """Which numbers were measured, where, and from what the others are reckoned."""
    assumed, speed, memory = found["assumed"], found["speed"], found["memory"]
    mfu = f"MFU {100 * speed['mfu']:.3g}% of forward and backward passes"
    yield (
        "time: "
        + {
            "measured whole": f"measured ({speed['told']})",
            "measured": f"{mfu} measured ({speed['told']}); bubble and gradients estimated",
            "given": f"estimated; {mfu} as set ({speed['told']})",
            "assumed": f"estimated; {mfu} assumed ({speed['told']}; nothing like it was measured)",
        }[speed["basis"]]
    )
    yield "memory: " + (
        f"measured ({memory['told']}); {memory['estimated_bytes'] / 2**30:.1f} GiB were estimated"
        if memory["basis"] == "measured"
        else "estimated"
    )
    yield (
        f"assumed (cluster.gpu in the recipe or --site): peak {assumed['peak_tflops']:g} TFLOP/s, "
        f"{assumed['network_gb_per_second']:g} GB/s of network and {assumed['memory_gib']:g} GiB a GPU"
        + ("" if assumed["price_per_hour"] else "; no price_per_hour, so no cost")
        + "; without scoring, evaluation, checkpoints and failures"
    )
    for other in found["not_used"]:
        yield f"measured, and not used: {other['measured']}, MFU {other['mfu']:.1%}: {other['because']}"


def _rows(found: dict[str, Any]) -> Iterable[tuple[str, str]]:
    batch, memory, step, reduce = (found[key] for key in ("batch", "memory", "step", "reduce"))
    about = "" if found["speed"]["basis"] == "measured whole" else "~"
    yield (
        "global batch",
        f"{batch['samples']:,} samples = {batch['tokens']:,} tokens in {batch['micro_batches']} micro-batches a replica",
    )
    yield (
        "memory",
        f"{'' if memory['basis'] == 'measured' else '~'}{memory['bytes'] / 2**30:.1f} of {memory['gib']:g} GiB: "
        f"{'fits' if memory['fits'] else 'does not fit'} with "
        f"{memory['reserve_gib']:g} GiB kept free",
    )
    yield (
        "host memory of a save",
        f"~{memory['save_bytes_per_node'] / 2**30:.1f} GiB a node, until it is written; none of the GPU's",
    )
    yield (
        "step",
        f"{about}{step['seconds']:.2f} s = passes {step['compute']:.2f} + bubble {step['bubble']:.2f} + gradients "
        f"{step['reduce']:.2f}; MFU of the whole step {step['mfu']:.1%}",
    )
    yield (
        "pipeline bubble",
        f"{found['bubble']:.1%} of the passes = (stages - 1) / micro-batches",
    )
    yield (
        "data parallelism",
        f"a rank sends {reduce['bytes'] / 1e9:.2f} GB a step to other replicas: {reduce['seconds']:.2f} s"
        + (
            f"; below 5% of the passes from {reduce['gb_per_second_to_hide']:.1f} GB/s on"
            if reduce["gb_per_second_to_hide"]
            else ", inside the node or alone"
        ),
    )
    yield (
        "throughput",
        f"{about}{found['tokens_per_second']:,.0f} tokens/s, {found['tokens_per_second_per_gpu']:,.0f} a GPU, at "
        f"{found['flops_per_token'] / 1e9:.1f} GFLOP a token",
    )


def _versions(found: dict[str, Any]) -> Iterable[tuple[str, ...]]:
    price = found["assumed"]["price_per_hour"]
    for version in found["versions"]:
        yield _time(version, price)
    if len(found["versions"]) > 1:
        yield _time(found["total"] | {"name": "total"}, price)


def _time(entry: dict[str, Any], price: float | None) -> tuple[str, ...]:
    counts = (f"{entry[key]:,}" if key in entry else "" for key in ("steps", "tokens"))
    step = f"{entry['step_seconds']:.2f} s" if "step_seconds" in entry else ""
    cost = () if price is None else (f"{entry['gpu_hours'] * price:,.0f}",)
    return (entry["name"], "", *counts, step, f"{entry['days']:.2f}", f"{entry['gpu_hours']:,.0f}", *cost)
