"""What the hardware counts: Nsight Compute's counters of K1 and K2, and compute-sanitizer's memory check."""

import csv
import glob
import io
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import torch

from perdure.kernels.bench import TINY, make_problem
from perdure.kernels.bench_methods import METHODS
from perdure.kernels.visit.rows import Record, here, run_part

METRICS = {
    "gpu__time_duration.sum": "time",
    "dram__bytes_read.sum": "DRAM read",
    "dram__bytes_write.sum": "DRAM written",
    "lts__t_bytes.sum": "L2 traffic",
    "lts__t_sector_hit_rate.pct": "L2 hits",
    "sm__inst_executed_pipe_tensor_op_hmma.sum": "tensor-core instructions",
    "sm__pipe_tensor_op_hmma_cycles_active.avg.pct_of_peak_sustained_active": "tensor cores active",
    "smsp__issue_active.avg.pct_of_peak_sustained_active": "issue slots busy",
    "launch__registers_per_thread": "registers",
    "launch__occupancy_limit_registers": "blocks by registers",
    "launch__occupancy_limit_shared_mem": "blocks by shared memory",
}
"""Nsight Compute's names, and what they mean here."""
EVERYWHERE = (
    "gpu__time_duration.sum",
    "dram__bytes_read.sum",
    "dram__bytes_write.sum",
    "launch__registers_per_thread",
)
"""Those that every version has on every GPU, asked for where all together are refused."""
KERNELS = "regex:statistics|gradient"
LAUNCHES = 6
SECONDS = 40
"""Time for a tool, less than its part has: so there is a row that says that it took longer."""
UNCACHED = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
"""Each tensor has memory of its own: torch's allocator makes many out of one, and what is outside a tensor is then inside
that."""


def counters(record: Record, tiny: bool) -> None:
    """Records a row for each launch of K1 and K2 that Nsight Compute measured."""
    tool = installed("ncu")
    if tool is None:
        record(what="counters", failed="ncu is not installed")
        return
    for metrics in (METRICS, EVERYWHERE):
        command = [tool, "--clock-control", "none", "--csv", "-k", KERNELS, "-c", str(LAUNCHES)]
        command += ["--metrics", ",".join(metrics), *once("Llama-3-8B", tiny)]
        done = _run(command)
        rows = launches(done.stdout)
        for row in rows:
            record(what="counters", **row)
        if rows:
            return
        record(what="counters", failed=_last_lines(done.stdout + done.stderr))


def memcheck(record: Record, tiny: bool) -> None:
    """Records how many errors compute-sanitizer finds in a loss, forward and backward."""
    tool = installed("compute-sanitizer")
    if tool is None:
        record(what="memcheck", failed="compute-sanitizer is not installed")
        return
    # Errors of CUDA's own calls are no accesses: some that torch makes may fail by right.
    command = [tool, "--tool", "memcheck", "--report-api-errors", "no", *once("tiny", tiny)]
    done = _run(command, os.environ | UNCACHED)
    summary = re.search(r"ERROR SUMMARY: (\d+) error", done.stdout)
    if summary is None or done.returncode:
        record(what="memcheck", failed=_last_lines(done.stdout + done.stderr))
    else:
        record(what="memcheck", errors=int(summary[1]), exact=summary[1] == "0")


def installed(tool: str) -> str | None:
    """Path of one of CUDA's tools, which need not be on the search path."""
    places = [*glob.glob(f"/usr/local/cuda*/bin/{tool}"), *glob.glob(f"/opt/nvidia/nsight-compute/*/{tool}")]
    return shutil.which(tool) or next(iter(sorted(places, reverse=True)), None)


def once(head: str, tiny: bool) -> list[str]:
    """The command of a process that computes one loss, forward and backward."""
    return [sys.executable, "-m", "perdure.kernels.visit.counters", "once", "tiny" if tiny else head]


def launches(text: str) -> list[dict[str, Any]]:
    """Rows of Nsight Compute's CSV, which has a line for each launch and metric."""
    lines = text.splitlines()
    begin = next((number for number, line in enumerate(lines) if line.startswith('"ID"')), None)
    if begin is None:
        return []
    found: dict[str, dict[str, Any]] = {}
    for line in csv.DictReader(io.StringIO("\n".join(lines[begin:]))):
        name = METRICS.get(line.get("Metric Name", ""))
        if name is None:
            continue
        launch = found.setdefault(line["ID"], {"kernel": line["Kernel Name"].split("(")[0]})
        launch[name] = f"{line['Metric Value']} {line['Metric Unit']}".strip()
    return list(found.values())


def run_once(head: str) -> None:
    """One loss of 8,192 tokens and its gradients; of a few if tiny."""
    device = here()
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    shape, tokens = (TINY["tiny"], 24) if head == "tiny" else ((4096, 128256), 8192)
    METHODS["triton"](make_problem(*shape, tokens, dtype, device), 0.6)
    if device.type == "cuda":
        torch.cuda.synchronize()


def _run(
    command: list[str], environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Runs a tool; one that takes too long is ended, and says so."""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, env=environment)
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 1, "", f"not done within {SECONDS} s")


def _last_lines(text: str) -> str:
    return " / ".join(line.strip() for line in text.splitlines() if line.strip())[-300:]


def main(arguments: list[str]) -> None:
    """`once HEAD`, or where the rows go and what is recorded."""
    if arguments[0] == "once":
        run_once(*arguments[1:])
    else:
        rows, what, *others = arguments
        run_part({"counters": counters, "memcheck": memcheck}[what], [rows, *others])


if __name__ == "__main__":
    main(sys.argv[1:])
