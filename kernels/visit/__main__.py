"""Runs a visit: `python -m perdure.kernels.visit OUT`; see `--help` and kernels/README.md.

Each part is a process with a time limit of its own. What it found is on disk as soon as it ends, or is stopped, so that a
visit that is cut off leaves all that it has. Nothing is run that would outlast the time of the whole.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from perdure.kernels.visit.parts import PARTS, ROOT, Part
from perdure.kernels.visit.report import findings, markdown, measured
from perdure.kernels.visit.rows import read_rows

SECONDS = 540
LEAST = 10
"""Seconds left with which no further part is begun: loading torch takes most of them."""
GRACE = 2.0
"""Seconds that a part has to end by itself once its time is over."""
RANKS = {
    "CUDA_DEVICE_MAX_CONNECTIONS": "1",
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
    "PYTORCH_ALLOC_CONF": "expandable_segments:True",
}
"""What the trainer's ranks begin with (`pipeline/core/gpu_settings.py`, which this room does not import)."""
RESULTS = "visit.json"
LOG = "visit.log"
SIGNAL = "ended by a signal"
"""How a part ended in which the whole visit was asked to end."""


class Ended(KeyboardInterrupt):
    """A signal asks the visit to end."""


def run_part(part: Part, out: Path, seconds: float, tiny: bool) -> dict[str, Any]:
    """Runs one part for at most some seconds: how it ended, and its rows."""
    rows = out / f".{part.name}.rows"
    rows.unlink(missing_ok=True)
    command, begun = part.command(rows, tiny), time.monotonic()
    with (out / LOG).open("a") as log:
        log.write(f"\n=== {part.name}: {' '.join(command[1:])}\n")
        log.flush()
        start = log.tell()
        process = subprocess.Popen(
            command, stdout=log, stderr=log, env=environment(tiny), start_new_session=True
        )
        try:
            status = process.wait(seconds)
            ended = "done" if status == 0 else f"failed: exit status {status}"
        except subprocess.TimeoutExpired:
            ended = f"stopped after {seconds:.0f} s"
        except Ended:
            ended = SIGNAL
        finally:
            _end(process)
    found = {"ended": ended, "seconds": round(time.monotonic() - begun, 1), "rows": read_rows(rows)}
    rows.unlink(missing_ok=True)
    if ended != "done":
        with (out / LOG).open() as log:
            log.seek(start)
            said = [line.strip() for line in log.read().splitlines() if line.strip()]
        found["said"] = said[-3:]
    return found


def _end(process: subprocess.Popen) -> None:
    """Ends a part and all that it started."""
    for number, wait in ((signal.SIGTERM, GRACE), (signal.SIGKILL, None)):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            break
        try:
            process.wait(wait)
        except subprocess.TimeoutExpired:
            continue
    process.wait()
    # What it had started dies a moment after the signal, and the next part needs the memory.
    deadline = time.monotonic() + GRACE
    while _group_runs(process.pid) and time.monotonic() < deadline:
        time.sleep(0.02)


def _group_runs(group: int) -> bool:
    """Whether a process of a group is still there."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def environment(tiny: bool) -> dict[str, str]:
    """Environment of a part: that of a rank of the trainer; kernels are interpreted where there is no GPU, and nowhere else."""
    found = RANKS | {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    found |= {"PYTHONUNBUFFERED": "1"}
    if tiny and not torch.cuda.is_available():
        found |= {"TRITON_INTERPRET": "1", "TORCHDYNAMO_DISABLE": "1"}
    return found


def visit(out: Path, parts: Sequence[Part], seconds: float, tiny: bool) -> dict[str, Any]:
    """Runs parts until the time is over, and writes what they found after each.

    Args:
        out: Directory for the results.
        parts: In the order of their value.
        seconds: Time for all.
        tiny: Small sizes.

    Returns:
        `begun` (ISO 8601), `commit`, `tiny`, `seconds`; `parts` by name: `question`, `ended`, `seconds`, `rows`, `said`;
        `measured`: what `perdure check` reads.
    """
    begun = time.monotonic()
    results: dict[str, Any] = {"begun": datetime.now(UTC).isoformat(timespec="seconds"), "commit": _commit()}
    results |= {"tiny": tiny, "parts": {}}
    for part in parts:
        left = seconds - (time.monotonic() - begun)
        if left < LEAST:
            found: dict[str, Any] = {
                "ended": f"left out: {max(left, 0):.0f} s were left",
                "seconds": 0,
                "rows": [],
            }
        else:
            found = run_part(part, out, min(part.seconds, left), tiny)
        results["parts"][part.name] = {"question": part.question} | found
        results["seconds"] = round(time.monotonic() - begun, 1)
        results["measured"] = measured(results)
        write(out / RESULTS, results)
        print(
            f"{part.name:<14}{found['seconds']:>7.1f} s  {found['ended']}, {len(found['rows'])} rows",
            flush=True,
        )
        if found["ended"] == SIGNAL:
            break
    return results


def write(path: Path, results: dict[str, Any]) -> None:
    """Writes the results beside the file, and then in its place."""
    beside = path.with_suffix(".part")
    beside.write_text(json.dumps(results, indent=1, default=str) + "\n")
    beside.replace(path)


def _commit() -> str | None:
    """The checkout's commit; None outside one."""
    command = ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except OSError:
        return None
    return done.stdout.strip() or None


def _ended(*_signal: object) -> None:
    raise Ended


def main(arguments: list[str]) -> int:
    """The exit status: 0 if all that was asked for ran, and everything that is checked is right."""
    names = [part.name for part in PARTS]
    parser = argparse.ArgumentParser(
        prog="python -m perdure.kernels.visit",
        description="Measures everything worth knowing of a machine with a GPU, most valuable first.",
        epilog="Parts: " + "; ".join(f"{part.name}: {part.question}" for part in PARTS),
    )
    parser.add_argument("out", type=Path, help=f"directory for {RESULTS} and {LOG}")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="time for all of it (%(default)s)")
    parser.add_argument("--only", nargs="+", choices=names, metavar="PART", help="these parts alone")
    parser.add_argument(
        "--tiny", action="store_true", help="every part at small sizes; without a GPU interpreted"
    )
    parser.add_argument("--report", action="store_true", help="run nothing, print what OUT holds as Markdown")
    options = parser.parse_args(arguments)
    if options.report:
        path = options.out / RESULTS
        if not path.is_file():
            print(
                f"error: {path} is missing; a visit writes it: python -m perdure.kernels.visit {options.out}",
                file=sys.stderr,
            )
            return 2
        print(markdown(json.loads(path.read_text())))
        return 0
    if not options.tiny and not torch.cuda.is_available():
        print(
            "error: no GPU is visible here; --tiny runs every part at small sizes without one",
            file=sys.stderr,
        )
        return 2
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / LOG).write_text("")
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _ended)
    chosen = [part for part in PARTS if options.only is None or part.name in options.only]
    results = visit(options.out.resolve(), chosen, options.seconds, options.tiny)
    print()
    wrong = findings(results)
    for line in wrong:
        print(f"amiss: {line}")
    print(
        f"{results.get('seconds', 0):.0f} s in all; as Markdown: python -m perdure.kernels.visit {options.out} --report"
    )
    return int(bool(wrong) or len(results["parts"]) < len(chosen))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
