import os
import re
import signal
import subprocess
import sys

import psutil
import pytest
import yaml
from soak import often
from tiny import tiny_llama

from perdure.pipeline.core.remembered_hashes import VERIFIED

RUN = """
import os, signal, sys
from pathlib import Path
import psutil
from perdure.pipeline.data.backends import local
from perdure.pipeline.data.score.score import ReferenceModel, score_source
from perdure.pipeline.data.stage import run_data
from perdure.pipeline.recipe import load_recipe

plain_map, done, last = local.ProcessPoolExecutor.map, 0, int(sys.argv[4])

def map_until_killed(pool, task, ranks):
    # Kills this process when so many tasks are done, others still at work; its workers' numbers are written down before.
    global done
    for result in plain_map(pool, task, ranks):
        done += 1
        if done == last:
            left = [str(process.pid) for process in psutil.Process().children(recursive=True)]
            Path(sys.argv[2]).with_name("left").write_text(" ".join(left))
            os.kill(os.getpid(), signal.SIGKILL)
        yield result

local.ProcessPoolExecutor.map = map_until_killed
if __name__ == "__main__":
    workers = "data.workers=" + os.environ["WORKERS"]
    found = run_data(load_recipe(sys.argv[1], [workers], out=Path(sys.argv[2])))
    for path in found.values():
        score_source(path, ReferenceModel(Path(sys.argv[3]), "ref", 32, 8), workers=2)
"""


TASKS = often((2, 9), (2, 7, 1, 9, 4))
"""After how many tasks that it has done each run is killed: in the middle of a pipeline, or between two."""


def outliving(numbers: list[int]) -> list[psutil.Process]:
    """Those processes that still do something after a while; one that nobody has waited for yet does not."""
    left = [process for process in psutil.process_iter() if process.pid in numbers]
    return [process for process in psutil.wait_procs(left, timeout=60)[1] if runs(process)]


def runs(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.slow
def test_killed_among_its_tasks_and_run_again_gives_the_same_bytes(make_recipe, tmp_path, texts):
    near = [text + " but" for text in texts[::5]]
    (tmp_path / "probes.txt").write_text(texts[7])
    clean = [
        {"type": "length", "min_chars": 5},
        {"type": "decontaminate", "files": [str(tmp_path / "probes.txt")]},
        {"type": "gopher_repetition"},
        *({"type": f"{kind}_dedup"} for kind in ("exact", "sentence", "minhash")),
    ]
    recipe = make_recipe(
        {"a": [*texts, *near, *texts[:9], "x"], "b": texts[::-1] * 2},
        tasks=3,
        out=tmp_path / "killed",
        clean=clean,
    )
    tiny_llama(tmp_path / "model", 500, num_hidden_layers=1)
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe.model_dump(mode="json", exclude_none=True)))
    (tmp_path / "run.py").write_text(RUN)
    arguments = [str(tmp_path / "recipe.yaml"), str(tmp_path / "killed"), str(tmp_path / "model")]

    def run(workers, tasks):
        """Runs it until so many tasks are done, or to its end if that is 0."""
        done = subprocess.run(
            [sys.executable, str(tmp_path / "run.py"), *arguments, str(tasks)],
            stdout=subprocess.DEVNULL,
            env=os.environ | {"WORKERS": str(workers)},
        )
        assert done.returncode == (-signal.SIGKILL if tasks else 0)

    for number, tasks in enumerate(TASKS):
        run(1 + number % 3, tasks)
        left = [int(pid) for pid in (tmp_path / "left").read_text().split()]
        assert left and not outliving(left), "workers outlive the run"
    run(2, 0)
    arguments[1] = str(tmp_path / "undisturbed")
    run(2, 0)
    for part in ("clean", "data"):
        found, expected = (files(tmp_path / out / part) for out in ("killed", "undisturbed"))
        assert found == expected
    assert not any((tmp_path / "killed" / "work").iterdir())


def files(directory):
    """Contents by name; the command line in manifests names the output, and their checksum is over it."""
    checksum = re.compile(rb'"checksum": ".*"')
    return {
        str(path.relative_to(directory)): checksum.sub(
            b"", path.read_bytes().replace(b"undisturbed", b"killed")
        )
        for path in directory.rglob("*")
        if path.is_file() and path.name != VERIFIED
    }
