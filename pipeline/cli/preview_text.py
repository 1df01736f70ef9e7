"""Prints what a recipe would do: with colours on a terminal, plainly otherwise."""

from collections.abc import Iterable
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from perdure.pipeline.checks.preview_mixture import (
    LISTED,
    SCOPES,
    listed_some,
    mixture_tree,
    more_of,
    objective_words,
)
from perdure.pipeline.core.formats import format_memory
from perdure.pipeline.core.kernel_words import fp8_words
from perdure.pipeline.model.files import listed
from perdure.pipeline.recipe.adapters import PROJECTIONS
from perdure.pipeline.recipe.selection import SCORES

PLOT_HEIGHT = 6
"""Lines of the learning-rate curve."""
MAX_NOTES = 20
"""Pairs of sources that share text, of those that are named."""
LISTED_VERSIONS = 50
"""Versions that are printed; `--json` has all."""
LISTED_RANKS = 16
"""Most ranks whose places are listed one by one."""


def print_preview(data: dict[str, Any]) -> None:
    """Prints what `perdure.pipeline.checks.preview.preview` returned."""
    console = new_console()
    console.print(f"[bold]{data['recipe']}[/] -> {data['out']}")
    heading(console, "Sources")
    rows = _source_rows(data["sources"][:LISTED])
    console.print(table(("source", "reader", "tokens", "held out", "repetitions"), rows))
    if (more := len(data["sources"]) - LISTED) > 0:
        console.print(more_of(more, "sources"))
    if any(source["estimated"] and source["tokens"] is not None for source in data["sources"]):
        console.print(
            "[dim]~ estimated from file sizes and a sample (4 bytes a token while there is no tokenizer); exact once the data "
            "stage has run[/]"
        )
    for note in data["same_files"][:MAX_NOTES]:
        console.print(note, markup=False)
    if (more := len(data["same_files"]) - MAX_NOTES) > 0:
        console.print(f"and {more:,} more sources that share text; --json names all")
    for source in [source for source in data["sources"] if source["not_read"]][:LISTED]:
        console.print(f"{source['name']}: {source['not_read']}", markup=False)
    estimated = {source["name"]: source["estimated"] for source in data["sources"]}
    for version in data["versions"][:LISTED_VERSIONS]:
        _print_version(console, version, estimated)
    if (more := len(data["versions"]) - LISTED_VERSIONS) > 0:
        console.print(f"\n{more_of(more, 'versions')}")
    _print_model(console, data["model"])
    _print_layout(console, data["parallel"])
    _print_kernels(console, data["kernels"])
    _print_memory(console, data["memory_per_rank"])
    heading(console, "Total")
    total = data["total"]
    to_do = f"; {total['steps_to_do']:,} steps to do" if total["steps_to_do"] < total["steps"] else ""
    console.print(f"{total['steps']:,} steps, a budget of {total['tokens']:,} tokens{to_do}")
    for line in data["warnings"]:
        console.print(f"WARNING: {escape(line)}")
    if "branches" in total:
        console.print(
            f"{total['branches']} branches with their main path cost {total['branches_cost']:.3g} of the "
            f"{total['branches_from_scratch_steps']:,} steps that they would take from scratch"
        )


