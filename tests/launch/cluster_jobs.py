"""Jobs on a test cluster: submitted, waited for, and befallen by something."""

import json
import os
import re
import shlex
import shutil
import signal
import sys
import time
from pathlib import Path

import failing
import slurm_cluster

from perdure.launch.attempt import attempts, newest_step
from perdure.pipeline.core.files import read_json, write_json
from perdure.pipeline.core.hashes import hash_file
from perdure.pipeline.core.remembered_hashes import VERIFIED

STEPS, INTERVAL = 300, 10
PYTHONPATH = f"{Path(failing.__file__).parent}:{os.environ.get('PYTHONPATH', '')}"
TREE = {
    "name": "small",
    "sources": {
        "prose": {
            "reader": {"type": "jsonl", "path": "prose.jsonl"},
            "clean": [{"type": "exact_dedup"}],
            "heldout_fraction": 0.1,
        }
    },
    "data": {"executor": {"type": "slurm", "score_gpus": 0}},
    "tokenizer": {"type": "train", "vocab_size": 400, "sources": ["prose"]},
    "model": {
        "type": "llama",
        **{"num_layers": 2, "hidden_size": 32, "ffn_hidden_size": 64},
        **{"num_attention_heads": 4, "num_query_groups": 2},
    },
    "training": {
        **{"seq_length": 64, "micro_batch_size": 4, "global_batch_size": 8},
        **{"checkpoint_interval": INTERVAL, "log_interval": 50},
    },
    "versions": {
        "base": {
            "start": {"type": "init"},
            "tokens": 64 * 8 * STEPS,
            "mixture": {"sources": {"prose": {}}, "max_repetition": 1000},
            "schedule": {"type": "cosine", "max_lr": 0.01, "min_lr": 0.001, "warmup": 0.1},
        }
    },
    "evaluation": {"max_tokens": 2000},
    "cluster": {
        "network_interface": "eth0",
        "environment": {"OMP_NUM_THREADS": "1", "PYTHONPATH": PYTHONPATH},
        "max_restarts": 6,
        "timeout_seconds": 20,
    },
}


HANDED_OVER = {"OMP_NUM_THREADS": "1", "PYTHONPATH": PYTHONPATH}
HANDED_OVER["PERDURE_SETUP"] = f"export OMP_NUM_THREADS=1 PYTHONPATH={shlex.quote(PYTHONPATH)}"
"""What jobs get that are submitted by hand, or by a command that reads the recipe as it was launched: no file holds it."""


def launch(cluster, folder: Path, out: Path, *options: str) -> dict[str, str]:
    """`perdure launch` on the controller; job ids by name."""
    command = [sys.executable, "-m", "perdure.pipeline.cli", "launch", str(folder / "small.yaml")]
    command += ["--to", "slurm", "--nodes", "2", "--out", str(out), *options]
    done = cluster.on(slurm_cluster.CONTROLLER, *command, cwd=folder)
    assert done.returncode == 0, done.stderr
    return read_json(out / "launch" / "jobs.json")["jobs"]


def logs(out: Path) -> str:
    return "\n".join(file.read_text() for file in out.rglob("launch/*.log"))


def contents(directory: Path) -> dict[str, bytes]:
    """Files by name; manifests without the command line and the checksum over it, and nothing of the report's search for
    leaks."""
    command = re.compile(rb'"(command|checksum)": ".*"')
    files = (
        path
        for path in directory.rglob("*")
        if path.is_file() and "leaks" not in path.parts and path.name != VERIFIED
    )
    return {str(path.relative_to(directory)): command.sub(b"", path.read_bytes()) for path in files}


SCORE = """
from pathlib import Path
from perdure.pipeline.core import logs
from perdure.pipeline.data.backends import remote_executor
from perdure.pipeline.data.score.score import ReferenceModel, score_source
from perdure.pipeline.recipe import load_recipe
logs.configure()
recipe, data, model = map(Path, __import__("sys").argv[1:])
there = remote_executor(load_recipe(recipe), scoring=True)
score_source(data, ReferenceModel(model, "base", 64), workers=1, executor=there)
"""


def begin_again(cluster, undisturbed, tmp_path) -> tuple[str, Path]:
    """The same version from prepared files, its training job submitted by hand; the job's id and the version."""
    folder, out = undisturbed
    fresh = tmp_path / "out"
    for part in out.iterdir():
        if part.is_dir() and part.name not in ("versions", "launch", "report"):
            shutil.copytree(part, fresh / part.name)
    version = fresh / "versions" / "base"
    (version / "launch").mkdir(parents=True)
    here = {
        name: (out / "versions" / "base" / name).read_text().replace(str(out), str(fresh))
        for name in ("recipe.yaml", "inputs.json")
    }
    (version / "recipe.yaml").write_text(here["recipe.yaml"])
    inputs = json.loads(here["inputs.json"]) | {"recipe": hash_file(version / "recipe.yaml")}
    del inputs["checksum"]  # of what was prepared elsewhere
    write_json(version / "inputs.json", inputs)
    shutil.copytree(out / "versions" / "base" / "plan", version / "plan")
    script = (out / "versions" / "base" / "launch" / "train-base.sbatch").read_text()
    (version / "launch" / "train.sbatch").write_text(script.replace(str(out), str(fresh)))
    command = ["sbatch", "--parsable", str(version / "launch" / "train.sbatch")]
    handed = cluster.environment | HANDED_OVER
    done = cluster.on(slurm_cluster.CONTROLLER, *command, cwd=folder, env=handed)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip(), version


def wait_for_attempt(version: Path, number: int, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while len(attempts(version)) < number:
        assert time.monotonic() < deadline, logs(version)
        time.sleep(0.1)


def wait_for_step(version: Path, step: int, seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while newest_step(version) < step:
        assert time.monotonic() < deadline, logs(version)
        time.sleep(0.05)


def ranks(cluster, node: str) -> list[int]:
    """Processes of the trainer on one node, the rank itself first."""
    found = []
    for process in cluster.processes(node):
        try:
            command = Path(f"/proc/{process}/cmdline").read_bytes().split(b"\0")
        except FileNotFoundError:
            continue
        if b"perdure.pipeline.train.worker" in command:
            found.append(process)
    assert found
    return sorted(found)


def tell_to_save(cluster, job: str) -> None:
    """What Slurm does before the time limit."""
    cluster.on(slurm_cluster.CONTROLLER, "scancel", "--signal=USR1", job)


def kill_a_rank(cluster, job: str) -> None:
    os.kill(ranks(cluster, "n2")[0], signal.SIGKILL)


def preempt(cluster, job: str) -> None:
    wrap = ["sbatch", "--parsable", "--partition=urgent", "--nodes=2", "--exclusive", "--wrap", "sleep 2"]
    cluster.on(slurm_cluster.CONTROLLER, *wrap, "--output=/dev/null")


def kill_the_daemon(cluster, job: str) -> None:
    """Slurm's daemon on a node dies; it is started again once the node is given up."""
    (daemon,) = (process for process in cluster.processes("n2") if name_of(process) == "slurmd")
    for process in ranks(cluster, "n2"):  # or training would end before Slurm notices
        os.kill(process, signal.SIGSTOP)
    os.kill(daemon, signal.SIGKILL)
    deadline = time.monotonic() + 60
    while "down" not in cluster.on(slurm_cluster.CONTROLLER, "sinfo", "-hNn", "n2", "-o", "%T").stdout:
        assert time.monotonic() < deadline
        time.sleep(0.5)
    cluster.start_slurmd("n2")


def name_of(process: int) -> str:
    return Path(f"/proc/{process}/comm").read_text().strip()
