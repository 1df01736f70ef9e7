"""A pipeline whose tasks may fail, and its executor; `python failing.py RECIPE DIRECTORY` runs it as the recipe says.

It is a module, not part of a test, because other processes import it.
"""

import os
import signal
import sys
import time
from pathlib import Path

from datatrove.pipeline.base import PipelineStep

from perdure.pipeline.core import logs
from perdure.pipeline.core.errors import PerdureError
from perdure.pipeline.data.backends import remote_executor
from perdure.pipeline.data.score.scorer import Scorer
from perdure.pipeline.recipe import load_recipe

TASKS = 4


class Failing(PipelineStep):
    """Writes `<rank>.txt`; with a file `broken`, rank 1 raises an error and rank 2 is killed; with `hold` all wait."""

    name = "Failing"

    def __init__(self, folder: Path):
        super().__init__()
        self.folder = folder

    def run(self, data=None, rank=0, world_size=1):
        with (self.folder / "ran").open("a") as file:
            file.write(f"{rank}\n")
        while (self.folder / "hold").exists():
            time.sleep(0.1)
        if (self.folder / "broken").exists():
            if rank == 1:
                raise PerdureError("this text is in no language")
            if rank == 2:
                os.kill(os.getpid(), signal.SIGKILL)
        (self.folder / f"{rank}.txt").write_text(f"{rank} of {world_size}")
        self.stat_update("documents", value=rank + 1)


class KilledOnce(Scorer):
    """A scorer that is killed once a shard, when its first block is on disk."""

    def _score(self, shard, documents, file: Path) -> None:
        super()._score(shard, documents, file)
        mark = self.model_dir / f"{file.stem}.killed"
        if not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)


def main(recipe: Path, folder: Path) -> None:
    from failing import Failing  # not of __main__

    with remote_executor(load_recipe(recipe), scoring=False) as execute:
        (counts,) = execute([Failing(folder)], TASKS, folder / "work" / "step")
    print(counts["documents"])


if __name__ == "__main__":
    logs.configure()
    try:
        main(*map(Path, sys.argv[1:]))
    except PerdureError as error:
        sys.exit(f"error: {error}")
