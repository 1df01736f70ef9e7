"""Imports inside functions have a reason: they load a package that their module does not load by itself."""

import ast
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
EXCEPT = {"torch.utils.tensorboard", "importlib.metadata", "importlib.resources"}
"""Parts that are slow to import of packages that are loaded already, or of the standard library."""


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(("perdure", *(parts[:-1] if parts[-1] == "__init__" else parts)))


TREES = {
    name_of(path): ast.parse(path.read_text())
    for room in ("pipeline", "kernels", "launch", "data_recipes")
    for path in sorted((ROOT / room).rglob("*.py"))
}


def loaded_by(node: ast.Import | ast.ImportFrom) -> set[str]:
    """Our modules and the packages of others that an import statement names."""
    if isinstance(node, ast.Import):
        return {alias.name if alias.name in TREES else alias.name.split(".")[0] for alias in node.names}
    module = node.module or ""
    if module.startswith("perdure"):
        places = {f"{module}.{alias.name}" for alias in node.names}
        return {place if place in TREES else module for place in places}
    return {module.split(".")[0]}


def at_the_top(tree: ast.Module) -> Iterator[ast.Import | ast.ImportFrom]:
    for node in tree.body:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        nodes = ast.walk(node) if isinstance(node, ast.If | ast.Try) else [node]
        yield from (found for found in nodes if isinstance(found, ast.Import | ast.ImportFrom))


@cache
def packages(module: str) -> frozenset[str]:
    """Packages of others that importing a module of ours loads."""
    todo, seen, found = [module], set(), set()
    while todo:
        parts = todo.pop().split(".")
        for name in (".".join(parts[:length]) for length in range(2, len(parts) + 1)):
            if name in TREES and name not in seen:
                seen.add(name)
                for loaded in (name for node in at_the_top(TREES[name]) for name in loaded_by(node)):
                    (todo.append if loaded in TREES else found.add)(loaded)
    return frozenset(found - sys.stdlib_module_names - {"perdure"})


def inside_functions(tree: ast.Module) -> Iterator[ast.Import | ast.ImportFrom]:
    found = {
        id(node): node
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef)
        for node in ast.walk(function)
        if isinstance(node, ast.Import | ast.ImportFrom)
    }
    yield from found.values()


def test_an_import_inside_a_function_loads_a_package_that_its_module_does_not():
    for module, tree in TREES.items():
        for node in inside_functions(tree):
            if isinstance(node, ast.ImportFrom) and node.module in EXCEPT:
                continue
            loaded = loaded_by(node)
            new = {name for name in loaded if name not in TREES} - sys.stdlib_module_names
            new = new.union(*(packages(name) for name in loaded if name in TREES)) - packages(module)
            assert new, f"{module}:{node.lineno}: {ast.unparse(node)} can stand at the top"


def test_what_a_module_loads_is_found():
    assert {"torch", "megatron"} <= packages("perdure.pipeline.train.trainer")
    assert packages("perdure.pipeline.core.errors") == frozenset()
