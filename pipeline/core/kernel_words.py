"""What computed a version, as checkpoints and `version.json` record it, in words."""

from typing import Any


def in_words(kernels: dict[str, Any]) -> str:
    """What a start computes with, in one line, of what `model.choices.Choices.as_json` gave."""
    return "; ".join(f"{name} {value}" for name, value in facts(kernels).items())


def history_in_words(recorded: list[dict[str, Any]]) -> list[str]:
    """A line for each entry of a record: what computed, and from which step on if there was a change."""
    return [
        in_words(entry) if len(recorded) == 1 else f"from step {entry['step'] + 1:,} on: {in_words(entry)}"
        for entry in recorded
    ]


def facts(kernels: dict[str, Any]) -> dict[str, str]:
    """The same by name, each in words, to compare two of them."""
    return {
        "attention": kernels["attention"],
        "linears": kernels["linears"],
        "fp8": fp8_words(kernels["fp8"]),
        "deterministic": "yes" if kernels["deterministic"] else "no",
    } | kernels["versions"]


def fp8_words(fp8: dict[str, Any] | None) -> str:
    """The recipe's `fp8` in words."""
    if fp8 is None:
        return "none"
    if not fp8["first_last_layers_bf16"]:
        return fp8["recipe"]
    first, last = fp8["num_layers_at_start_in_bf16"], fp8["num_layers_at_end_in_bf16"]
    return f"{fp8['recipe']}, the first {first} and the last {last} layers in bf16"
