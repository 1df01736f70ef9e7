"""Whether ranks wait for one another forever: their recorded calls, played one against the other.

Every call waits for its partners, as NCCL's do at worst: a send for its receive, too, and a call for the one before it.
Transfers that are posted as one batch wait together.
"""

from collections.abc import Iterator
from itertools import groupby
from typing import Any

Call = dict[str, Any]
Unit = list[Call]
"""A collective, or the transfers of one batch."""


def units(calls: list[Call]) -> Iterator[Unit]:
    """The calls of a rank in order; transfers of one batch are together."""
    for _, members in groupby(enumerate(calls), key=lambda entry: batch_of(*entry)):
        yield [call for _, call in members]


def batch_of(number: int, call: Call) -> tuple[str, int]:
    """What calls that are posted together have in common, and no others."""
    batch = call.get("batch")
    return ("alone", number) if batch is None else ("batch", batch)


def first_stall(ranks: list[list[Call]]) -> str | None:
    """Plays all ranks' calls until they end or nobody can go on.

    Args:
        ranks: Every rank's calls, as `ledger.Ledger.calls` has them.

    Returns:
        None if all ranks end; otherwise a line for each rank that does not: where it is, and whom it waits for; or what
        differs between ranks that have met.
    """
    waiting = [list(units(calls))[::-1] for calls in ranks]  # the next one is the last
    while any(waiting):
        moved = False
        for rank, left in enumerate(waiting):
            if not left:
                continue
            if "peer" in left[-1][0]:
                moved |= transfer(waiting, rank)
            elif (met := meeting(waiting, rank)) is not None:
                if len({signature(call) for call in met}) > 1:
                    return "\n".join(f"{told(call)} {call.get('sizes', '')}" for call in met)
                for member in met[0]["ranks"]:
                    waiting[member].pop()
                moved = True
        if not moved:
            return "\n".join(
                f"rank {rank} waits in {told(left[-1][0])}" if left else f"rank {rank} has ended"
                for rank, left in enumerate(waiting)
            )
    return None


def meeting(waiting: list[list[Unit]], rank: int) -> list[Call] | None:
    """The calls of all members of the group that a rank waits in, if all of them have come to it."""
    call = waiting[rank][-1][0]
    found = [waiting[member][-1][0] for member in call["ranks"] if waiting[member]]
    there = all("peer" not in other and other["group"] == call["group"] for other in found)
    return found if there and len(found) == len(call["ranks"]) else None


def signature(call: Call) -> str:
    """What all members of a group must call alike."""
    return repr([call["name"], call.get("sizes"), call.get("root")])


def transfer(waiting: list[list[Unit]], rank: int) -> bool:
    """Completes the transfers of a rank whose partners wait for them; whether there were any."""
    own, moved = waiting[rank][-1], False
    for call in list(own):
        theirs = waiting[call["peer"]][-1] if waiting[call["peer"]] else []
        partner = next((other for other in theirs if answers(call, rank, other)), None)
        if partner is not None:
            own.remove(call)
            theirs.remove(partner)
            moved = True
            if not theirs:
                waiting[call["peer"]].pop()
    if not own:
        waiting[rank].pop()
    return moved


def answers(call: Call, rank: int, other: Call) -> bool:
    """Whether another rank's call is the other end of this rank's transfer."""
    ends = {call["name"], other["name"]} == {"send", "recv_"}
    return ends and other["peer"] == rank and all(call[key] == other[key] for key in ("group", "sizes"))


def told(call: Call) -> str:
    """A call in words."""
    whom = f"rank {call['peer']}" if "peer" in call else f"ranks {call['ranks']}"
    return f"{call['name']} with {whom} at {call['place']}"
