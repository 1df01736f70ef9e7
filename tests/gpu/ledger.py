"""What a pretended GPU sees of a program: where the host waits, what is launched, what ranks say to one another."""

import sys
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from gpu import pinned

ROOMS = ("perdure.", "megatron.core.")


@dataclass
class Ledger:
    """All that one process has been seen to do since `clear`.

    Attributes:
        waits: How often the host waited for the GPU, by place and reason.
        sorts: Operations that sort under deterministic algorithms, by place: slow, but right.
        launches: Triton launches, in order: what `compile_launches.py` compiles.
        calls: Collectives and point-to-point transfers, in order: what `matching.py` matches.
        emptied: How often pinned memory that nothing uses was given back, by place.
    """

    waits: Counter[str] = field(default_factory=Counter)
    sorts: Counter[str] = field(default_factory=Counter)
    launches: list[dict[str, Any]] = field(default_factory=list)
    calls: list[dict[str, Any]] = field(default_factory=list)
    emptied: Counter[str] = field(default_factory=Counter)

    def clear(self) -> None:
        """Forgets everything."""
        for seen in (self.waits, self.sorts, self.launches, self.calls, self.emptied):
            seen.clear()

    def wait(self, reason: str, times: int = 1) -> None:
        """Counts a wait of the host, at the place in the code that asks for it; whatever was copied meanwhile has arrived."""
        self.waits[f"{place()}: {reason}"] += times
        pinned.land()


LEDGER = Ledger()
"""Of this process."""


def place() -> str:
    """The innermost function of the product or of Megatron that is running: `kernels.select._highest`."""
    frame = sys._getframe(1)
    while frame is not None:
        module = frame.f_globals.get("__name__", "")
        if module.startswith(ROOMS):
            return f"{module.removeprefix('perdure.')}.{frame.f_code.co_qualname}".replace(".<locals>", "")
        frame = frame.f_back
    return "outside"
