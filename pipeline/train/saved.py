"""The checkpoints that a version has on disk: which are whole, what state each holds, and which are kept."""

import shutil
from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path

from perdure.pipeline.core.errors import PerdureError
from perdure.pipeline.core.files import read_json
from perdure.pipeline.core.hashes import hash_file
from perdure.pipeline.core.paths import SUCCESS, VersionPaths
from perdure.pipeline.core.remedies import remedy
from perdure.pipeline.model import collectives
from perdure.pipeline.train.state import TrainState, state_of_json

KEPT = 2
"""Checkpoints kept: the newest ones, and the newest one that the interval asked for, to which a guard rolls back; and
those that the recipe names or branches off from."""


def finished_checkpoints(directory: Path) -> list[Path]:
    """The whole checkpoints of a version, oldest first."""
    return list(VersionPaths(directory.parent).finished_checkpoints().values())


def last_scheduled(directory: Path) -> Path:
    """The newest checkpoint that the interval asked for, not a signal: where a guard rolls back to."""
    return [path for path in finished_checkpoints(directory) if checkpoint_state(path).scheduled][-1]


def agreed(find: Callable[[], Path | None]) -> Path | None:
    """The checkpoint that rank 0 finds, on all ranks once they see it whole; all ranks call this.

    Raises:
        PerdureError: If a rank cannot see it, or sees another one under its name.
    """
    if found := collectives.from_first(find):
        collectives.await_file(found / SUCCESS)
        state, step = found / "state.json", checkpoint_state(found).step
        collectives.require_same(str(state), f"step {step} ({hash_file(state)[:8]})")
    return found


def checkpoint_state(directory: Path) -> TrainState:
    """The state that was saved with a checkpoint.

    Raises:
        PerdureError: If it is damaged, or another step's.
    """
    state = state_of_json(read_json(directory / "state.json"))
    if directory.name != f"step_{state.step:06d}":
        raise PerdureError(f"{directory}: holds step {state.step}; {remedy(directory)}")
    return state


def set_old_aside(directory: Path, kept: Collection[str]) -> None:
    """Sets aside all whole checkpoints but those that are kept, see `KEPT`.

    Args:
        directory: The version's `checkpoints/`.
        kept: Names of checkpoints that are kept for good.
    """
    found = [path for path in finished_checkpoints(directory) if path.name not in kept]
    scheduled = [path for path in found if checkpoint_state(path).scheduled]
    for path in set(found) - set(found[-KEPT:]) - set(scheduled[-1:]):
        set_aside(path)


def set_aside(path: Path) -> None:
    """Gives a checkpoint a name that no start looks for: while its files are deleted one by one, it would look whole."""
    aside = path.with_name(f".{path.name}.old")
    shutil.rmtree(aside, ignore_errors=True)
    if path.exists():
        path.rename(aside)


def delete(path: Path) -> None:
    """Deletes a directory, if another start does not at the same time."""
    with suppress(FileNotFoundError):  # another start may be at it as well
        shutil.rmtree(path)
