"""Hashes of a checkpoint's files: each rank's writer makes those of what it wrote, and each rank compares a share at
loading."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.checkpoint.api import CheckpointException

from perdure.pipeline.core.errors import PerdureError
from perdure.pipeline.core.files import read_json, write_json
from perdure.pipeline.core.hashes import hash_of
from perdure.pipeline.core.integrity import damaged_files
from perdure.pipeline.core.manifest import HASHES
from perdure.pipeline.core.paths import VersionPaths
from perdure.pipeline.core.remedies import remedy
from perdure.pipeline.core.remembered_hashes import hash_files
from perdure.pipeline.model import collectives

logger = logging.getLogger(__name__)


def write_hashes(directory: Path, version_directory: Path, written: dict[str, dict]) -> None:
    """Records the hashes of a checkpoint that is about to be committed.

    Args:
        directory: The checkpoint; all its files are there.
        version_directory: The version that it belongs to.
        written: What writers told of theirs, as `hash_files`; the others, which are small, are hashed here.
    """
    others = (path.name for path in directory.iterdir() if path.name not in written)
    files = written | hash_files(directory, others, remember=False)
    write_json(directory / HASHES, {"version": _identity(version_directory), "files": files})


def require_undamaged(directory: Path) -> None:
    """Compares a checkpoint's files with the hashes that were recorded as it was written; all ranks call this.

    Every file is hashed by one rank.

    Raises:
        PerdureError: On all ranks, if one is missing, damaged, or another version's.
    """
    record = collectives.from_first(
        lambda: read_json(directory / HASHES) if (directory / HASHES).exists() else None
    )
    if record is None:
        logger.info(
            f"{directory.name}: written before hashes were recorded, so damage to it would not be seen"
        )
        return
    if record["version"] not in (None, _identity(directory.parents[1])):
        raise PerdureError(f"{directory}: a checkpoint of another version; {remedy(directory)}")
    files = record["files"]
    shares: list[dict[str, dict]] = [{} for _ in range(dist.get_world_size())]
    for name in sorted(files, key=lambda name: -files[name]["bytes"]):
        least = min(shares, key=lambda share: sum(entry["bytes"] for entry in share.values()))
        least[name] = files[name]
    found = damaged_files(directory, shares[dist.get_rank()], store=None)
    for name, problem in (item for problems in collectives.from_all(found) for item in problems.items()):
        raise PerdureError(f"{directory / name}: {problem}; {remedy(directory)}")


def _identity(version_directory: Path) -> str | None:
    """What tells a version from others; None if it does not say."""
    inputs = VersionPaths(version_directory).inputs
    return hash_of(read_json(inputs)["identity"])[:16] if inputs.exists() else None


@contextmanager
def readable_errors(directory: Path) -> Iterator[None]:
    """Names a checkpoint that cannot be loaded, whatever torch or Megatron says of it, unless its files are known to be
    whole."""
    if (directory / HASHES).exists():
        yield
        return
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except (CheckpointException, Exception) as error:  # the former is no Exception
        if isinstance(error, CheckpointException) and error.failures:  # its own text is a traceback
            error = next(iter(error.failures.values()))[0]
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise PerdureError(f"{directory}: cannot be loaded ({reason}); {remedy(directory)}") from None
