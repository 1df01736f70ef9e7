"""How verbs speak: lines for people, JSON for programs."""

import json
import math
import sys
from collections.abc import Callable
from typing import Any

Say = Callable[[str], None]


def speaker(stream: Any = None) -> Say:
    """Prints a line: through rich on a terminal, plainly otherwise, at once in either case."""
    stream = stream or sys.stdout
    if stream.isatty():
        from rich.console import Console

        console = Console(file=stream, highlight=True)
        return lambda line: console.print(line, markup=False, soft_wrap=True)
    return lambda line: print(line, file=stream, flush=True)


def print_json(value: Any) -> None:
    """A value for programs, on stdout; numbers that are not finite are null, since JSON has none."""
    print(json.dumps(_finite(value), indent=1, default=str, ensure_ascii=False))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
