"""SHA-256 of values, files and directories."""

import hashlib
import json
from pathlib import Path
from typing import Any


def hash_of(value: Any) -> str:
    """SHA-256, in hex, of a JSON-serialisable value with sorted keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def hash_file(path: Path) -> str:
    """SHA-256, in hex, of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_directory(path: Path, hidden: bool = True) -> str:
    """SHA-256, in hex, over the names and contents of all files below `path`, but for `.*` and `__pycache__` if not
    `hidden`."""
    files = sorted(file for file in path.rglob("*") if file.is_file())
    if not hidden:
        parts = {file: file.relative_to(path).parts for file in files}
        files = [
            file for file in files if not any(part[0] == "." or part == "__pycache__" for part in parts[file])
        ]
    return hash_of([(str(file.relative_to(path)), hash_file(file)) for file in files])
