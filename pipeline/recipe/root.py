"""The recipe as a whole."""

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, model_validator

from perdure.pipeline.core.paths import RunPaths
from perdure.pipeline.recipe.cluster import Cluster
from perdure.pipeline.recipe.data import DataStage, Source, Tokenizer
from perdure.pipeline.recipe.evaluation import Evaluation
from perdure.pipeline.recipe.kernels import Kernels
from perdure.pipeline.recipe.logging import Logging
from perdure.pipeline.recipe.scoring import Scoring
from perdure.pipeline.recipe.section import Name, Section
from perdure.pipeline.recipe.training import Model, Parallel, Training
from perdure.pipeline.recipe.versions import Version

INHERITED = {
    "branch": ("mixture", "objective", "selection", "weight_decay"),
    "merge": ("mixture", "schedule"),
    "average": ("mixture", "schedule"),
}
"""Fields that a version has of its parent where it has none of its own, by the type of its start."""


class Recipe(Section):
    """A whole run: sources, tokenizer, model, and the versions to train, in order."""

    name: Name
    """Name of the run."""
    out: Path | None = None
    """Where everything is written; default `runs/<name>`. `--out` overrides it."""
    seed: Annotated[int, Field(ge=0, le=10**18)] = 1234
    """Seed of weights, orders and splits."""
    sources: Annotated[dict[Name, Source], Field(min_length=1)]
    """The domains of text, by name. Each is also an evaluation domain."""
    data: DataStage = DataStage()
    """How the data stage runs."""
    scoring: Scoring = Scoring()
    """How reference models score text."""
    tokenizer: Tokenizer
    """One tokenizer for all sources and versions."""
    model: Model
    """The architecture."""
    parallel: Parallel = Parallel()
    """Spread over ranks."""
    kernels: Kernels = Kernels()
    """What computes attention and matrix products."""
    training: Training
    """Batch, precision and optimizer."""
    versions: Annotated[dict[Name, Version], Field(min_length=1)]
    """The versions, made in this order; a version's parents stand before it."""
    evaluation: Evaluation = Evaluation()
    """How versions are measured."""
    logging: Logging = Logging()
    """Where training is told, besides TensorBoard."""
    cluster: Cluster = Cluster()
    """Where `perdure launch` runs jobs, and how."""

    @model_validator(mode="before")
    @classmethod
    def _children_inherit(cls, tree: Any) -> Any:
        """Gives a version fields of its parent where it has none of its own: a branch its mixture, objective, selection
        and weight decay, a merge or an average the mixture and schedule of the first one."""
        versions = tree.get("versions") if isinstance(tree, dict) else None
        if not isinstance(versions, dict):
            return tree
        whole: dict = {}
        for name, version in versions.items():
            start = version.get("start") if isinstance(version, dict) else None
            kind = start.get("type") if isinstance(start, dict) else None
            if keys := INHERITED.get(kind) if isinstance(kind, str) else None:
                named = _first_parent(start)
                earlier = [other for other in whole.values() if isinstance(other, dict)]
                # A parent that is not there is one mistake, which `check` tells: not one more for each field.
                parent = whole.get(named if isinstance(named, str) else "", earlier[-1] if earlier else None)
                if isinstance(parent, dict):
                    inherited = {key: parent[key] for key in keys if key in parent}
                    version = inherited | version
            whole[name] = version
        return tree | {"versions": whole}

    @property
    def directory(self) -> Path:
        """Where everything is written."""
        return self.out or Path("runs") / self.name

    @property
    def paths(self) -> RunPaths:
        """Paths of all that is written."""
        return RunPaths(self.directory)


def _first_parent(start: Any) -> Any:
    """The parent that a start names first, as far as its types are right."""
    several = start.get("weights") or start.get("versions")
    first = next(iter(several), None) if isinstance(several, dict | list | tuple) else None
    return start.get("parent", start.get("of", first))
