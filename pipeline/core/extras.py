"""Packages that only some machines need, and the extras of Perdure that bring them (`[project.optional-dependencies]`)."""

import importlib.util

from perdure.pipeline.core.errors import PerdureError

EXTRAS = {
    "datatrove": ("data",),
    "nltk": ("data",),
    "sklearn": ("data",),
    "transformers": ("data",),
    "xxhash": ("data",),
    "torch": ("train", "score"),
    "megatron": ("train",),
    "triton": ("train",),
    "matplotlib": ("train",),
    "tensorboard": ("train",),
}
"""By package: each of these extras brings it."""


def is_installed(package: str) -> bool:
    """Whether a top-level package can be imported; it is not imported."""
    try:
        return importlib.util.find_spec(package) is not None
    except (ModuleNotFoundError, ValueError):
        return False


def missing_extra(package: str) -> PerdureError | None:
    """The error that says which extra brings a missing package; None for a package of no extra."""
    name = package.partition(".")[0]
    if name not in EXTRAS:
        return None
    brought = " or ".join(f"`pip install 'perdure[{extra}]'`" for extra in EXTRAS[name])
    return PerdureError(
        f"this needs {name}, which is not installed; {brought} brings it, `perdure[all]` everything"
    )


def require(*packages: str) -> None:
    """Refuses to begin what needs packages of an extra.

    Raises:
        PerdureError: If one is not installed, naming the extra.
    """
    for package in packages:
        if not is_installed(package) and (error := missing_extra(package)):
            raise error
