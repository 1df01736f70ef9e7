"""Ranks and other processes for tests: started, stopped at a point, and what they left."""

import atexit
import json
import os
import signal
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from unittest.mock import patch

from messages import messages
from tiny import random_data

from perdure.pipeline.recipe import Recipe
from perdure.pipeline.train.ranks import WORKER, Node, free_port, rank_environments


def run_versions(recipe: Recipe, *names: str) -> list[str]:
    """Trains versions over random data as `perdure run` does, all or some; returns what it says."""
    from perdure.pipeline.run.run import make_version

    def start(directory: Path, world_size: int, task: str = "train") -> None:
        outcome = start_ranks(directory, world_size, task)
        assert outcome.returncode == 0, outcome.stderr
        assert "Warning" not in outcome.stderr, outcome.stderr

    data, _, tokenizer = random_data(recipe.directory)
    with (
        messages() as said,
        patch("perdure.pipeline.data.stage.tokenizer_directory", return_value=tokenizer),
        patch("perdure.pipeline.train.ranks.start", start),
    ):
        for name in names or recipe.versions:
            make_version(recipe, name, data)
    return said


def number_of_worker(_task: int) -> tuple[int, int]:
    """Runs in a worker of a pool, which can import this module but no test module: its process and its number."""
    import time

    from perdure.pipeline.data.backends.local import worker_number

    time.sleep(0.2)  # so that one worker cannot take all tasks
    return os.getpid(), worker_number()


@cache
def rank_server(triton_interpreted: str | None) -> subprocess.Popen:
    """A process that forks ranks (`rank_server.py`); with one thread each. The cache knows what imports depend on."""
    server = subprocess.Popen(
        [sys.executable, str(Path(__file__).parent / "rank_server.py")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        # Asking torch for GPUs must not start CUDA, which does not survive a fork.
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTORCH_NVML_BASED_CUDA_CHECK": "1"},
    )
    atexit.register(server.kill)
    return server


def fork_ranks(run: str, arguments: list[str], environments: list[dict]) -> subprocess.CompletedProcess:
    """Runs a module, or a script of tests, in forks of a rank server: one process for each environment."""
    server = rank_server(os.environ.get("TRITON_INTERPRET"))
    with tempfile.NamedTemporaryFile("r") as stdout, tempfile.NamedTemporaryFile("r") as stderr:
        request = {"run": run, "arguments": arguments, "environments": environments, "cwd": os.getcwd()}
        try:
            print(
                json.dumps(request | {"stdout": stdout.name, "stderr": stderr.name}),
                file=server.stdin,
                flush=True,
            )
            status = json.loads(server.stdout.readline())
        except BaseException:  # a test's time is over: the next one gets another server
            server.kill()
            rank_server.cache_clear()
            raise
        return subprocess.CompletedProcess([run, *arguments], status, stdout.read(), stderr.read())


def start_ranks(
    directory: Path, world_size: int, task: str = "train", **environment: str
) -> subprocess.CompletedProcess:
    """Trains a prepared version to its end in real processes, as `train.ranks` starts them."""
    with patch.dict(os.environ, {"OMP_NUM_THREADS": "1"} | environment):
        return fork_ranks(WORKER, [str(directory), task], rank_environments(world_size, Node()))


STOPPED = 42
"""Exit status of who started ranks, where they left because of a signal."""


def stopped_at(version: Path, ranks: int, point: str, sent: signal.Signals) -> subprocess.CompletedProcess:
    """Starts a prepared version's ranks anew; a signal comes to their starter at a point of rank 0.

    Args:
        version: The version's directory.
        ranks: Their number.
        point: `MODULE:FUNCTION:N`, right before the n-th call of a function of `perdure.pipeline.train`.
        sent: The signal; SIGTERM and SIGUSR1 are handed on to the ranks.
    """
    code = (
        "import sys; from pathlib import Path; from perdure.pipeline.core.errors import Stopped; "
        "from perdure.pipeline.train import ranks; ranks.WORKER = 'pointed'\n"
        f"try: ranks.start(Path({str(version)!r}), {ranks})\nexcept Stopped: sys.exit({STOPPED})"
    )
    with patch.dict(os.environ, at_point(f"perdure.pipeline.train.{point}", sent)):
        return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


def at_point(point: str, sent: signal.Signals) -> dict[str, str]:
    """Variables that `tests/pointed.py` reads."""
    paths = [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    return {
        "PERDURE_TEST_POINT": f"{point}:{sent:d}",
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "OMP_NUM_THREADS": "1",
    }


def metrics(directory: Path) -> list[dict]:
    """The lines of a version's `metrics.jsonl`."""
    return [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]


def wandb_rows(run: Path) -> list[dict[str, float]]:
    """What was logged to an offline run of Weights & Biases, a row a call: its `.wandb` file is a LevelDB log of protobufs."""
    from wandb.proto.wandb_internal_pb2 import Record

    (file,) = run.glob("*.wandb")
    content, place, parts, rows = file.read_bytes(), 7, b"", []  # behind the file's own header
    while place + 7 <= len(content):
        left = 32_768 - place % 32_768  # of the block
        if left < 7:
            place += left
            continue
        size, kind = int.from_bytes(content[place + 4 : place + 6], "little"), content[place + 6]
        parts += content[place + 7 : place + 7 + size]
        place += 7 + size
        if kind in (1, 4):  # whole, or the last part
            record, parts = Record.FromString(parts), b""
            if record.HasField("history"):
                items = record.history.item
                rows.append({item.key or item.nested_key[0]: json.loads(item.value_json) for item in items})
    return rows


FORKED = (
    "ranks.py",
    "checkpoint_ranks.py",
    "averaging_ranks.py",
    "step_ranks.py",
    "adapter_ranks.py",
    "convert_ranks.py",
    "kl_ranks.py",
    "bench/training.py",
    "bench/saving.py",
    "bench/loss.py",
    "gpu/kernel_ranks.py",
    "gpu/pretended_ranks.py",
    "gpu/waiting_ranks.py",
)
"""Scripts that may run in a fork of the rank server; the others are measured with what they import, or fork themselves."""


def on_rank(function: str, *arguments, threads: int = 1, script: str = "ranks.py", ranks: int = 1):
    """Calls a function of tests/ranks.py, or of another script like it, in `ranks` processes of its own."""
    common = {"OMP_NUM_THREADS": str(threads), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    common |= {"WORLD_SIZE": str(ranks), "GLOO_SOCKET_IFNAME": "lo"}
    environments = [
        os.environ | common | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(ranks)
    ]
    with tempfile.TemporaryDirectory() as directory:
        answer = Path(directory) / "answer"
        given = [function, json.dumps([str(x) if isinstance(x, Path) else x for x in arguments]), str(answer)]
        if threads == 1 and script in FORKED:
            done = fork_ranks(script.removesuffix(".py").replace("/", "."), given, environments)
        else:  # measurements, scripts that fork themselves, and those that import other packages
            command = [sys.executable, str(Path(__file__).parent / script), *given]
            started = [
                subprocess.Popen(
                    command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
                )
                for env in environments
            ]
            told = [process.communicate()[0] for process in started]
            assert not any(process.returncode for process in started), "\n".join(told)
            return json.loads(answer.read_text())
        assert done.returncode == 0, done.stderr
        return json.loads(answer.read_text())
