"""Locks on files, which hold between machines too; the system lifts one when the process that has it dies."""

import errno
import fcntl
from pathlib import Path

from perdure.pipeline.errors import PerdureError

NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)


def lock(file: int, path: Path) -> bool:
    """Takes the lock on an opened file, without waiting.

    Args:
        file: Its descriptor.
        path: What messages call it.

    Returns:
        False if another process has it.

    Raises:
        PerdureError: If the file system has no locks.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        raise PerdureError(
            f"{path}: this file system has no locks ({error.strerror}), which keep two starts apart; mount it with them "
            "(Lustre: -o flock; NFS: version 4, or lockd), or choose another --out"
        ) from None
    return True
