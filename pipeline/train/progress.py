"""How fast a run is and how long it will take, and what the console says of it."""

import time
from typing import Any

import torch

from perdure.pipeline.core.formats import format_duration
from perdure.pipeline.evaluate.report.formats import heldout_text

PEAK_FLOPS = {
    "A100": 312e12,
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "H200 NVL": 835e12,
    "H200": 989e12,
    "B200": 2250e12,
}
"""Dense bf16 FLOP/s by what stands in a device's name, the first that does (NVIDIA data sheets)."""


class Pace:
    """Speed of a run, for its console lines.

    Args:
        first_step: Steps done before this start.
    """

    def __init__(self, first_step: int) -> None:
        self.first_step, self.started, self.training = first_step, time.monotonic(), 0.0
        self.recent: list[tuple[float, float]] = []

    def add(self, tokens: float, seconds: float) -> None:
        """Counts a step."""
        self.training += seconds
        self.recent.append((tokens, seconds))

    def line(self, line: dict[str, Any], total_steps: int) -> str:
        """The console line of the steps since the last one, see `console_line`."""
        besides = time.monotonic() - self.started - self.training
        text = console_line(line, total_steps, self.recent, besides / (line["step"] - self.first_step))
        self.recent = []
        return text


def console_line(line: dict, total_steps: int, recent: list[tuple[float, float]], overhead: float) -> str:
    """One readable line of progress, with the time that is left.

    Args:
        line: The last step's, see `metrics.Recorder.step`.
        total_steps: Steps of the version.
        recent: Tokens and seconds of each step since the last line: speed, MFU and the time left are theirs.
        overhead: Seconds a step that measuring and saving took since the start.
    """
    tokens, seconds = map(sum, zip(*recent))
    pace = seconds / len(recent)
    parts = [
        f"step {line['step']:>{len(str(total_steps))}}/{total_steps}",
        f"loss {line['loss']:.4f}",
        f"lr {line['lr']:.2e}",
        f"grad {line['grad_norm']:.2f}",
    ]
    if line.get("kl") is not None:
        parts.append(f"KL {line['kl']:.4f}")
    if line["loss_selected"] is not None:
        parts.append(f"selected {line['selected_fraction']:.0%}")
    parts.append(f"{tokens / seconds:,.0f} tokens/s")
    if line["mfu"] is not None:
        parts.append(f"MFU {line['mfu'] * recent[-1][1] / pace:.0%}")  # all steps compute the same
    parts.append(f"ETA {format_duration((total_steps - line['step']) * (pace + overhead))}")
    return "  ".join(parts)


def heldout_words(domains: dict[str, dict]) -> str:
    """Held-out losses by domain and what they were measured on, for the console, from `summaries` of an evaluation."""
    return "held-out loss (nats per token): " + "; ".join(
        f"{result['loss']:.4f} on {heldout_text(name, result)}" for name, result in domains.items()
    )


def model_flop_utilisation(
    tokens_per_second: float, flops_per_token: float, ranks: int, precision: str
) -> float | None:
    """Share of the GPUs' peak bf16 FLOP/s that the model's own arithmetic uses; None where the peak is unknown, or in fp32."""
    if not torch.cuda.is_available() or precision != "bf16":
        return None
    name = torch.cuda.get_device_name()
    peak = next((flops for key, flops in PEAK_FLOPS.items() if key in name), None)
    return tokens_per_second * flops_per_token / (peak * ranks) if peak else None
