"""One rank under Slurm: `python -m perdure.launch.rank VERSION_DIRECTORY train`, one task per rank.

srun starts this directly, without torchrun between, so that the signal before the time limit reaches the trainer
itself: an agent in between would die of it and take its ranks along.
"""

import os
import sys

WORKER = "perdure.pipeline.train.worker"
FROM_SLURM = {
    "RANK": "SLURM_PROCID",
    "LOCAL_RANK": "SLURM_LOCALID",
    "WORLD_SIZE": "SLURM_NTASKS",
}
"""What torch reads, and where Slurm says it. MASTER_ADDR and MASTER_PORT are set by the job's script."""


def main(arguments: list[str]) -> None:
    """Becomes the trainer."""
    for name, source in FROM_SLURM.items():
        os.environ[name] = os.environ[source]
    os.execv(sys.executable, [sys.executable, "-u", "-m", WORKER, *arguments])


if __name__ == "__main__":
    main(sys.argv[1:])
