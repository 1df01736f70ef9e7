"""The recipe as a whole."""

from pathlib import Path
from typing import Annotated

from pydantic import Field

from perdure.pipeline.recipe.cluster import Cluster
from perdure.pipeline.recipe.data import DataStage, Source, Tokenizer
from perdure.pipeline.recipe.scoring import Scoring
from perdure.pipeline.recipe.section import Name, Section
from perdure.pipeline.recipe.training import Evaluation, Model, Parallel, Training
from perdure.pipeline.recipe.versions import Version


class Recipe(Section):
    """A whole run: sources, tokenizer, model, and the versions to train, in order."""

    name: Name
    """Name of the run."""
    out: Path | None = None
    """Where everything is written; default `runs/<name>`. `--out` overrides it."""
    seed: int = 1234
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
    training: Training
    """Batch, precision and optimizer."""
    versions: Annotated[dict[Name, Version], Field(min_length=1)]
    """The versions, trained in this order; an update's parent stands before it."""
    evaluation: Evaluation = Evaluation()
    """Held-out measurement."""
    cluster: Cluster = Cluster()
    """Where `perdure launch` runs jobs, and how."""

    @property
    def directory(self) -> Path:
        """Where everything is written."""
        return self.out or Path("runs") / self.name
