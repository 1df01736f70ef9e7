"""What a part of the visit finds: rows, on disk as soon as they are known, so that a stopped part leaves what it has."""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import torch


class Record(Protocol):
    """Adds a row to what a part has found."""

    def __call__(self, **row: Any) -> None:
        """Writes one row; values that JSON lacks as their text."""


def writer(path: Path) -> Record:
    """Adds rows to a file, a JSON object a line."""

    def record(**row: Any) -> None:
        with path.open("a") as file:
            file.write(json.dumps(row, default=str) + "\n")

    return record


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The whole rows of a file; a line that was cut off is left out, and there may be no file."""
    if not path.exists():
        return []
    rows = []
    for line in path.read_text().splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue
    return rows


def here() -> torch.device:
    """The GPU, or the CPU where there is none."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def tried(record: Record, of: dict[str, Any], run: Callable[[], dict[str, Any]]) -> None:
    """Records a row, or why there is none, so that one failure does not cost a part its other rows."""
    try:
        record(**of | run())
    except Exception as error:  # another package's or the driver's, of any kind
        record(**of, failed=failure(error))


def failure(error: BaseException) -> str:
    """An error in one line."""
    if isinstance(error, torch.OutOfMemoryError):
        return "out of memory"
    text = f"{type(error).__name__}: {error}".strip()
    return text.splitlines()[0][:300]


def run_part(part: Callable[[Record, bool], None], arguments: list[str] | None = None) -> None:
    """The command line of a part: where its rows go, and whether its sizes are tiny."""
    parser = argparse.ArgumentParser()
    parser.add_argument("rows", type=Path)
    parser.add_argument("--tiny", action="store_true")
    options = parser.parse_args(sys.argv[1:] if arguments is None else arguments)
    part(writer(options.rows), options.tiny)
