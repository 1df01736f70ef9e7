"""Errors that a user can cause: one readable line each, never a traceback."""

from dataclasses import dataclass
from typing import Any


class PerdureError(ValueError):
    """A mistake or mishap outside the program; the message says what, where, and what would be right."""

    exit_status = 1


class Stopped(Exception):
    """A signal asked for a stop, and everything is saved: no error, but nothing that follows is to be done."""


HIDDEN = ("cluster.environment", "cluster.setup")
"""Fields whose values may be secret: neither files nor the console show them."""
ELLIPSIS = "..."


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
        shown = self.value if self.value == ELLIPSIS else repr(self.value)
        return f"{self.path} = {shown}: {self.remedy}"


class RecipeError(PerdureError):
    """A recipe that cannot run, with all of its problems."""

    exit_status = 2

    def __init__(self, source: str, problems: list[Problem]):
        self.source = source
        self.problems = problems
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        super().__init__("\n".join([f"{source}: {count}", *(f"  {problem}" for problem in problems)]))
