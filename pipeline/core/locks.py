"""File locks that hold between machines and end with the process that has them."""

import errno
import fcntl
import os
import stat
from pathlib import Path

from perdure.pipeline.core.errors import PerdureError

NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)


def open_lock(path: Path) -> int:
    """Opens a file for locking; creates it if it is missing, and refuses symbolic links.

    Returns:
        Its descriptor, for reading and writing.

    Raises:
        PerdureError: If a link, or anything that is no plain file, stands there.
    """
    try:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.EISDIR, errno.ENXIO):
            raise
        raise _in_the_way(path) from None
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise _in_the_way(path)
    return file


def _in_the_way(path: Path) -> PerdureError:
    what = "a symbolic link" if path.is_symlink() else "no plain file"
    return PerdureError(f"{path}: {what}, where a lock of Perdure's own should stand; remove it")


def lock(file: int, path: Path) -> bool:
    """Tries to lock an open file without waiting; returns whether it succeeded.

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
