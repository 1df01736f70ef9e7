"""The house's habits: short files and functions, narrow signatures, plain names, and tests that use public names alone."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("pipeline", "kernels", "launch", "data_recipes", "tests")
LINES, FUNCTION_LINES, PARAMETERS = 300, 80, 8
RIDDLES = {
    "say": "a logger of the module",
    "Say": "a logger of the module",
    "Trouble": "StepVerdict",
    "together": "collectives",
}
"""Names that nothing in the packages may have, and what it is called instead."""

TRITON = "Triton's kernels take every pointer, stride and size on its own"
ALLOWED: dict[str, str] = {
    "kernels/selective.py:selective_linear_cross_entropy is wide": "one operation to autograd, documented so",
    "kernels/triton_elementwise.py:_rotate_kernel is wide": TRITON,
    "kernels/triton_kernels.py:_logits_by_pointer is wide": TRITON,
    "kernels/triton_kernels.py:_logits_by_descriptor is wide": TRITON,
    "kernels/triton_kernels.py:_keep is wide": TRITON,
    "kernels/triton_kernels.py:statistics_kernel is wide": TRITON,
    "kernels/triton_kernels.py:gradient_kernel is wide": TRITON,
}
"""Long files and functions and wide signatures that stay, and why."""


def trees(*folders: str) -> Iterator[tuple[str, str, ast.Module]]:
    """Every Python file below the folders: its path, text and syntax tree."""
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*.py")):
            text = path.read_text()
            yield path.relative_to(ROOT).as_posix(), text, ast.parse(text)


def parameters(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Number of parameters, without `self` and `cls`."""
    given = function.args
    named = [argument.arg for argument in given.posonlyargs + given.args]
    others = len(given.kwonlyargs) + (given.vararg is not None) + (given.kwarg is not None)
    return len(named) + others - (named[:1] in (["self"], ["cls"]))


def too_large() -> dict[str, str]:
    """Files, functions and signatures above the limits, with what they measure."""
    found = {}
    for path, text, tree in trees(*FOLDERS):
        if (lines := len(text.splitlines())) > LINES:
            found[path] = f"{lines} lines"
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines, wide = node.end_lineno - node.lineno + 1, parameters(node)
                if lines > FUNCTION_LINES:
                    found[f"{path}:{node.name} is long"] = f"{lines} lines"
                if wide > PARAMETERS:
                    found[f"{path}:{node.name} is wide"] = f"{wide} parameters"
    return found


def test_files_functions_and_signatures_are_within_limits():
    assert {name: size for name, size in too_large().items() if name not in ALLOWED} == {}


def test_no_exception_has_outlived_its_reason():
    assert ALLOWED.keys() <= too_large().keys()


def private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def private_names(tree: ast.Module) -> list[str]:
    """Private names of the packages that a test imports, or reaches into an imported module for."""
    found, modules = [], set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(
            ("perdure", "tests", "support", "tiny")
        ):
            found += [f"{node.module}.{alias.name}" for alias in node.names if private(alias.name)]
            modules |= {alias.asname or alias.name for alias in node.names}
    for node in ast.walk(tree):
        of_module = (
            isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in modules
        )
        if of_module and private(node.attr):
            found.append(ast.unparse(node))
        if isinstance(node, ast.Constant) and re.fullmatch(r"perdure\.[\w.]*\._[a-z]\w*", str(node.value)):
            found.append(node.value)  # a name to patch
    return found


def test_tests_use_public_names_alone():
    assert {path: names for path, _, tree in trees("tests") if (names := private_names(tree))} == {}


def test_no_test_imports_another_test():
    """What several of them share stands in a module that pytest collects nothing from."""
    imports = {
        f"{path} imports {node.module}"
        for path, _, tree in trees("tests")
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        and (node.module or "").rpartition(".")[2].startswith(("test_", "conftest"))
    }
    assert imports == set()


def names(tree: ast.Module) -> Iterator[str]:
    """Names that a module defines or uses, and the modules that it imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.arg):
            yield node.arg
        elif isinstance(node, ast.ClassDef | ast.FunctionDef):
            yield node.name
        elif isinstance(node, ast.ImportFrom | ast.Import):
            yield from (alias.name.rpartition(".")[2] for alias in node.names)


@pytest.mark.parametrize("name", RIDDLES)
def test_names_are_the_fields(name):
    found = {path for path, _, tree in trees(*FOLDERS[:-1]) if name in names(tree) or Path(path).stem == name}
    assert found == set(), f"call it {RIDDLES[name]}"
