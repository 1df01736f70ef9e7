"""The files below a directory, through symbolic links."""

import os
from collections import deque
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

from perdure.pipeline.errors import PerdureError


def files_below(root: Path, globs: list[str]) -> list[str]:
    """Names, relative to a directory, of all files below it that fit a glob, sorted.

    Links to files and directories are followed, which `Path.glob` of some Python versions does not. What several paths
    lead to is there once, by its own name if that is below `root`; so a link that leads back ends.

    Args:
        root: A directory.
        globs: Patterns of relative names, `**` for any number of directories.

    Raises:
        PerdureError: If a directory cannot be read, or a link leads nowhere, where a pattern may look; hidden links may, unless
            they fit, and editors' locks (`.#name`).
    """
    patterns = [PurePosixPath(glob).parts for glob in globs]
    deep = any("**" in pattern for pattern in patterns)
    depth = max(len(pattern) for pattern in patterns)
    directories, links = deque([""]), deque[str]()
    seen: set[str] = set()
    found: dict[str, str] = {}
    while directories or links:
        # Links come last, so that what they lead to is known by its own name.
        name = directories.popleft() if directories else links.popleft()
        real = os.path.realpath(root / name)
        if os.path.isfile(real):
            if fits(name, patterns):
                found.setdefault(real, name)
        elif not os.path.exists(real):
            base = os.path.basename(name)
            if not base.startswith(".#") and (fits(name, patterns) or (deep and not base.startswith("."))):
                raise PerdureError(
                    f"{root / name}: a link to {real}, which does not exist; mend or remove the link"
                )
        elif os.path.isdir(real) and real not in seen and (deep or name.count("/") + bool(name) < depth):
            seen.add(real)
            for entry in _entries(real):
                path = f"{name}/{entry.name}" if name else entry.name
                if entry.is_symlink():
                    links.append(path)
                elif entry.is_dir():
                    directories.append(path)
                elif entry.is_file() and fits(path, patterns):
                    found[os.path.join(real, entry.name)] = path
    return sorted(found.values())


def fits(name: str, patterns: list[tuple[str, ...]]) -> bool:
    """Whether a relative name fits any of some globs, given by their parts."""
    return any(_fits(tuple(name.split("/")), pattern) for pattern in patterns)


def _fits(parts: tuple[str, ...], pattern: tuple[str, ...]) -> bool:
    if not pattern or not parts:
        return not parts and not pattern
    if pattern[0] == "**":
        return any(_fits(parts[skipped:], pattern[1:]) for skipped in range(len(parts)))
    return fnmatchcase(parts[0], pattern[0]) and _fits(parts[1:], pattern[1:])


def _entries(directory: str) -> list[os.DirEntry]:
    try:
        with os.scandir(directory) as entries:
            # What a file system keeps for itself at its root is nobody's text, and closed to all.
            return sorted((e for e in entries if e.name != "lost+found"), key=lambda entry: entry.name)
    except OSError as error:
        raise PerdureError(f"{directory}: {error.strerror}; every directory below `path` is read") from None
