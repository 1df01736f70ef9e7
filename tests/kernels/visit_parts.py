"""Runs parts of the visit as it would, tiny, in forks of one process: `python visit_parts.py DIRECTORY cpu|gpu NAME ...`.

`gpu` is the pretended one. Writes `<name>.rows` and prints a line of JSON: the exit status by part.
"""

import json
import os
import runpy
import sys
import traceback
from pathlib import Path

import torch
from gpu import machine

import perdure.kernels.bench_methods  # noqa: F401 - what parts share, loaded once
from perdure.kernels.visit.parts import PARTS

CHECK_ARGUMENTS = "arguments"
"""In place of `cpu` or `gpu`: parses the arguments of a whole visit, and does nothing."""


def pretend() -> None:
    """What measurements ask of a GPU, beside what the trainer asks."""
    machine.install(computed="interpreted")  # what `exact` judges are the kernels
    machine.Stream.elapsed_time = lambda self, other: 1.0  # type: ignore[attr-defined]
    torch.Generator = lambda device="cpu", make=torch.Generator: make("cpu")  # type: ignore[assignment, misc]
    torch.cuda.reset_peak_memory_stats = lambda *_: None
    activities = [torch.profiler.ProfilerActivity.CPU]
    make = torch.profiler.profile
    torch.profiler.profile = lambda **_: make(activities=activities)  # type: ignore[assignment, misc]
    torch.cuda.host_memory_stats = lambda: {"allocated_bytes.current": 0, "num_host_alloc": 1}


def run(module: str, arguments: list[str]) -> int:
    """A part's process, in a fork."""
    if (child := os.fork()) == 0:
        status = 1
        try:
            sys.argv = [module, *arguments]
            runpy.run_module(module, run_name="__main__", alter_sys=True)
            status = 0
        except SystemExit as leaving:
            status = int(leaving.code or 0)
        except BaseException:
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main() -> None:
    directory, how, *names = sys.argv[1:]
    if how == "gpu":
        pretend()
    statuses = {}
    for part in PARTS:
        if part.name not in names:
            continue
        rows = Path(directory) / f"{part.name}.rows"
        given = part.command(rows, tiny=how != CHECK_ARGUMENTS)[3:]
        statuses[part.name] = run(part.module, given + ["--help"] * (how == CHECK_ARGUMENTS))
    print("STATUSES", json.dumps(statuses))


if __name__ == "__main__":
    main()
