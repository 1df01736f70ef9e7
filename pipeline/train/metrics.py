"""What a run tells while it runs: `metrics.jsonl`, TensorBoard and console lines."""

import hashlib
import json
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from perdure.pipeline.core.errors import PerdureError
from perdure.pipeline.core.files import finite, read_json, write_atomic, write_json
from perdure.pipeline.core.integrity import FORGOTTEN, metrics_lines
from perdure.pipeline.core.paths import VersionPaths
from perdure.pipeline.core.remedies import remedy
from perdure.pipeline.plan.mixture import is_replayed
from perdure.pipeline.train.counts import Counts
from perdure.pipeline.train.mirror import STEP


@dataclass(frozen=True)
class StepResult:
    """One step as it is recorded.

    Attributes:
        step: Its number, from 1.
        tokens: Labels read by now, without padding; those that a mask leaves out are among them.
        budget_tokens: What the steps took of the version's budget, padding included.
        lr: Learning rate.
        grad_norm: Global gradient norm before clipping.
        counts: Of its batch.
        seconds: It took.
        mfu: Model FLOP utilisation; None where the device's peak is unknown.
        selective: Whether tokens were selected.
        skipped: What became of a step that the guard refused.
        heldout: Held-out loss by domain right before the step, if it was measured then.
        heldout_on: Hash of what it was measured on.
        anchor_penalty: Of the weights that it began with; None without an anchor, and where nothing was updated.
        orthogonal_penalty: The same of an adapter that is kept orthogonal to earlier ones.
        scalars: What the objective tells besides; its `loss` takes the place of the mean cross entropy.
    """

    step: int
    tokens: int
    budget_tokens: int
    lr: float
    grad_norm: float
    counts: Counts
    seconds: float
    mfu: float | None = None
    selective: bool = False
    skipped: str | None = None
    heldout: dict[str, float] | None = None
    heldout_on: str | None = None
    anchor_penalty: float | None = None
    orthogonal_penalty: float | None = None
    scalars: dict[str, float | None] = field(default_factory=dict)


