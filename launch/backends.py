"""Where a recipe can be launched. A scheduler that takes one manifest is a row here, and a module of the same package.

The command line lists these names, so nothing heavy is imported before a manifest is rendered.
"""

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from perdure.pipeline.recipe import Recipe
    from perdure.pipeline.recipe.cluster import JobSize


@dataclass(frozen=True)
class ManifestBackend:
    """A scheduler that takes a whole run as one file.

    Attributes:
        module: The module of this package whose `render(recipe, size, directory, values)` returns the file's text.
        start: The command that starts it; the file's name follows.
        piped: The command that starts one from standard input.
    """

    module: str
    start: str
    piped: str


MANIFESTS = {
    "k8s": ManifestBackend("kubernetes", "kubectl create -f", "kubectl create -f -"),
    "sky": ManifestBackend(
        "sky", "sky jobs launch", "(umask 077; cat > task.yaml); sky jobs launch task.yaml"
    ),
}
BACKENDS = ("local", "slurm", *MANIFESTS)
"""Values of `--to`."""


def manifest(to: str, recipe: "Recipe", size: "JobSize", directory: Path, values: bool) -> str:
    """The text of a run's manifest.

    Args:
        to: A key of `MANIFESTS`.
        recipe: The recipe, its `out` absolute.
        size: What a training job occupies.
        directory: Where jobs run; relative paths of the recipe start there.
        values: Whether it holds the values of `cluster.environment` and `cluster.setup`, which no file may.

    Raises:
        RecipeError: If the recipe lacks what the scheduler needs.
    """
    module = importlib.import_module(f"perdure.launch.{MANIFESTS[to].module}")
    text: str = module.render(recipe, size, str(directory), values)
    return text
