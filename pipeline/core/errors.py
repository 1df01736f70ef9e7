"""Errors that a user can cause: one readable line each, never a traceback."""

from dataclasses import dataclass
from typing import Any


class PerdureError(ValueError):
    """A mistake or mishap outside the program; the message says what, where, and what would be right."""

    exit_status = 1


class Stopped(Exception):
    """Raised when a signal asked for a stop and everything is saved: not an error, but nothing that follows is done."""


HIDDEN = ("cluster.environment", "cluster.setup")
"""Fields whose values may be secret: neither files nor the console show them."""
ELLIPSIS = "..."
MAX_SHOWN, MAX_LISTED = 400, 200
"""Letters of a value, and mistakes of a recipe, that the console shows."""


@dataclass(frozen=True)
class Problem:
    """One mistake in a recipe.

    Attributes:
        path: Dotted path of the field, as in `training.seq_length`.
        value: What stands there.
        remedy: What would be right.
        absent: Whether it is only that something is not on this machine; another one may have it.
    """

    path: str
    value: Any
    remedy: str
    absent: bool = False

    def __post_init__(self) -> None:
        if self.path == "cluster" or self.path.startswith(HIDDEN):
            object.__setattr__(self, "value", ELLIPSIS)

    def __str__(self) -> str:
        shown = self.value if self.value == ELLIPSIS else _short(repr(self.value))
        return f"{_short(self.path)} = {shown}: {self.remedy}"


def _short(text: str) -> str:
    """A text for one line of the console: its beginning and its end if it is long."""
    return text if len(text) <= MAX_SHOWN else f"{text[: MAX_SHOWN // 2]} ... {text[-MAX_SHOWN // 2 :]}"


class RecipeError(PerdureError):
    """A recipe that cannot run, with all of its problems."""

    exit_status = 2

    def __init__(self, source: str, problems: list[Problem]):
        self.source = source
        self.problems = problems
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        lines = [f"  {problem}" for problem in problems[:MAX_LISTED]]
        if len(problems) > MAX_LISTED:
            lines.append(f"  and {len(problems) - MAX_LISTED:,} more")
        super().__init__("\n".join([f"{source}: {count}", *lines]))
