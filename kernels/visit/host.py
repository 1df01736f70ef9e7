"""What a checkpoint's way to disk needs of the host: pinned memory, and a fork that reads it."""

import os
import time
from collections.abc import Callable
from typing import Any

import torch

from perdure.kernels.visit.rows import Record, here, run_part, tried

NUMBERS = 1_100_000_000
"""float32 numbers: 4.4 GB, not a power of two, so that rounding up shows."""


def host(record: Record, tiny: bool) -> None:
    """Records the copy to pinned memory, whether a fork reads it, and what stays pinned."""
    numbers = 1000 if tiny else NUMBERS
    tried(record, {"what": "copies"}, lambda: copies(numbers))
    tried(record, {"what": "fork"}, lambda: fork(numbers))


def copies(numbers: int) -> dict[str, Any]:
    """Seconds of copies to the host: into memory that is pinned anew, pinned before, and pageable; what stays pinned."""
    source = torch.ones(numbers, device=here())
    pin = source.is_cuda

    def seconds(run: Callable[[], object]) -> float:
        _synchronize()
        begun = time.perf_counter()
        run()
        _synchronize()
        return time.perf_counter() - begun

    into: dict[str, torch.Tensor] = {}

    def pin_and_copy() -> None:
        into["pinned"] = torch.empty(numbers, pin_memory=pin).copy_(source, non_blocking=True)

    found = {
        "gb": 4 * numbers / 1e9,
        "s, pinned anew": seconds(pin_and_copy),
        "s, pinned before": seconds(lambda: into["pinned"].copy_(source, non_blocking=True)),
        "s, pageable": seconds(lambda: source.to("cpu")),
    }
    return found | {"pinned bytes while kept": pinned_bytes()} | _after(into)


def _after(into: dict[str, torch.Tensor]) -> dict[str, Any]:
    into.clear()
    return {"pinned bytes after": pinned_bytes()}


def pinned_bytes() -> dict[str, int] | None:
    """Current sizes of torch's cache of pinned memory; None where this torch does not tell."""
    told = getattr(torch.cuda, "host_memory_stats", None)
    if told is None or not torch.cuda.is_available():
        return None
    return {name: value for name, value in told().items() if name.endswith("bytes.current")}


def fork(numbers: int) -> dict[str, Any]:
    """Whether a forked child reads what was copied to pinned memory, as the writer of a checkpoint does."""
    source = torch.arange(numbers, device=here(), dtype=torch.float32)
    copied = torch.empty(numbers, pin_memory=source.is_cuda).copy_(source)
    _synchronize()
    expected = float(copied[:1000].sum())
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writing, repr(float(copied[:1000].sum())).encode())
        os._exit(0)
    os.close(writing)
    _, status = os.waitpid(child, 0)
    with os.fdopen(reading) as answer:
        told = answer.read()
    return {"status": status, "exact": told == repr(expected)}


def _synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


if __name__ == "__main__":
    run_part(host)
