"""Collectives about files: rank 0 looks and all ranks act on what it saw; barriers that wait for slow files.

Machines see a shared file system a little differently for a while (NFS caches attributes and absent names, up to a minute):
ranks that each looked for themselves could go on from different checkpoints. And what one rank does with files, while the
others wait, may take longer than any collective of training should.
"""

import socket
import time
from collections.abc import Callable
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import torch.distributed as dist

from perdure.pipeline.core.errors import PerdureError

T = TypeVar("T")

FILE_TIME = timedelta(hours=6)
"""How long ranks wait for one that reads, writes or deletes files.

`cluster.timeout_seconds` does not hold here: terabytes may take longer, and would again at every retry. A rank that dies ends
the others at once nevertheless: gloo sees its connections close, its starter kills the ranks of its machine, and Slurm the
whole step. What is left is a rank that hangs but lives, in a file system that does not answer: that ends after this time,
or with the job's time limit.
"""

VISIBLE_SECONDS = 150.0
"""How long a file that rank 0 sees may be unseen elsewhere: NFS caches that a name is absent for 60 s (`acdirmax`)."""


def group() -> dist.ProcessGroup:
    """Process group of all ranks over gloo, to which NCCL's time limit does not apply; the first call is a collective."""
    return _group(dist.group.WORLD)


@cache
def _group(_world: dist.ProcessGroup) -> dist.ProcessGroup:
    return dist.new_group(backend="gloo", timeout=FILE_TIME)


@cache
def part(group_: dist.ProcessGroup) -> dist.ProcessGroup:
    """The same ranks as a group of training, over gloo; all ranks must call this, each for its own of disjoint groups."""
    members = sorted({tuple(ranks) for ranks in from_all(dist.get_process_group_ranks(group_))})
    own, _ = dist.new_subgroups_by_enumeration(list(map(list, members)), timeout=FILE_TIME, backend="gloo")
    return own


def barrier() -> None:
    """Waits for all ranks, however long files take."""
    dist.barrier(group=group())


def from_first(look: Callable[[], T]) -> T:
    """Returns on all ranks what `look` returns on rank 0."""
    found = [look() if dist.get_rank() == 0 else None]
    dist.broadcast_object_list(found, 0, group())
    return found[0]  # type: ignore[return-value]


def from_all(value: T) -> list[T]:
    """Every rank's value, by rank, on all ranks."""
    found: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(found, value, group())
    return found


def require_same(what: str, value: Any) -> None:
    """Raises PerdureError on all ranks if `value`, which each has read for itself, is not the same on all of them."""
    found = from_all((value, socket.gethostname()))
    for rank, (other, machine) in enumerate(found):
        if other != found[0][0]:
            raise PerdureError(
                f"{what}: rank 0 on {found[0][1]} reads {found[0][0]}, rank {rank} on {machine} reads {other}; the machines' "
                "views of the shared file system differ. Run the same command again"
            )


def await_file(path: Path) -> None:
    """Waits until this machine sees a file that another one has written.

    Raises:
        PerdureError: If it does not within `VISIBLE_SECONDS`.
    """
    begun = time.monotonic()
    while not path.exists():
        if time.monotonic() - begun > VISIBLE_SECONDS:
            raise PerdureError(
                f"{path}: another machine sees it, but {socket.gethostname()} (rank {dist.get_rank()}) still does not after "
                f"{VISIBLE_SECONDS:g} s; is `out` on a file system that all machines share?"
            )
        time.sleep(0.5)
