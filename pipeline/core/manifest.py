"""Artefacts on disk: manifests, and the `_SUCCESS` that marks a directory as whole.

Every artefact is a directory that ends as `manifest.json` (what went in, what came out) and then an empty
`_SUCCESS`. Its name carries the first eight digits of a hash over everything that it depends on, so a changed
recipe makes a new directory, and a finished one is never recomputed.

Damage is found in two ways: every JSON file has a checksum of its own, compared whenever it is read; and a manifest holds
the SHA-256 of the artefact's files, which `integrity.py` compares before they are used.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from perdure.pipeline.core.errors import PerdureError
from perdure.pipeline.core.files import write_atomic, write_json
from perdure.pipeline.core.paths import SUCCESS
from perdure.pipeline.core.remedies import readable
from perdure.pipeline.core.remembered_hashes import hash_files

HASHES = "hashes.json"
"""Of checkpoints, and of directories that `perdure export` wrote: `files`, as a manifest has them."""


def finish(directory: Path, manifest: dict) -> None:
    """Marks an artefact as whole: writes its manifest, then `_SUCCESS`.

    `versions` of the packages that made it are added to the manifest, and `files` (sizes and SHA-256) unless it has them:
    of all that stand in the directory itself.
    """
    directory.mkdir(parents=True, exist_ok=True)
    files = {} if "files" in manifest else {"files": hash_files(directory)}
    write_json(directory / "manifest.json", manifest | files | {"versions": package_versions()})
    write_atomic(directory / SUCCESS, "")


def refuse_link(directory: Path) -> None:
    """Refuses a directory that is a symbolic link, because files removed there could be somebody else's.

    Raises:
        PerdureError: If it is a link.
    """
    if directory.is_symlink():
        raise PerdureError(
            f"{directory}: a symbolic link, where Perdure makes and removes directories of its own; remove the link (to "
            "work elsewhere, choose another --out)"
        )


def is_finished(directory: Path) -> bool:
    """Whether the artefact is whole."""
    return (directory / SUCCESS).exists()


def package_versions() -> dict[str, str]:
    """Installed versions of the packages that affect results."""
    found = {}
    for package in ("perdure", "torch", "megatron-core", "datatrove", "transformers", "tokenizers", "numpy"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def differences(expected: Mapping[str, Any], found: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Differences of two nested mappings, one line `path: expected -> found` each."""
    lines = []
    for key in sorted(expected.keys() | found.keys(), key=str):
        left, right = expected.get(key), found.get(key)
        if isinstance(left, dict) and isinstance(right, dict):
            lines += differences(left, right, f"{prefix}{key}.")
        elif left != right:
            lines.append(f"{prefix}{key}: {left!r} -> {right!r}")
    return lines


@contextmanager
def disk_errors(where: Path) -> Iterator[None]:
    """Context in which errors of the file system become one readable line."""
    try:
        yield
    except OSError as error:
        raise readable(error, where) from error
