"""Advice for errors of files: what to delete or change, in one line."""

import errno
import os
import re
from pathlib import Path

from perdure.pipeline.core.errors import PerdureError
from perdure.pipeline.core.paths import CHECKPOINTS, INITIAL_EVALUATION, METRICS, PLAN, SUCCESS, VERSIONS


def artefact_of(path: Path) -> Path | None:
    """The innermost artefact of a run that a path belongs to: a checkpoint, a plan, a version, `<name>@<hash8>`; or None."""
    for place in (path, *path.parents):
        parent = place.parent.name
        known = place.name == PLAN or parent in (VERSIONS, CHECKPOINTS, "leaks")
        if known or re.search(r"@[0-9a-f]{8}(\+[0-9a-f]{8})?$", place.name):
            return place
    return None


def remedy(path: Path) -> str:
    """What to delete if a file is damaged, in words, so that the next run makes it again."""
    artefact = artefact_of(path)
    if artefact is None:
        return f"delete {path} and run again"
    if artefact.parent.name == CHECKPOINTS:
        return f"delete {artefact} to go on from an earlier checkpoint"
    if artefact.name == PLAN and (done := artefact.parent / SUCCESS).exists():
        return f"delete {artefact} and {done} and run again: what follows the last checkpoint is made anew"
    if artefact.parent.name != VERSIONS:
        return f"delete {artefact} and run again"
    if path.name == METRICS and not (artefact / SUCCESS).exists():
        clear = f"rm -r {path}; " if path.is_dir() else ""
        return f"copy it again, or `{clear}echo '{{}}' > {path}` to go on without the steps that it tells of"
    if path.name in (METRICS, INITIAL_EVALUATION) or path.name.startswith("eval_initial_"):
        return f"copy it again, or delete {artefact} to train it anew"
    done = artefact / SUCCESS
    last = f"{done} and run again: what follows the last checkpoint is made anew"
    return f"delete {last}" if path in (artefact, done) else f"delete {path} and {last}"


def readable(error: OSError, where: Path) -> Exception:
    """The error in one line with what to do, or itself if it is none of the file system's."""
    path = Path(os.fsdecode(error.filename)) if isinstance(error.filename, str | bytes) else where
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return PerdureError(
            f"{path}: the disk is full; free some space and run the same command again: finished parts are kept"
        )
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        if path.exists() and not os.access(path, os.R_OK):
            return PerdureError(f"{path}: no permission to read; allow it (chmod u+r), or {remedy(path)}")
        return PerdureError(f"{path}: no permission to write; choose another place with --out")
    if error.errno in (errno.ENOTDIR, errno.EEXIST):
        return PerdureError(f"{path}: a file stands in the way; choose another place with --out")
    if error.errno in (errno.EISDIR, errno.ELOOP, errno.EIO) and error.filename:
        return PerdureError(f"{path}: {str(error.strerror).lower()}; {remedy(path)}")
    if error.errno == errno.ENOENT and artefact_of(path):
        return PerdureError(f"{path}: missing; {remedy(path)}")
    return error
