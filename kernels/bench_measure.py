"""How the benchmarks measure time and memory, on a GPU and on a CPU."""

import ctypes
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

SECONDS = 2.0
"""Time given to each measurement, where that is enough for five repetitions."""


@dataclass(frozen=True)
class Measurement:
    """Median time in milliseconds, and the peak of memory above what was there before, in bytes."""

    milliseconds: float
    memory: int
    repeats: int


def measure(run: Callable[[], object], device: torch.device, repeats: int) -> Measurement:
    """Time with a cold cache: CUDA events, or the clock on a CPU; median. At most `repeats`, at least three, runs."""
    peak = peak_memory(device)
    before = next(peak)
    run()  # the first run, which compiles, is the one whose memory counts: later ones find gradients and free blocks
    memory = next(peak) - before
    begun, taken = time.perf_counter(), list[float]()
    cold = torch.empty(256 << 20, dtype=torch.int8, device=device) if device.type == "cuda" else None
    while len(taken) < min(repeats, 3) or (
        len(taken) < repeats and (len(taken) < 5 or time.perf_counter() - begun < SECONDS)
    ):
        if cold is None:
            start = time.perf_counter()
            run()
            taken.append(1e3 * (time.perf_counter() - start))
            continue
        cold.zero_()
        first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        first.record()
        run()
        last.record()
        last.synchronize()
        taken.append(first.elapsed_time(last))
    return Measurement(statistics.median(taken), memory, len(taken))


def peak_memory(device: torch.device) -> Iterator[int]:
    """Bytes in use now, and then the most that were in use since; on CPUs of the process, by Linux's accounts."""
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        yield torch.cuda.memory_allocated()
        yield torch.cuda.max_memory_allocated()
        return
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark
    for name in ("VmRSS", "VmHWM"):
        lines = Path("/proc/self/status").read_text().splitlines()
        yield next(1024 * int(line.split()[1]) for line in lines if line.startswith(name))


def matmul_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Floating-point operations per second of a large square matrix product."""
    size = 8192 if device.type == "cuda" else 2048
    a, b = torch.randn(2, size, size, device=device).to(dtype)
    return 2e3 * size**3 / measure(lambda: a @ b, device, 20).milliseconds
