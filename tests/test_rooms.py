"""What a machine of the data stage and one that trains need not have installed."""

import json
import os
import random
import subprocess
import sys

import pytest
import yaml

from tests.tiny import tiny_recipe

IMPORT_ALL = """
import importlib, pkgutil, sys
folder, absent = sys.argv[1:]
sys.modules[absent] = None  # `import` raises
package = importlib.import_module(folder)
for module in pkgutil.walk_packages(package.__path__, f"{folder}."):
    importlib.import_module(module.name)
print(sum(name.startswith(folder) for name in sys.modules))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("folder", "absent"),
    [
        ("perdure.pipeline.data", "megatron"),
        ("perdure.pipeline.data", "triton"),
        ("perdure.pipeline.train", "datatrove"),
        ("perdure.kernels", "megatron"),
        ("perdure.kernels", "datatrove"),
    ],
)
def test_every_module_of_a_folder_can_be_imported_without(folder, absent):
    done = subprocess.run(
        [sys.executable, "-P", "-W", "ignore", "-c", IMPORT_ALL, folder, absent],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.splitlines()[-1]) > 10


HIDE = """
import importlib.machinery, os, sys

HIDDEN = os.environ["HIDDEN"].split()

class Finder(importlib.machinery.PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in HIDDEN else super().find_spec(name, path, target)

sys.meta_path = [Finder if one is importlib.machinery.PathFinder else one for one in sys.meta_path]
"""
"""As `sitecustomize`, hides installed packages from a process and from all that it starts."""
ONLY_DATA = "datatrove transformers nltk sklearn xxhash zstandard dill"
ONLY_TRAINING = "torch megatron triton tensorboard matplotlib"


@pytest.fixture
def perdure(tmp_path):
    """Runs a command on a machine that lacks packages; returns what it printed on stderr, if it failed as expected."""
    (tmp_path / "hide").mkdir()
    (tmp_path / "hide" / "sitecustomize.py").write_text(HIDE)

    def run(*arguments: object, hidden: str, status: int = 0) -> str:
        path = os.pathsep.join(filter(None, [str(tmp_path / "hide"), os.environ.get("PYTHONPATH")]))
        done = subprocess.run(
            [sys.executable, "-m", "perdure.pipeline.cli", *map(str, arguments)],
            env=os.environ | {"HIDDEN": hidden, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
        )
        assert done.returncode == status, done.stderr[-3000:]
        return done.stderr

    return run


@pytest.fixture
def recipe_file(tmp_path):
    """A tiny recipe whose cleaning asks for the language's words and for evaluation data."""
    rng = random.Random(0)
    texts = [
        " ".join(rng.choices("the river of that with and to be have in a hill".split(), k=60))
        for _ in range(60)
    ]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    (tmp_path / "probes.txt").write_text(
        "one two three four five six seven eight nine ten eleven twelve thirteen"
    )
    clean = [
        {"type": "gopher_quality", "max_doc_words": 1000},
        {"type": "decontaminate", "files": [str(tmp_path / "probes.txt")]},
    ]
    source = {
        "reader": {"type": "jsonl", "path": str(tmp_path / "in.jsonl")},
        "clean": clean,
        "heldout_fraction": 0.2,
    }
    changes = {
        "sources": {"a": source},
        "data": {"tasks": 2, "workers": 1},
        "versions__v1__mixture": {"sources": {"a": {}}, "max_repetition": 100},
        "versions__v1__tokens": 32 * 8 * 2,
    }
    recipe = tiny_recipe(tmp_path / "out", **changes)
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe.model_dump(mode="json", exclude_none=True)))
    return path


@pytest.mark.slow
def test_data_is_made_without_torch_and_a_version_trained_without_datatrove(perdure, recipe_file, tmp_path):
    perdure("check", recipe_file, hidden=f"{ONLY_DATA} {ONLY_TRAINING}")
    error = perdure("data", recipe_file, hidden=ONLY_DATA, status=1)
    assert "Traceback" not in error and "pip install 'perdure[data]'" in error.splitlines()[-1]
    perdure("data", recipe_file, hidden=ONLY_TRAINING)
    error = perdure("run", recipe_file, hidden=ONLY_TRAINING, status=1)
    assert "Traceback" not in error and "pip install 'perdure[train]'" in error.splitlines()[-1]
    perdure("run", recipe_file, hidden=ONLY_DATA)
    assert (tmp_path / "out" / "versions" / "v1" / "version.json").exists()
