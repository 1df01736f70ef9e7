"""What a recipe costs beside other programs: `python tests/busy.py [RECIPE] [--set ...]` runs it twice and prints both costs.

First alone, then beside a busy process for each core. CPU time is that of the command and of all processes that came from
it. On a machine that others use meanwhile, neither run is alone, and the comparison says little. The exit status is 1 if the
second run took more than `LIMIT` times the first one's CPU time.
"""

import ctypes
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from perdure.pipeline.core.cores import number_of_cores

ROOT = Path(__file__).parent.parent
QUICKSTART = ROOT / "data_recipes" / "quickstart.yaml"
LIMIT = 1.3
"""CPU time beside busy processes, in that of a quiet run, which the requirement allows."""
SPIN = "import os; parent = os.getppid()\nwhile os.getppid() == parent: pass"
"""A program that keeps a core busy, and ends with us."""
PR_SET_CHILD_SUBREAPER = 36  # prctl(2)


class Cost(NamedTuple):
    """Seconds that a command took: of wall clock, and of CPUs in its own code and in the system's."""

    wall: float
    user: float
    system: float

    @property
    def cpu(self) -> float:
        """CPU time of either kind, in seconds."""
        return self.user + self.system


def cost(command: Sequence[str]) -> Cost:
    """Runs a command to its end, output to stderr, and returns what it and everything that came from it took."""
    begun = time.monotonic()
    child = os.fork()
    if not child:
        # Whoever outlives its parent, as a server of forks does, is waited for here, and so counted.
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)
        status = subprocess.run(command, stdout=2).returncode
        while True:
            try:
                os.wait()
            except ChildProcessError:
                os._exit(status)
    _, status, used = os.wait4(child, 0)
    if status:
        raise SystemExit(f"{' '.join(command)}: it failed")
    return Cost(time.monotonic() - begun, used.ru_utime, used.ru_stime)


@contextmanager
def busy(number: int) -> Iterator[None]:
    """Keeps so many processes busy meanwhile."""
    spinning = [subprocess.Popen([sys.executable, "-c", SPIN]) for _ in range(number)]
    try:
        yield
    finally:
        for process in spinning:
            process.kill()
            process.wait()


def compared(command: Sequence[str]) -> dict[int, Cost]:
    """A command's cost by the number of busy processes beside it: none, and one for each core."""
    costs = {}
    for number in (0, number_of_cores()):
        with busy(number):
            costs[number] = cost(command)
    return costs


def times(costs: dict[int, Cost]) -> float:
    """CPU time beside busy processes, in that without any."""
    quiet, crowded = costs.values()
    return crowded.cpu / quiet.cpu


def main(arguments: list[str]) -> int:
    """Runs the recipe, quickstart if none is named, alone and beside busy processes; prints a table."""
    recipe = [] if arguments and not arguments[0].startswith("-") else [str(QUICKSTART)]
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        # A directory for each run, so that neither finds what the other has made.
        inside = f'exec "$@" --out "$(mktemp -d {folder}/XXXXXX)/run"'
        perdure = [sys.executable, "-m", "perdure.pipeline.cli", "run", *recipe, *arguments]
        costs = compared(["sh", "-c", inside, "sh", *perdure])
    print(f"{number_of_cores()} cores; load average before the first run {load:.1f}\n")
    print("| busy processes beside it | CPU, s | of it system, s | wall clock, s |")
    print("|---|---|---|---|")
    for number, found in costs.items():
        print(f"| {number} | {found.cpu:.1f} | {found.system:.1f} | {found.wall:.0f} |")
    print(f"\nCPU time beside busy processes: {times(costs):.2f} times (at most {LIMIT})")
    return int(times(costs) > LIMIT)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
