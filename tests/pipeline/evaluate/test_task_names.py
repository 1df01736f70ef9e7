"""Names of tasks as the harness finds them, without importing it."""

from pathlib import Path

import pytest
import yaml

from perdure.pipeline.evaluate.harness import task_names

FILES = {
    "_base": {"dataset_path": "json", "tag": ["shared", "both"]},
    "one": {"include": "_base.yaml", "task": "one"},
    "deep/two": {"include": ["../one.yaml"], "task": "two", "tag": "mine"},
    "group": {"group": "all", "task": ["one", {"task": "two", "num_fewshot": 1}], "tag": "of_group"},
    "class": {"class": "x.Y", "task": "python", "group": "no"},
    "circle": {"include": "circle.yaml", "task": "circle"},
    "list": [1],
}


@pytest.fixture
def tasks(tmp_path) -> Path:
    for name, content in FILES.items():
        path = tmp_path / f"{name}.yaml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(yaml.safe_dump(content))
    (tmp_path / "function.yaml").write_text("task: cleaned\nprocess_docs: !function utils.clean\n")
    (tmp_path / "broken.yaml").write_text("task: [")
    (tmp_path / "other.yml").write_text("task: other\n")
    return tmp_path


def test_they_are_those_of_the_harness_s_own_index(tasks):
    index = pytest.importorskip("lm_eval.tasks._index")
    assert task_names(tasks) == set(index.TaskIndex.build([tasks]))
    assert task_names(tasks) == {"one", "two", "shared", "both", "mine", "all", "python", "cleaned"}