def plot(values: list[float], height: int = PLOT_HEIGHT) -> list[str]:
    """A curve of non-negative values as `height` lines of text, the first the highest; one column a value.

    A column's height is its value's share of the maximum, rounded up to eighths of a line.
    """
    top = max(values) or 1.0
    eighths = [-int(-value / top * height * 8 // 1) for value in values]
    return [
        "".join(" ▁▂▃▄▅▆▇█"[min(8, max(0, eighth - 8 * line))] for eighth in eighths)
        for line in reversed(range(height))
    ]


def new_console() -> Console:
    """A console whose lines are as long as they are."""
    console = Console(highlight=False, soft_wrap=True)
    if not console.is_terminal:
        console.width = 200  # else rich would squeeze a file's tables and trees into 80 columns
    return console


def heading(console: Console, text: str) -> None:
    """A section's title."""
    console.print(f"\n[bold]{text}[/]")


def table(columns: Iterable[str], rows: Iterable[Iterable[str]]) -> Table:
    """A table without lines; the first two columns are words, the others numbers."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number < 2 else "right")
    for row in rows:
        table.add_row(*row)
    return table


def _source_rows(sources: list[dict[str, Any]]) -> Iterable[tuple[str, ...]]:
    for source in sources:
        mark = "~" if source["estimated"] else ""
        held_out = "" if source["heldout_tokens"] is None else f"{source['heldout_tokens']:,}"
        repetitions = listed_some(
            [
                f"{name} unknown" if times is None else f"{name} {mark}{times:.2f}"
                for name, times in source["repetitions"].items()
            ],
            LISTED_VERSIONS,
        )
        yield (
            source["name"],
            source["reader"],
            _tokens(source["tokens"], mark),
            held_out,
            repetitions or ("in parts" if source["in_parts"] else "unused"),
        )


def _tokens(tokens: int | None, mark: str) -> str:
    return "unknown" if tokens is None else f"{mark}{tokens:,}"


def _print_version(console: Console, version: dict[str, Any], estimated: dict[str, bool]) -> None:
    origin = version["origin"] or version["start"] + (f" of {version['parent']}" if version["parent"] else "")
    if version["branch_step"]:
        origin += f" at step {version['branch_step']:,}"
    heading(console, f"Version {version['name']}: {origin}{', finished' if version['finished'] else ''}")
    if version["origin"]:
        console.print(
            f"computed from weights, without training ({version['lineage_tokens']:,} tokens of its ancestors)"
        )
        if (curve := version["equivalent_decay"])[1:]:
            console.print(f"equals a learning rate of {version['parent']} that falls to {curve[-1][1]:.4g}")
            _print_curve(console, curve)
        return
    console.print(
        f"{version['steps']:,} steps, {version['samples']:,} samples, a budget of {version['tokens']:,} tokens"
        f" ({version['lineage_tokens']:,} with its ancestors')"
    )
    if objective := version["objective"]:
        console.print(objective_words(objective))
    if selection := version["selection"]:
        console.print(
            f"trains on the {selection['k']:.0%} of tokens {SCOPES[selection['scope']]} "
            + SCORES[selection["score"]].words.format(selection["reference"])
            + (
                f", averaged over {selection['smoothing']} tokens to either side"
                if selection["smoothing"]
                else ""
            )
        )
    if anchor := version["anchor"]:
        console.print(f"held near its parent by an anchor: {described(anchor)}")
    if adapter := version["adapter"]:
        console.print(adapter_words(adapter))
    for entry in version["to_score"]:
        console.print(score_words(entry, estimated[entry["source"]]))
    console.print(mixture_tree(version, estimated), soft_wrap=False)  # a tree would be cut off otherwise
    curve = version["learning_rate"]
    console.print(
        f"learning rate ({version['schedule']['type']}), peak {version['schedule']['max_lr']:g}, last {curve[-1][1]:.4g}"
    )
    _print_curve(console, curve)


def _print_curve(console: Console, curve: list[list[float]]) -> None:
    """Draws learning rates by step."""
    for line in plot([rate for _, rate in curve]):
        console.print(f"  {line}".rstrip())
    first, last = f"step {curve[0][0]:,}", f"{curve[-1][0]:,}"
    console.print(f"  {first}{last:>{max(1, len(curve) - len(first))}}")


def described(section: dict[str, Any]) -> str:
    """A section of a recipe in a line, its type first."""
    others = (
        f"{key} {described(value) if isinstance(value, dict) else value}"
        for key, value in section.items()
        if key != "type"
    )
    return ", ".join([section["type"], *others] if "type" in section else others)


def adapter_words(adapter: dict[str, Any]) -> str:
    """A line on what an adapter trains and the memory that it saves."""
    modules = (
        "all linear layers" if len(adapter["targets"]) == len(PROJECTIONS) else ", ".join(adapter["targets"])
    )
    memory, apart = adapter["memory_per_rank"], adapter["orthogonal_to"]
    return (
        f"LoRA of rank {adapter['rank']} on {modules}, scale {adapter['scale']:g}: {adapter['parameters']:,} parameters are "
        f"trained; the fullest rank needs ~{format_memory(memory['total'])}, ~{format_memory(adapter['saved'])} less than "
        "with all weights "
        f"(gradients {format_memory(memory['gradients'])}, optimizer {format_memory(memory['optimizer'])})"
        + (f"; kept orthogonal to {', '.join(apart)}" if apart else "")
    )


def score_words(entry: dict[str, Any], estimated: bool) -> str:
    """A line on what a model has to score of a source."""
    whole = "" if entry["of"] is None else f"{'~' if estimated else ''}{entry['of']:,} tokens"
    if entry["tokens"] is None:
        return f"{entry['model']} scores all of {entry['source']}{whole and f', {whole}'}, once"
    return (
        f"{entry['model']} scores the documents of {entry['source']} that are read, for {entry['tokens']:,} tokens"
        f"{whole and f' of {whole}'}, as far as they are not scored yet"
    )


def _print_model(console: Console, model: dict[str, Any]) -> None:
    heading(console, "Model")
    console.print(
        f"{model['parameters']:,} parameters: {model['num_layers']} layers, hidden {model['hidden_size']}, FFN "
        f"{model['ffn_hidden_size']}, {model['num_attention_heads']} heads in {model['num_query_groups']} groups, "
        f"vocabulary {model['vocab_size']:,} (padded to {model['padded_vocab_size']:,})"
        + (", tied embeddings" if model["tie_embeddings"] else "")
    )
    if unread := model["unread"]:
        console.print(
            f"nothing reads {len(unread)} tensors of its directory, and no version will have them: {listed(unread)}"
        )


RECOMPUTING = {
    "none": "",
    "selective": ", recomputing norms and SwiGLU",
    "full": ", recomputing layers",
}


def _print_layout(console: Console, layout: dict[str, Any]) -> None:
    heading(console, "Layout")
    console.print(
        f"{layout['world_size']} ranks = tensor {layout['tensor_parallel']} x pipeline {layout['pipeline_parallel']} "
        f"x data {layout['data_parallel']}"
        + (", sequence parallel" if layout["sequence_parallel"] else "")
        + (", distributed optimizer" if layout["distributed_optimizer"] else "")
        + (", overlapping gradients" if layout["overlap_grad_reduce"] else "")
        + (" and weights" if layout["overlap_param_gather"] else "")
        + RECOMPUTING[layout["recompute"]]
        + f"; micro-batches a step: {layout['micro_batches']}"
    )
    if layout["world_size"] > LISTED_RANKS:
        console.print(
            f"rank = tensor + {layout['tensor_parallel']} x (data + {layout['data_parallel']} x pipeline)"
        )
    elif layout["world_size"] > 1:
        columns = ("rank", "tensor", "pipeline", "data")
        console.print(table(columns, ([str(place[name]) for name in columns] for place in layout["ranks"])))


def _print_kernels(console: Console, kernels: dict[str, Any]) -> None:
    heading(console, "Attention and linears")
    told = f"attention {kernels['attention']}, linears {kernels['linears']}, fp8 {fp8_words(kernels['fp8'])}"
    told += ", deterministic" if kernels["deterministic"] else ", not deterministic"
    if kernels["attention"] == "auto":
        told += "; auto is decided at each start, by the machine that trains"
    if kernels["attention"] != "auto" or kernels["linears"] != "local":
        told += "; needs GPUs where it trains"
    console.print(told, markup=False)


def _print_memory(console: Console, memory: dict[str, Any]) -> None:
    heading(console, "Memory of the fullest rank")
    rows = [
        (
            name.replace("_", " "),
            "~" if name in ("activations", "total") else "",
            format_memory(memory[name]),
        )
        for name in ("weights", "fp8_weights", "gradients", "optimizer", "activations", "teacher", "total")
        if name in memory
    ]
    console.print(table(("", "", ""), rows))
    if "fp8_weights" in memory:
        console.print(
            "[dim]fp8 weights = copies of the layers' matrices for both passes; of activations, FP8 keeps the inputs of "
            "matrices in 1 byte, not 2, which is not taken off here[/]"
        )
    console.print(f"[dim]activations = {memory['activations_formula']}[/]")
    console.print(
        f"[dim]a save holds {format_memory(memory['save'])} of the host's memory for every rank until it is written[/]"
    )
