"""The files below a directory, through symbolic links; hidden files and editors' copies only where they are asked for."""

import os
import re
from collections import deque
from fnmatch import fnmatchcase, translate
from pathlib import Path, PurePosixPath

from perdure.pipeline.core.errors import PerdureError

COPIES = [".*", "*~", "#*#", "*.swp", "*.swo", "Thumbs.db", "desktop.ini", "__MACOSX", "_temporary"]
"""Names of what is hidden (`.ipynb_checkpoints`, `._a`, `.DS_Store`), of editors' copies, and of what systems leave behind."""
MOST_OTHERS = 500_000
"""Entries of a directory that nothing reads, after which it is taken for another than was meant: a home, a file system."""
NAMED = 3
"""Files that a message names."""


def files_below(root: Path, globs: list[str], any_case: bool = False) -> list[str]:
    """Names, relative to a directory, of all files below it that fit a glob, sorted.

    Links to files and directories are followed, which `Path.glob` of some Python versions does not. What several paths
    lead to is there once, by its own name if that is below `root`; so a link that leads back ends.

    Args:
        root: A directory.
        globs: Patterns of relative names, `**` for any number of directories. As in a shell, hidden names, and here other
            `COPIES` as well, fit only what is written so.
        any_case: Whether names fit in upper case, too.

    Raises:
        PerdureError: If a directory cannot be read, or a link leads nowhere, where a pattern may look; hidden links may, unless
            they fit. If it has more than `MOST_OTHERS` entries that do not fit.
    """
    patterns, names = _patterns(globs), _last_parts(globs)
    deep = any("**" in pattern for pattern in patterns)
    copies = any(is_copy(part) for pattern in patterns for part in pattern)
    depth = max(len(pattern) for pattern in patterns)
    directories, links = deque([""]), deque[str]()
    seen: set[str] = set()
    found: dict[str, str] = {}
    looked_at = 0
    while directories or links:
        # Links come last, so that what they lead to is known by its own name.
        name = directories.popleft() if directories else links.popleft()
        real = os.path.realpath(root / name)
        if os.path.isfile(real):
            if fits(name.lower() if any_case else name, patterns):
                found.setdefault(real, name)
        elif not os.path.exists(real):
            copy = any(map(is_copy, name.split("/")))
            if fits(name.lower() if any_case else name, patterns) or (deep and not copy):
                raise PerdureError(
                    f"{root / name}: a link to {real}, which does not exist; mend or remove the link"
                )
        elif os.path.isdir(real) and real not in seen and (deep or name.count("/") + bool(name) < depth):
            seen.add(real)
            entries = _entries(real)
            looked_at += len(entries)
            if looked_at - len(found) > MOST_OTHERS:
                raise PerdureError(
                    f"{root}: more than {MOST_OTHERS:,} files and directories in it that nothing reads; name the directory of "
                    "the text"
                )
            for entry in entries:
                path = f"{name}/{entry.name}" if name else entry.name
                if entry.is_symlink():
                    links.append(path)
                elif entry.is_dir():
                    if not is_copy(entry.name) or copies:
                        directories.append(path)
                elif (
                    names.match(entry.name.lower() if any_case else entry.name)
                    and entry.is_file()
                    and fits(path.lower() if any_case else path, patterns)
                ):
                    found[os.path.join(real, entry.name)] = path
    return sorted(found.values())


def reaches(directory: tuple[str, ...], globs: list[str]) -> bool:
    """Whether a file in a directory (given by the parts of its relative name) can fit a glob."""
    patterns = _patterns(globs)
    copies = any(is_copy(part) for pattern in patterns for part in pattern)
    hidden = any(map(is_copy, directory)) and not copies
    return not hidden and any(_reaches(directory, pattern) for pattern in patterns)


def _reaches(directory: tuple[str, ...], pattern: tuple[str, ...]) -> bool:
    if not (directory and pattern) or pattern[0] == "**":
        return bool(pattern)
    return fnmatchcase(directory[0], pattern[0]) and _reaches(directory[1:], pattern[1:])


def _patterns(globs: list[str]) -> list[tuple[str, ...]]:
    return [PurePosixPath(glob).parts for glob in globs]


def _last_parts(globs: list[str]) -> re.Pattern:
    """Pattern of the last part of all names that fit a glob; a quick first test before `fits`."""
    return re.compile("|".join(translate(pattern[-1]) for pattern in _patterns(globs)))


def is_copy(name: str) -> bool:
    """Whether a name without directories is one of `COPIES`."""
    return any(fnmatchcase(name, copy) for copy in COPIES)


def fits(name: str, patterns: list[tuple[str, ...]], copies: bool = False) -> bool:
    """Whether a relative name fits any of some globs, given by their parts; hidden ones and copies too if `copies`."""
    return any(_fits(tuple(name.split("/")), pattern, copies) for pattern in patterns)


def _fits(parts: tuple[str, ...], pattern: tuple[str, ...], copies: bool) -> bool:
    if not pattern or not parts:
        return not parts and not pattern
    if pattern[0] == "**":
        return _fits(parts, pattern[1:], copies) or (
            (copies or not is_copy(parts[0])) and _fits(parts[1:], pattern, copies)
        )
    allowed = copies or not is_copy(parts[0]) or is_copy(pattern[0])
    return allowed and fnmatchcase(parts[0], pattern[0]) and _fits(parts[1:], pattern[1:], copies)


def not_read(root: Path, globs: list[str], any_case: bool, files: list[str]) -> str:
    """The remark about files below a directory that are not read; empty if there are none.

    Args:
        root: The directory.
        globs: As for `files_below`.
        any_case: The same.
        files: What it returned.
    """
    patterns, known = _patterns(globs), set(files)
    read: set[str] = set()
    others, copies = [], []
    for directory, _, names in os.walk(root):
        below = os.path.relpath(directory, root)
        for name in names:
            path = name if below == "." else os.path.join(below, name)
            if path in known:
                continue
            read = read or {os.path.realpath(root / name) for name in files}
            if os.path.realpath(root / path) in read:  # by another name
                continue
            if not any(map(is_copy, path.split(os.sep))):
                others.append(path)
            elif fits(path.lower() if any_case else path, patterns, copies=True):
                copies.append(path)
    found = [listed(others, "named otherwise")] * bool(others) + [
        listed(copies, "hidden or left by editors")
    ] * bool(copies)
    return f"not read: {'; '.join(found)}" if found else ""


def listed(names: list[str], kind: str) -> str:
    """Text for messages about some files: how many, of what kind, and a few names."""
    more = ", ..." * (len(names) > NAMED)
    return f"{len(names):,} file{'s' * (len(names) > 1)} {kind} ({', '.join(sorted(names)[:NAMED])}{more})"


def _entries(directory: str) -> list[os.DirEntry]:
    try:
        with os.scandir(directory) as entries:
            # What a file system keeps for itself at its root is nobody's text, and closed to all.
            return sorted((e for e in entries if e.name != "lost+found"), key=lambda entry: entry.name)
    except OSError as error:
        raise PerdureError(f"{directory}: {error.strerror}; every directory below `path` is read") from None
