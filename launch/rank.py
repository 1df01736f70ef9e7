"""One rank under Slurm: `python -m perdure.launch.rank train|preflight VERSION_DIRECTORY`, one task per rank.

srun starts this directly, without torchrun between, so that the signal before the time limit reaches the trainer
itself: an agent in between would die of it and take its ranks along.
"""

import os
import subprocess
import sys

from perdure.pipeline.core.gpu_settings import add_gpu_settings

VERSION = "VERSION_DIRECTORY"
COMMANDS = {
    "train": ("perdure.pipeline.train.worker", VERSION, "train"),
    "preflight": ("perdure.launch.preflight", VERSION),
}
FROM_SLURM = {
    "RANK": "SLURM_PROCID",
    "LOCAL_RANK": "SLURM_LOCALID",
    "WORLD_SIZE": "SLURM_NTASKS",
}
"""What torch reads, and where Slurm says it. MASTER_ADDR and MASTER_PORT are set by the job's script, because a container
may lack Slurm's commands; without it they are asked for here."""


def cpus() -> int:
    """CPUs that Slurm gave to this rank. Where it binds nobody to them, torch would start a thread for every core."""
    if "SLURM_CPUS_PER_TASK" in os.environ:
        return int(os.environ["SLURM_CPUS_PER_TASK"])
    ranks_here = int(os.environ["SLURM_NTASKS"]) // int(os.environ["SLURM_NNODES"])
    return max(1, int(os.environ["SLURM_CPUS_ON_NODE"]) // ranks_here)


def meeting_place() -> dict[str, str]:
    """Where the ranks of this job meet: its first node, and a port that no other job has."""
    command = ["scontrol", "show", "hostnames", os.environ["SLURM_JOB_NODELIST"]]
    nodes = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    return {"MASTER_ADDR": nodes[0], "MASTER_PORT": str(20000 + int(os.environ["SLURM_JOB_ID"]) % 20000)}


def main(task: str, directory: str) -> None:
    """Becomes the rank."""
    for name, source in FROM_SLURM.items():
        os.environ[name] = os.environ[source]
    if "MASTER_ADDR" not in os.environ:
        os.environ.update(meeting_place())
    if os.environ["SLURM_NNODES"] == "1":  # nobody else has to reach it
        os.environ["MASTER_ADDR"] = "127.0.0.1"
    os.environ.setdefault("OMP_NUM_THREADS", str(cpus()))
    add_gpu_settings(os.environ)
    module, *arguments = COMMANDS[task]
    command = ["-u", "-m", module, *(directory if word == VERSION else word for word in arguments)]
    os.execv(sys.executable, [sys.executable, *command])


if __name__ == "__main__":
    main(*sys.argv[1:])
