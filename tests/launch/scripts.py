"""Scripts of a launch, run by a shell whose commands write down what they are given."""

import json
import os
import subprocess
import sys
from pathlib import Path

from hypothesis import strategies as st
from tiny import tiny_recipe

from perdure.launch.chain import Job
from perdure.pipeline.recipe import Recipe, SlurmArrays
from perdure.pipeline.recipe.cluster import Cluster

TRAIN = Job("train-v", version="v", gpus=True)
DUMP = """#!{python} -IS
import json, os, sys
with open({file!r}, "a") as file:
    file.write(json.dumps([os.path.basename(sys.argv[0]), sys.argv[1:], dict(os.environ), os.getcwd()]) + "\\n")
sys.exit({status})
"""


def launched(out: Path, **cluster) -> Recipe:
    recipe = tiny_recipe(out)
    return recipe.model_copy(update={"out": out, "cluster": Cluster.model_validate(cluster)})


def commands(text: str, directory: Path, environment=None, statuses=()) -> list:
    """Runs a script with recorders in place of Slurm's commands; the calls they saw."""
    tools, record = directory / "tools", directory / "calls.jsonl"
    tools.mkdir(exist_ok=True)
    record.unlink(missing_ok=True)
    for name in ("srun", "scontrol", "sleep"):
        status = dict(statuses).get(name, 0)
        (tools / name).write_text(DUMP.format(python=sys.executable, file=str(record), status=status))
        (tools / name).chmod(0o755)
    clean = {key: value for key, value in os.environ.items() if not key.startswith("SLURM")}
    path = f"{tools}{os.pathsep}{os.environ['PATH']}"
    job = {"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "n[1-2]", "SLURM_CPUS_PER_TASK": "2"}
    done = subprocess.run(
        ["bash"], input=text.encode(), env=clean | job | (environment or {}) | {"PATH": path}, timeout=60
    )
    calls = [json.loads(line) for line in record.read_text().splitlines()]
    return [done.returncode, *calls]


ANY = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=20)
NASTY = st.one_of(
    ANY,
    st.sampled_from(["a b", "'", '"', "$(touch x)", "`id`", ";exit 3", "\n#SBATCH -N9\n", "%j", "-n", "\\"]),
)


ARRAYS = {"type": "slurm", "options": ["--mem-per-cpu=8G"]}


def with_arrays(recipe: Recipe) -> Recipe:
    arrays = SlurmArrays.model_validate(ARRAYS)
    return recipe.model_copy(update={"data": recipe.data.model_copy(update={"executor": arrays})})
