"""Times whole training steps of a Llama: Perdure's trainer, Megatron-core's own parts, a plain loop around transformers.

The first two are Megatron-core on one device, without Transformer Engine or Apex, with the same shapes, batches, precision
and deterministic algorithms: forward, backward, clipping and update. `bench_models` makes them.

By itself: `python -m perdure.data_recipes.bench_step ROWS.jsonl --model Llama-3.2-1B --parts perdure --dtype bf16`.
"""

import argparse
import hashlib
import json
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from perdure.data_recipes.bench_shapes import SHAPES
from perdure.kernels.bench_measure import measure, peak_memory

PARTS = ("perdure", "megatron", "transformers")
SHARES = {"perdure": (1.0, 0.6), "megatron": (1.0,), "transformers": (1.0,)}
"""Shares of tokens that are trained on (selection's k)."""
FIRST_STEPS = 3
"""Steps before any is timed: the first makes the moments, and equal bits in all of them mean a repeatable trainer."""
TOP_KERNELS = 25


def training_steps(model: str, dtype: str, repeats: int) -> Iterator[dict]:
    """Times the training steps of Perdure and of Megatron-core, each in its own process.

    Args:
        model: Name in `SHAPES`.
        dtype: `fp32` or `bf16`.
        repeats: Steps at most, three at least.

    Yields:
        Rows of `timed_steps`.
    """
    for parts in ("perdure", "megatron"):
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            yield from pool.submit(_listed, model, parts, dtype, repeats).result()


def _listed(*arguments: Any) -> list[dict]:
    return list(timed_steps(*arguments))


def timed_steps(
    name: str, parts: str, dtype: str, repeats: int, profiled: list[dict] | None = None
) -> Iterator[dict]:
    """Times the training steps of one of `PARTS` in this process.

    Args:
        name: Model in `SHAPES`.
        parts: Whose step.
        dtype: `fp32` or `bf16`.
        repeats: Steps at most, three at least.
        profiled: Where the profile of one more step is added, if given.

    Yields:
        `model`, `parts`, `k`, `ms` of a step, `tokens_per_second`, `mfu` (None where the device's peak is unknown), `mb`,
        the peak of memory with weights, gradients and moments in it, `loss`, of the first step, the same where the weights
        are, and `bits`, a hash of the losses and gradient norms of the first steps.
    """
    from perdure.data_recipes.bench_models import make_step, setting
    from perdure.pipeline.train.progress import model_flop_utilisation

    of, device = setting(name, dtype), torch.device("cuda" if torch.cuda.is_available() else "cpu")
    peak = peak_memory(device)
    before = next(peak)
    for share in SHARES[parts]:
        row: dict[str, Any] = {"model": name, "parts": parts, "k": share}
        missing = dict.fromkeys(("tokens_per_second", "mfu", "mb", "loss", "bits"))
        try:
            if share == 1:
                step = make_step(parts, name, dtype)
                first = [step(1.0) for _ in range(FIRST_STEPS)]
            step(share)
            memory = next(peak) - before
            found = measure(partial(step, share), device, repeats)
        except torch.OutOfMemoryError:
            yield row | {"ms": "out of memory"} | missing
            return
        rate = 1e3 * of["tokens"] / found.milliseconds
        mfu = model_flop_utilisation(rate, of["flops_per_token"], 1, dtype)
        bits = hashlib.sha256(repr(first).encode()).hexdigest()[:16]
        measured = {"ms": found.milliseconds, "tokens_per_second": rate, "mfu": mfu, "mb": memory / 1e6}
        yield row | measured | {"loss": first[0][0], "bits": bits}
        if profiled is not None:
            profiled.append({"parts": parts, "k": share} | profile(partial(step, share)))
        peak = peak_memory(device)
        next(peak)


def profile(run: Callable[[], object]) -> dict[str, Any]:
    """Runs something once under torch's profiler: the share of the time in which the GPU works, and its longest kernels.

    Returns:
        `busy`: share of the time between the first kernel's start and the last one's end; None without a GPU. `ms`: that
        time. `kernels`: how many. `top`: name, milliseconds and calls of the longest.
    """
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as seen:
        run()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
    on_gpu = [event for event in seen.events() if _is_work(event)]
    spans = sorted((event.time_range.start, event.time_range.end) for event in on_gpu)
    busy, end = 0.0, 0.0
    for begun, ended in spans:
        busy += max(0.0, ended - max(begun, end))
        end = max(end, ended)
    whole = end - spans[0][0] if spans else 0.0
    averages = sorted(filter(_is_work, seen.key_averages()), key=lambda entry: -entry.self_device_time_total)
    top = [[entry.key[:80], entry.self_device_time_total / 1e3, entry.count] for entry in averages]
    return {
        "busy": busy / whole if whole else None,
        "ms": whole / 1e3,
        "kernels": len(spans),
        "top": [entry for entry in top if entry[1] > 0][:TOP_KERNELS],
    }


def _is_work(event: Any) -> bool:
    """Whether an event is the GPU's own: no operation, which has the time of its kernels too, and no span that torch marks
    there by name, as it does an optimizer's step with all its gaps."""
    return event.device_type == torch.autograd.DeviceType.CUDA and not event.is_user_annotation


def main(arguments: list[str]) -> int:
    """Writes rows as they are found, a JSON object a line."""
    parser = argparse.ArgumentParser(prog="python -m perdure.data_recipes.bench_step")
    parser.add_argument("out", type=Path, help="rows are added here, a JSON object a line")
    parser.add_argument("--model", choices=SHAPES, required=True)
    parser.add_argument("--parts", choices=PARTS, required=True)
    parser.add_argument("--dtype", choices=("fp32", "bf16"), required=True)
    parser.add_argument("--repeats", type=int, default=20, help="steps at most")
    parser.add_argument("--profile", action="store_true", help="one more step under torch's profiler")
    options = parser.parse_args(arguments)
    from perdure.data_recipes.bench_models import setting

    profiled: list[dict] | None = [] if options.profile else None
    with options.out.open("a") as file:
        for row in timed_steps(options.model, options.parts, options.dtype, options.repeats, profiled):
            file.write(json.dumps(row | {"of": setting(options.model, options.dtype)}) + "\n")
            file.flush()
        file.writelines(json.dumps({"profile": found}) + "\n" for found in profiled or [])
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
