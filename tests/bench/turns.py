"""How the benches measure: what is compared takes turns, and a difference counts where every turn agrees on it."""

import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TypeVar

import psutil

Found = TypeVar("Found")

AGREEING = 6
"""Turns that all have to agree: by chance that happens in 3 of 100 comparisons of equals (sign test)."""


def in_turns(runs: dict[str, Callable[[], Found]], turns: int) -> dict[str, list[Found]]:
    """Calls all functions one after the other, `turns` times; what they returned, by name."""
    found: dict[str, list[Found]] = {name: [] for name in runs}
    for _ in range(turns):
        for name, run in runs.items():
            found[name].append(run())
    return found


def ratio(ours: list[float], other: list[float]) -> dict:
    """Ours by the other's of the same turn: the median, the lowest and the highest; `told`: whether it is off 1.

    `told` is `less` or `more` if all turns agree, of which there are `AGREEING` at least, and None otherwise.
    """
    each = [a / b for a, b in zip(ours, other, strict=True)]
    low, high = min(each), max(each)
    told = None
    if len(each) >= AGREEING and not low <= 1 <= high:
        told = "less" if high < 1 else "more"
    return {"median": statistics.median(each), "low": low, "high": high, "told": told}


def said(found: dict) -> str:
    """A ratio with its spread: `0.56 (0.54 to 0.58)`."""
    return f"{found['median']:.2f} ({found['low']:.2f} to {found['high']:.2f})"


def claim(found: dict, less: str, more: str) -> str:
    """What a ratio says: `less` or `more`, or that the two are not told apart."""
    return {"less": less, "more": more, None: "not told apart from"}[found["told"]]


def busy_cores(seconds: float) -> float:
    """Cores that are at work while this process sleeps: other programs'."""
    return psutil.cpu_percent(interval=seconds) / 100 * (psutil.cpu_count() or 1)


@contextmanager
def busy_program() -> Iterator[None]:
    """Another program that never waits, meanwhile."""
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        time.sleep(0.5)
        assert process.poll() is None
        yield
    finally:
        process.kill()
        process.wait()


def machine() -> dict:
    """What the numbers depend on and a reader may have another of."""
    info = Path("/proc/cpuinfo")
    names = [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if "model name" in line]
    packages = ("torch", "megatron-core", "transformers", "datatrove")
    return {
        "processor": names[0] if names else platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "gigabytes": round(psutil.virtual_memory().total / 2**30),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in packages},
    }