class Recorder:
    """Writes a version's metrics; made on rank 0 only.

    Args:
        directory: The version's directory.
        first_step: Steps done; later lines of an interrupted run are dropped.
        sources: Names of the mixture's places, in the order of `Counts`.
        devices: GPUs, or CPU cores, that train.
        run: Weights & Biases' run that every scalar is told as well (`mirror.open_run`), or None.

    Attributes:
        lost_device_seconds: What steps took that earlier starts lost, times `devices`: those whose lines were dropped.
    """

    def __init__(
        self,
        directory: Path,
        first_step: int,
        sources: tuple[str, ...],
        devices: int = 1,
        run: Any = None,
        told: str | None = None,
    ):
        from torch.utils.tensorboard import SummaryWriter

        self.sources, self.run = sources, run
        self.rows: dict[int, dict[str, float]] = {}
        path, lost = VersionPaths(directory).metrics, VersionPaths(directory).lost
        entries = metrics_lines(path)
        lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
        kept = b"".join(line for line, entry in zip(lines, entries) if entry["step"] <= first_step)
        self.told = hashlib.sha256(kept)
        if told not in (None, self.told.hexdigest()) and lines != [FORGOTTEN]:
            reason = f"damaged: up to step {first_step} not what it was when that was saved"
            raise PerdureError(f"{path}: {reason if path.exists() else 'missing'}; {remedy(path)}")
        self.lost_device_seconds = read_json(lost)["device_seconds"] if lost.exists() else 0.0
        if dropped := [entry for entry in entries if entry["step"] > first_step]:
            before = max((entry["tokens"] for entry in entries if entry["step"] <= first_step), default=0)
            ends = [before, *(line["tokens"] for line in dropped)]
            seconds = sum(
                (end - start) / line["tokens_per_second"]
                for (start, end), line in zip(pairwise(ends), dropped)
            )
            self.lost_device_seconds += seconds * devices
            write_json(lost, {"device_seconds": self.lost_device_seconds})
        write_atomic(path, kept)
        self.file = path.open("a", buffering=1)
        self.board = SummaryWriter(str(VersionPaths(directory).board), purge_step=first_step + 1)

    def step(self, result: StepResult) -> dict[str, Any]:
        """Records one step and returns its line.

        `loss` is that of the objective; every other one is cross entropy alone, in nats per label.
        """
        step, counts, selective, heldout = result.step, result.counts, result.selective, result.heldout
        total_tokens = sum(counts.tokens)
        competing_tokens, competing_loss = competing(self.sources, counts)
        unselected = competing_tokens - counts.selected_tokens
        replayed_tokens = total_tokens - competing_tokens
        line: dict[str, Any] = {
            "step": step,
            "tokens": result.tokens,
            "budget_tokens": result.budget_tokens,
            "loss": counts.mean_loss,
            "loss_selected": counts.selected_loss / counts.selected_tokens
            if selective and counts.selected_tokens
            else None,
            "loss_unselected": (competing_loss - counts.selected_loss) / unselected
            if selective and unselected
            else None,
            "loss_macro": macro(counts),
            "selected_fraction": counts.selected_tokens / competing_tokens if competing_tokens else None,
            "selected_tokens": round(counts.selected_tokens) if selective else None,
            "replayed_tokens": round(replayed_tokens),
            "trained_tokens": round(counts.selected_tokens + replayed_tokens),
            "unscored_tokens": round(counts.unscored_tokens) if selective else None,
            "lr": result.lr,
            "grad_norm": result.grad_norm,
            "tokens_per_second": sum(counts.read_tokens) / result.seconds,
            "mfu": result.mfu,
            "source_loss": {
                name: loss / count
                for name, loss, count in zip(self.sources, counts.loss, counts.tokens)
                if count
            },
            "stream": counts.stream,
            "selection": counts.selection,
            "skipped": result.skipped,
            "heldout_before": heldout,
            "heldout_on": result.heldout_on if heldout is not None else None,
        }
        for name in ("anchor_penalty", "orthogonal_penalty"):
            if (penalty := getattr(result, name)) is not None:
                line[name] = penalty
                self._scalar(f"train/{name}", penalty, step)
        for name, value in result.scalars.items():
            line[name] = value
            if name != "loss":  # below, as `loss/all`
                self._scalar(name if "/" in name else f"loss/{name}", value, step)
        # A guard may have let a NaN pass, and JSON knows none.
        text = json.dumps(finite(line)) + "\n"
        self.told.update(text.encode())
        self.file.write(text)
        for name in ("loss", "loss_macro", "loss_selected", "loss_unselected"):
            self._scalar(f"loss/{name.removeprefix('loss_') if '_' in name else 'all'}", line[name], step)
        for name, value in line["source_loss"].items():
            self._scalar(f"loss_by_source/{name}", value, step)
        for name in ("lr", "grad_norm", "selected_fraction", "unscored_tokens", "tokens_per_second", "mfu"):
            self._scalar(f"train/{name}", line[name], step)
        for name, loss in (heldout or {}).items():
            self._scalar(f"heldout_loss/{name}", loss, step - 1)
        if result.skipped:
            self._scalar("train/skipped", 1.0, step)
            self.board.add_text("skipped", result.skipped, step)
        self._mirror()
        return line

    def flush(self) -> None:
        """Puts everything told so far on disk."""
        self.file.flush()
        self.board.flush()

    def evaluation(self, step: int, domains: dict[str, dict]) -> None:
        """Records held-out losses."""
        for name, result in domains.items():
            self._scalar(f"heldout_loss/{name}", result["loss"], step)
            self._scalar(f"heldout_bits_per_byte/{name}", result["bits_per_byte"], step)
        self._mirror()
        self.board.flush()

    def chosen(self, step: int, found: dict) -> None:
        """Records what `write_selection_counts` counted: histograms of excess losses, and the selected share by topic."""
        edges = found["excess_edges"]
        for part in ("selected", "other") if edges else ():
            counts = found[f"excess_{part}"]
            middles = [(low + high) / 2 for low, high in pairwise(edges)]
            self.board.add_histogram_raw(
                f"excess_loss/{part}",
                min=edges[0],
                max=edges[-1],
                num=sum(counts),
                sum=sum(count * middle for count, middle in zip(counts, middles)),
                sum_squares=sum(count * middle**2 for count, middle in zip(counts, middles)),
                bucket_limits=edges[1:],
                bucket_counts=counts,
                global_step=step,
            )
        for source, topics in found["topics"].items():
            for topic, own in topics.items():
                self._scalar(f"selected_share/{source}/{topic}", own["selected"] / own["scored"], step)

    def mixture(self, step: int, shares: dict[str, float]) -> None:
        """Records the shares of a phase of the plan that begins with this step."""
        for key, share in shares.items():
            self._scalar(f"mixture/{key}", share, step)

    def close(self) -> None:
        """Flushes everything to disk."""
        self.file.close()
        self.board.close()
        if self.run is not None:
            self.run.finish()

    def _scalar(self, name: str, value: float | None, step: int) -> None:
        if value is not None:
            self.board.add_scalar(name, value, step)
            self.rows.setdefault(step, {})[name] = value

    def _mirror(self) -> None:
        """Hands the scalars since the last time on, a row a step."""
        for step, row in sorted(self.rows.items()):
            if self.run is not None:
                self.run.log(row | {STEP: step})
        self.rows.clear()


def macro(counts: Counts) -> float:
    """Mean over the batch's sources of their mean loss, so that a small source is not lost in the sum; 0 if no label counts."""
    losses = [loss / tokens for loss, tokens in zip(counts.loss, counts.tokens) if tokens]
    return sum(losses) / len(losses) if losses else 0.0


def competing(sources: tuple[str, ...], counts: Counts) -> tuple[float, float]:
    """Tokens of new data in a batch, which selection chooses among, and their summed loss."""
    fresh = [number for number, name in enumerate(sources) if not is_replayed(name)]
    return sum(counts.tokens[number] for number in fresh), sum(counts.loss[number] for number in fresh)
