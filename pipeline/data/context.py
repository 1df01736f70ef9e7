"""What the data stage's steps share: directories, executor, number of tasks."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datatrove.pipeline.base import PipelineStep

    from perdure.pipeline.data.backends.local import Execute


@dataclass(frozen=True)
class StageContext:
    """What every step of the data stage works with.

    Attributes:
        out: The run's directory.
        tasks: Parts of every artefact; task k writes part k.
        start: Returns what runs tasks; called when there is the first task to run.
        reserved_fraction: Largest share that any source holds out. No document with a hash below it trains anything.
        seed: The recipe's seed.
    """

    out: Path
    tasks: int
    start: Callable[[], "Execute"]
    reserved_fraction: float = 0.0
    seed: int = 0

    def execute(
        self, steps: "list[PipelineStep]", directory: Path, tasks: int | None = None
    ) -> list[Counter]:
        """Runs a datatrove pipeline.

        Args:
            steps: The pipeline.
            directory: Where its bookkeeping goes.
            tasks: Number of tasks; default: the stage's.

        Returns:
            Per step that keeps statistics, its counts summed over all tasks.
        """
        return self.start()(steps, self.tasks if tasks is None else tasks, directory)


@dataclass(frozen=True)
class ShardInputs:
    """The artefacts that a source's shards are made from, its subset excepted.

    Attributes:
        clean: The cleaned documents.
        tokenizer: The tokenizer's directory.
        topics: The topic of each document; None without topics.
    """

    clean: Path
    tokenizer: Path
    topics: Path | None
