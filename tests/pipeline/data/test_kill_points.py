"""Killed just before a change of its files, any of them, the data stage goes on to the same bytes.

`test_restart.py` kills real pools of workers among their tasks; here every change of a file counts.
"""

import os
import subprocess
import sys

import pytest
import yaml
from soak import often

from tests.pipeline.data.subjects import SUBJECTS, labelled, text
from tests.pipeline.data.texts import write_jsonl

RUN = """
import contextlib, os, shutil, signal, sys
from pathlib import Path
import joblib, sklearn.cluster, sklearn.feature_extraction.text, sklearn.linear_model, sklearn.pipeline
from perdure.pipeline.core.remembered_hashes import VERIFIED
from perdure.pipeline.data import shard, stage, subset, topics
from perdure.pipeline.data.backends import local
from perdure.pipeline.data.cleaning import clean
from perdure.pipeline.data.tokenizer import train
from perdure.pipeline.recipe import load_recipe

recipe, out, stride = load_recipe(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])

class Here:
    map = staticmethod(map)

# Tasks run in this process, one after the other: the n-th change is the same one each time.
local.local = lambda workers, scoring: contextlib.nullcontext(local.executor_on(Here()))

def ran(out, last=None):
    '''Whether the stage ended in a child that is killed before change `last` of what is below `out`.'''
    if child := os.fork():
        status = os.waitpid(child, 0)[1]
        assert status in (0, signal.SIGKILL), status
        return status == 0
    changes = 0

    def watch(event, arguments):
        nonlocal changes
        opened = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if opened or event in ("os.rename", "os.remove", "os.rmdir", "os.mkdir"):
            changes += str(out) in str(arguments[0]) or event in ("os.remove", "os.rmdir")
            if changes == last:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)
    stage.run_data(recipe.model_copy(update={"out": out}))
    os._exit(0)

def artefacts(out):
    '''Contents by name of all that a run leaves but its logs; the name of the directory stands in some.'''
    paths = [path for path in out.rglob("*") if path.is_file() and "logs" not in path.relative_to(out).parts]
    paths = [path for path in paths if path.name != VERIFIED]  # holds inodes and times
    return {str(path.relative_to(out)): path.read_bytes() for path in paths}

assert ran(out)
expected = artefacts(out)
assert not list((out / "work").iterdir())
kills = 0
for last in range(1, 10**6, stride):
    shutil.rmtree(out)
    if ran(out, last):
        break
    kills += 1
    assert ran(out), last
    found = artefacts(out)
    differ = [name for name in expected.keys() | found if found.get(name) != expected.get(name)]
    assert not differ, (last, differ)
    assert not list((out / "work").iterdir()), last
print(kills)
"""


@pytest.mark.slow
def test_killed_before_any_change_of_a_file(make_recipe, tmp_path):
    rows = [
        {"text": text(subject, number), "id": f"{subject}-{number}", "subject": subject}
        for number in range(20)
        for subject in SUBJECTS
    ]
    readers = {
        name: {"type": "jsonl", "path": str(write_jsonl(tmp_path / f"{name}.jsonl", rows[start:]))}
        for start, name in enumerate(("a", "b"))
    }
    (tmp_path / "probes.txt").write_text(rows[7]["text"])
    clean = [
        {"type": "length", "min_chars": 5},
        {"type": "decontaminate", "files": [str(tmp_path / "probes.txt")]},
        {"type": "minhash_dedup"},
    ]
    recipe = make_recipe(readers, clean=clean).model_dump(mode="json", exclude_none=True)
    labels, sea = labelled(tmp_path / "labels.jsonl"), tmp_path / "sea.jsonl"
    write_jsonl(sea, [{"text": text("sea", seed)} for seed in range(200, 240)])
    recipe["sources"]["a"] |= {
        "topics": {"type": "classifier", "labelled": labels},
        "subset": {"type": "dsir", "target": str(sea), "tokens": 1000, "num_buckets": 1000},
    }
    recipe["sources"]["b"] |= {
        "topics": {"type": "cluster", "num_clusters": 3},
        "subset": {"type": "classifier", "positive": str(sea), "tokens": 1000},
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    (tmp_path / "run.py").write_text(RUN)
    arguments = [str(tmp_path / "recipe.yaml"), str(tmp_path / "out"), str(often(449, 37))]
    run = subprocess.run(
        [sys.executable, str(tmp_path / "run.py"), *arguments],
        env=os.environ | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    assert int(run.stdout) >= often(3, 30)
