"""The modules of installed Python packages, found without importing any of them."""

import importlib.util
import os
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib import metadata
from pathlib import Path

from perdure.pipeline.core.errors import PerdureError
from perdure.pipeline.data.read.files import is_copy

STDLIB = "stdlib"
TEST_DIRECTORIES = {"test", "tests", "idle_test"}
SKIPPED_DIRECTORIES = TEST_DIRECTORIES | {"__pycache__", "site-packages", "dist-packages", "lib-dynload"}


@dataclass(frozen=True)
class Module:
    """One module of an installed package: dotted name, file, and its package's name, version and licence."""

    name: str
    path: Path
    package: str
    version: str | None
    license: str | None

    @property
    def inside(self) -> str:
        """Its path below where packages lie."""
        depth = len(self.name.split(".")) + (self.path.name == "__init__.py")
        return "/".join(self.path.parts[-depth:])


def python_modules(packages: list[str]) -> list[Module]:
    """All modules of installed packages, in the order of `packages` and then by name, test directories left out.

    Raises:
        PerdureError: If a package is not installed.
    """
    found: list[Module] = []
    for package in packages:
        version, license = version_and_license(package)
        for name, path in _files(package):
            found.append(Module(name, path, package, version, license))
    return found


@lru_cache
def _files(package: str) -> list[tuple[str, Path]]:
    """Names and files of a package's modules; a lookup of the top-level name alone imports nothing."""
    if package == STDLIB:
        return _walk(Path(sysconfig.get_path("stdlib")), "")
    top, *rest = package.split(".")
    spec = importlib.util.find_spec(top)
    if spec is None or not (spec.submodule_search_locations or spec.origin):
        raise PerdureError(f"{package}: no such package is installed; correct `packages` or install it")
    if not spec.submodule_search_locations:
        path = Path(str(spec.origin))
        return [(package, path)] if path.suffix == ".py" else []
    for location in spec.submodule_search_locations:
        folder = Path(location).joinpath(*rest)
        if folder.is_dir():
            return _walk(folder, f"{package}.")
        if folder.with_suffix(".py").is_file():
            return [(package, folder.with_suffix(".py"))]
    raise PerdureError(f"{package}: {top} is installed, but has no such part; correct `packages`")


def _walk(folder: Path, prefix: str) -> list[tuple[str, Path]]:
    modules = []
    for directory, folders, files in os.walk(folder):
        folders[:] = {name for name in folders if not is_copy(name)} - SKIPPED_DIRECTORIES
        for file in files:
            if file.endswith(".py") and not is_copy(file):
                path = Path(directory, file)
                parts = path.relative_to(folder).with_suffix("").parts
                parts = parts[:-1] if parts[-1] == "__init__" else parts
                modules.append(((prefix + ".".join(parts)).rstrip("."), path))
    return sorted(modules)


@lru_cache
def version_and_license(package: str) -> tuple[str | None, str | None]:
    """Version and licence of the distribution that a package came with, as far as they are known."""
    if package == STDLIB:
        return sysconfig.get_python_version(), "PSF-2.0"
    top = package.split(".")[0]
    try:
        found = metadata.metadata(top)
    except metadata.PackageNotFoundError:
        names = distributions_by_package().get(top)
        if not names:
            return None, None
        found = metadata.metadata(names[0])
    license = [found[key] for key in ("License-Expression", "License") if key in found]
    return found["Version"], license[0].splitlines()[0] if license and license[0] else None


@lru_cache
def distributions_by_package() -> Mapping[str, list[str]]:
    """Distributions by top-level package; reading those of all that is installed takes a while."""
    return metadata.packages_distributions()
