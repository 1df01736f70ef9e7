"""What machine this is: versions, device, clocks, and the rates that all other numbers are held against."""

import importlib.metadata
import platform
import shutil
import subprocess
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from perdure.kernels.bench_measure import measure
from perdure.kernels.visit.rows import Record, here, run_part, tried

PACKAGES = (
    "torch",
    "triton",
    "numpy",
    "megatron-core",
    "transformers",
    "liger-kernel",
    "cut-cross-entropy",
    "transformer_engine",
    "flash-attn",
    "flash-attn-3",
)
CLOCKS = (
    "name",
    "driver_version",
    "clocks.sm",
    "clocks.max.sm",
    "clocks.mem",
    "power.draw",
    "power.limit",
    "temperature.gpu",
    "ecc.mode.current",
)
"""What is asked of `nvidia-smi`."""


def facts(record: Record, tiny: bool) -> None:
    """Records versions, the device, its clocks before and after work, and its rates."""
    device = here()
    record(kind="versions", python=platform.python_version(), **{name: _version(name) for name in PACKAGES})
    tried(record, {"kind": "device"}, lambda: _device(device))
    record(kind="clocks", when="before", **clocks())
    for run in (1, 2):  # twice, so that the difference tells what two numbers below may differ by
        for name, rate in rates(device, 256 if tiny else 8192).items():
            tried(record, {"kind": "rate", "rate": name, "run": run}, rate)
    record(kind="clocks", when="after", **clocks())


def clocks() -> dict[str, str]:
    """Clocks, power and temperature of the first GPU by `nvidia-smi`, or why they are not known."""
    if shutil.which("nvidia-smi") is None:
        return {"missing": "nvidia-smi is not installed"}
    command = ["nvidia-smi", f"--query-gpu={','.join(CLOCKS)}", "--format=csv,noheader", "--id=0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    if done.returncode:
        return {"missing": (done.stderr or done.stdout).strip()[:200]}
    return dict(zip(CLOCKS, (value.strip() for value in done.stdout.strip().split(","))))


def rates(device: torch.device, size: int) -> dict[str, Callable[[], dict[str, Any]]]:
    """Ways to measure a device: products of `size`, and a copy."""
    a, b = torch.randn(2, size, size, device=device).bfloat16()
    total = torch.zeros(size, size, device=device)
    numbers = torch.randn(size * size * 4, device=device)
    copy = torch.empty_like(numbers)

    def product(run: Callable[[], Tensor]) -> dict[str, Any]:
        return {"tflops": 2 * size**3 / measure(run, device, 12).milliseconds / 1e9}

    def moved() -> dict[str, Any]:
        return {
            "gb_per_s": 8 * len(numbers) / measure(lambda: copy.copy_(numbers), device, 12).milliseconds / 1e6
        }

    return {
        "bf16 product": lambda: product(lambda: a @ b),
        "fp32 product": lambda: product(lambda: total @ total),
        "bf16 product, added to fp32": lambda: product(
            lambda: torch.addmm(total, a.t(), b, out_dtype=torch.float32, out=total)
        ),
        "copy": moved,
    }


def _device(device: torch.device) -> dict[str, Any]:
    if device.type == "cpu":
        return {"device": platform.processor() or "cpu", "threads": torch.get_num_threads()}
    found = torch.cuda.get_device_properties(device)
    return {
        "device": found.name,
        "capability": f"{found.major}.{found.minor}",
        "memory": found.total_memory,
        "multiprocessors": found.multi_processor_count,
        "l2": getattr(found, "L2_cache_size", None),
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


if __name__ == "__main__":
    run_part(facts)
