"""What stands around each attempt of a training job: how often it was tried, whether it got anywhere, whether to go on.

`python -m perdure.launch.attempt begin VERSION_DIRECTORY --max-restarts N --patience M` fails if the job should not
be tried again; `... end VERSION_DIRECTORY` fails unless the version is whole, with status 3 if another start trains it
now. Attempts are counted at their beginning,
so that those that a lost node cut off count as well.
"""

import argparse
import json
import logging
import os
import sys
import time
from pathlib import Path

from perdure.pipeline.core import logs
from perdure.pipeline.core.integrity import json_lines
from perdure.pipeline.core.manifest import is_finished
from perdure.pipeline.core.paths import VersionPaths
from perdure.pipeline.train import fence

logger = logging.getLogger("perdure.launch.attempt")  # also when it is `__main__`

TAKEN_OVER = 3
"""Exit status of `end` if another start has taken over: two that go back into the queue would end one another for ever."""


def refusal(steps: list[int], max_restarts: int, patience: int) -> str | None:
    """Why there should be no further attempt, or None.

    Args:
        steps: The newest checkpoint's step at the beginning of every earlier attempt, and now.
        max_restarts: Attempts allowed beyond the first.
        patience: Attempts in a row that may end without a new checkpoint.
    """
    if len(steps) > max_restarts + 1:
        return (
            f"{len(steps) - 1} attempts were made, {max_restarts} restarts are allowed (cluster.max_restarts)"
        )
    if len(steps) > patience and steps[-1] == steps[-1 - patience]:
        return (
            f"{patience} attempts in a row left no checkpoint after step {steps[-1]} "
            "(cluster.max_restarts_without_progress)"
        )
    return None


def attempts(version_directory: Path) -> list[dict]:
    """The attempts recorded so far.

    Returns:
        By attempt its name (`attempt`: job id and restart count), `time` (Unix seconds), `step` (of the newest checkpoint) and
        `fence` (number of the last start before).
    """
    file = VersionPaths(version_directory).attempts
    return json_lines(file, file.read_bytes().splitlines(keepends=True)) if file.exists() else []


def newest_step(version_directory: Path) -> int:
    """Step of the newest whole checkpoint; 0 without one."""
    return max(VersionPaths(version_directory).finished_checkpoints(), default=0)


def begin(version_directory: Path, max_restarts: int, patience: int) -> int:
    """Records an attempt, or says why there should be none; the exit status."""
    step = newest_step(version_directory)
    steps = [entry["step"] for entry in attempts(version_directory)]
    if reason := refusal([*steps, step], max_restarts, patience):
        logger.error(
            f"error: {version_directory.name}: given up: {reason}. Look for the cause above; then remove "
            f"{VersionPaths(version_directory).attempts} and launch again"
        )
        return 1
    record(version_directory)
    logger.info(f"attempt {len(steps) + 1}, from step {step}")
    return 0


def record(version_directory: Path) -> int:
    """Writes down that an attempt begins; the step that it begins from."""
    step = newest_step(version_directory)
    entry = {"attempt": os.environ.get("PERDURE_ATTEMPT"), "time": time.time(), "step": step}
    entry["fence"] = fence.newest(version_directory)[0]
    file = VersionPaths(version_directory).attempts
    file.parent.mkdir(exist_ok=True)
    with file.open("a") as lines:
        lines.write(json.dumps(entry) + "\n")
    return step


def end(version_directory: Path) -> int:
    """The exit status: 0 if the version is whole, `TAKEN_OVER` if another start trains it, else 1."""
    if is_finished(version_directory):
        return 0
    mine = os.environ.get("PERDURE_ATTEMPT")
    before = [entry["fence"] for entry in attempts(version_directory) if entry["attempt"] == mine]
    number, owner = fence.newest(version_directory)
    if before and number > before[-1] and owner != mine:
        logger.error(
            f"error: {version_directory.name}: another start trains this version now ({owner or 'by hand'}); this one ends "
            "and does not go back into the queue"
        )
        return TAKEN_OVER
    logger.info(f"not finished at step {newest_step(version_directory)}; back into the queue")
    return 1


def main(arguments: list[str]) -> int:
    """Runs one of the two."""
    parser = argparse.ArgumentParser(prog="perdure.launch.attempt")
    parser.add_argument("when", choices=("begin", "end"))
    parser.add_argument("version_directory", type=Path)
    parser.add_argument("--max-restarts", type=int, default=0)
    parser.add_argument("--patience", type=int, default=1)
    options = parser.parse_args(arguments)
    logs.configure(plain=True)
    if options.when == "end":
        return end(options.version_directory)
    return begin(options.version_directory, options.max_restarts, options.patience)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
