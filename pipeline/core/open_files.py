"""The limit of open files of a process."""

import resource

ENOUGH = 1 << 20
"""More is never asked for, because some programs go through all that are allowed."""


def allow_open_files() -> int:
    """Raises this process's soft limit of open files, often 1,024, to the hard one; returns what it is then."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = ENOUGH if hard == resource.RLIM_INFINITY else min(hard, ENOUGH)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        soft = wanted
    return ENOUGH if soft == resource.RLIM_INFINITY else soft
