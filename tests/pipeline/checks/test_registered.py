"""Checks that exist are run: each is in its module's list or called by one that is; and those of the layout by hand."""

import ast
import importlib
import inspect
import pkgutil
from pathlib import Path

import pytest
from tiny import tiny_recipe

from perdure.pipeline import checks
from perdure.pipeline.checks import check
from perdure.pipeline.checks.check import problems

TOOLS = {
    "advice",
    "check",
    "lenient",
    "measured",
    "memory",
    "mixture_table",
    "packed",
    "preview",
    "preview_mixture",
    "sizes",
    "sizing",
}
"""Modules of the room that hold no checks of their own."""
MODULES = [
    importlib.import_module(f"{checks.__name__}.{found.name}")
    for found in pkgutil.iter_modules(checks.__path__)
    if found.name not in TOOLS
]


def named(path: Path) -> set[str]:
    """Names that a file uses: their definitions and imports are no use."""
    tree = ast.parse(path.read_text())
    return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)} | {
        node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)
    }


def test_every_check_is_asked_by_somebody():
    used = set().union(*(named(Path(module.__file__)) for module in (*MODULES, check)))
    found = {
        (module.__name__, name)
        for module in MODULES
        for name, value in vars(module).items()
        if inspect.isfunction(value) and value.__module__ == module.__name__
    }
    assert len(found) > 60
    assert {place for place in found if place[1] not in used} == set()


def test_every_list_of_checks_is_gone_through():
    lists = {module.__name__.rpartition(".")[2] for module in MODULES if hasattr(module, "CHECKS")}
    tree = ast.parse(Path(check.__file__).read_text())
    used = {
        node.value.id for node in ast.walk(tree) if isinstance(node, ast.Attribute) and node.attr == "CHECKS"
    }
    assert used == lists


@pytest.mark.parametrize(
    ("parallel", "length", "path", "remedy"),
    [
        ({"tensor_parallel": 1}, 32, "parallel.sequence_parallel", "tensor_parallel should be above 1"),
        ({"tensor_parallel": 2}, 33, "training.seq_length", "should be a multiple of tensor_parallel (2)"),
        ({"tensor_parallel": 2}, 32, None, None),
    ],
)
def test_sequences_split_over_several_ranks_evenly(tmp_path, parallel, length, path, remedy):
    layout = parallel | {"sequence_parallel": True}
    recipe = tiny_recipe(tmp_path, parallel=layout, training__seq_length=length)
    about = ("parallel.sequence_parallel", "training.seq_length")
    found = [problem for problem in problems(recipe) if problem.path in about]
    assert [problem.path for problem in found] == ([path] if path else [])
    assert all(remedy in problem.remedy for problem in found)


@pytest.mark.parametrize(
    ("changes", "path"),
    [
        ({"parallel": {"tensor_parallel": 8}}, "parallel.tensor_parallel"),
        ({"parallel": {"pipeline_parallel": 3}}, "parallel.pipeline_parallel"),
        ({"parallel": {"data_parallel": 3}}, "training.global_batch_size"),
        ({"parallel": {"tensor_parallel": 4, "pipeline_parallel": 8, "data_parallel": 2**16}}, "parallel"),
        ({"model__num_query_groups": 3}, "model.num_query_groups"),
        ({"model__hidden_size": 36}, "model.hidden_size"),
        ({"training__adam_beta2": 1.0}, "training.adam_beta2"),
    ],
)
def test_a_layout_that_cannot_be_is_a_problem(tmp_path, changes, path):
    assert path in [problem.path for problem in problems(tiny_recipe(tmp_path, **changes))]
