import os
import resource
import subprocess
import sys

import pytest
from tiny import random_documents, tiny_recipe, write_data

from perdure.pipeline.checks import sources
from perdure.pipeline.checks.open_files import files_needed
from perdure.pipeline.core.open_files import allow_open_files
from perdure.pipeline.core.shards import open_shard
from perdure.pipeline.plan.planning import build_plan

SELECTION = {"score": "intersection", "reference": "models/reference"}


def test_a_soft_limit_is_raised_to_the_hard_one():
    code = (
        "from perdure.pipeline.core.open_files import allow_open_files; import resource; allow_open_files(); "
    )
    code += "print(resource.getrlimit(resource.RLIMIT_NOFILE))"
    command = f"ulimit -Sn 64 && ulimit -Hn 600 && exec {sys.executable} -c '{code}'"
    assert subprocess.check_output(["bash", "-c", command], text=True) == "(600, 600)\n"


@pytest.mark.parametrize(("selection", "shards"), [(None, 3), (SELECTION, 7)])
def test_what_a_rank_holds_follows_from_tasks_and_streams(tmp_path, selection, shards):
    few, many = (
        files_needed(tiny_recipe(tmp_path, data__tasks=tasks, versions__v1__selection=selection))
        for tasks in (1000, 1100)
    )
    # Of two sources the tokens and the sidecars, and the held-out documents of one; two maps each.
    assert many - few == 100 * 2 * shards


def test_a_limit_that_is_too_low_for_the_tasks_is_a_problem(tmp_path, monkeypatch):
    recipe = tiny_recipe(tmp_path, data__tasks=4000)
    monkeypatch.setattr(sources, "allow_open_files", lambda: 4096)
    (problem,) = sources.open_files(recipe)
    assert str(problem).startswith(
        "data.tasks = 4000: a process will hold up to 24,516 files open, 4,096 are allowed"
    )
    monkeypatch.setattr(sources, "allow_open_files", lambda: 1 << 20)
    assert not list(sources.open_files(recipe))


def test_an_open_plan_holds_no_more_than_reckoned(tmp_path):
    from perdure.pipeline.train.dataset import open_dataset

    recipe = tiny_recipe(tmp_path, data__tasks=3)
    data = {
        name: write_data(
            tmp_path / name,
            [random_documents(task, 4, 300) for task in range(3)],
            random_documents(9, 2, 300),
            300,
        )
        for name in ("a", "b")
    }
    build_plan(tmp_path / "plan", recipe, "v1", data, {})
    before = len(os.listdir("/proc/self/fd"))
    dataset = open_dataset(tmp_path / "plan", data, {})
    held = len(os.listdir("/proc/self/fd")) - before
    assert len(dataset.streams) == 2 and held == 2 * 2 * 3 + 2 * 2 <= files_needed(recipe)


def test_index_and_values_of_a_shard_are_as_written(tmp_path):
    documents = random_documents(1, 5, 300)
    write_data(tmp_path / "a", [documents], documents, 300)
    shard = open_shard(tmp_path / "a" / "00000")
    assert shard.lengths.tolist() == [len(document) for document in documents]
    starts = [shard.start(number) for number in range(5)]
    assert [shard.values[start] for start in starts] == [document[0] for document in documents]


def test_nothing_changes_where_the_limit_is_high():
    allowed = allow_open_files()
    assert allow_open_files() == allowed == min(resource.getrlimit(resource.RLIMIT_NOFILE)[0], 1 << 20)
