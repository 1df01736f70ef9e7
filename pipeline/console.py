"""How verbs speak: lines for people, JSON for programs."""

import json
import sys
from collections.abc import Callable
from typing import Any

from perdure.pipeline.manifest import finite

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
    print(json.dumps(finite(value), indent=1, default=str, ensure_ascii=False))
