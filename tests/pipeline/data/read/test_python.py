import ast
import io
import sysconfig
import tokenize
import warnings
from importlib import metadata
from pathlib import Path

import pytest

from perdure.pipeline.data.read import modules
from perdure.pipeline.data.read.modules import python_modules
from perdure.pipeline.data.read.python import code_of, decode_source, docs_of

SOURCE = '''"""About the module.

>>> example()
1

More about it.
"""
import os  # kept

def one(x):
    """Only a docstring."""

class Thing:
    """A thing.

    With more."""

    size = 1  # Ünïcode comment

    def half(self): "short"; return 1

    async def other(self):
        ("in "
         "brackets")  # why
        if self:
            def inner():
                "inner text"
                return "no docstring"
'''
DOCS = """About the module.

More about it.

Only a docstring.

A thing.

With more.

short

in brackets

inner text"""
CODE = """import os  # kept

def one(x):
    pass

class Thing:

    size = 1  # Ünïcode comment

    def half(self): pass; return 1

    async def other(self):
        pass  # why
        if self:
            def inner():
                return "no docstring"
"""


def test_docstrings_become_prose():
    assert docs_of(SOURCE) == DOCS


def test_docstrings_are_stripped_from_code():
    assert code_of(SOURCE) == CODE


def test_a_module_without_docstrings_has_no_prose():
    assert docs_of("x = 1\n") is None


def test_source_is_decoded_as_python_does():
    assert decode_source("# coding: latin-1\nx = 'ä'\r\n".encode("latin-1")) == "# coding: latin-1\nx = 'ä'\n"
    with pytest.raises(UnicodeDecodeError):
        decode_source(b"x = 1\n" * 3 + b"x = '\xff'")


def test_real_code_still_compiles_and_keeps_its_comments():
    stdlib = Path(sysconfig.get_path("stdlib"))
    for name in ("argparse.py", "typing.py", "asyncio/tasks.py", "decimal.py", "dataclasses.py", "ast.py"):
        source = decode_source((stdlib / name).read_bytes())
        stripped = code_of(source)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(stripped)
        assert docs_of(stripped) is None
        assert _comments(stripped) == _comments(source)
        without = [type(node) for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.Return)]
        original = [
            type(node)
            for node in ast.walk(ast.parse(source))
            if isinstance(node, ast.FunctionDef | ast.Return)
        ]
        assert without == original


def test_packages_are_found_in_order_and_never_imported(tmp_path, monkeypatch):
    package = tmp_path / "perdure_test_package"
    for file in (
        "__init__.py",
        "b.py",
        "a.py",
        "tests/test_a.py",
        "sub/__init__.py",
        "sub/test/x.py",
        "sub/z.py",
    ):
        (package / file).parent.mkdir(parents=True, exist_ok=True)
        (package / file).write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    names = [module.name for module in python_modules(["perdure_test_package"])]
    prefix = "perdure_test_package"
    assert names == [prefix, f"{prefix}.a", f"{prefix}.b", f"{prefix}.sub", f"{prefix}.sub.z"]
    assert [module.name for module in python_modules([f"{prefix}.sub"])] == [
        f"{prefix}.sub",
        f"{prefix}.sub.z",
    ]


def test_the_standard_library_is_found_without_its_tests():
    names = [module.name for module in python_modules(["stdlib"])]
    assert {"json", "json.decoder", "argparse"} <= set(names)
    assert not any(name.startswith(("test.", "numpy")) or ".tests." in name for name in names)
    assert names == sorted(names) and len(names) == len(set(names))


def _comments(source: str) -> list[str]:
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return [token.string for token in tokens if token.type == tokenize.COMMENT]


def test_installed_distributions_are_read_once_for_all_packages(monkeypatch):
    calls, read = [], metadata.packages_distributions
    monkeypatch.setattr(metadata, "packages_distributions", lambda: calls.append(1) or read())
    for function in (modules.version_and_license, modules.distributions_by_package):
        function.cache_clear()
    found = python_modules(["yaml", "sklearn.svm", "_pytest"])  # none is the name of its distribution
    assert {module.package for module in found if module.version} == {"yaml", "sklearn.svm", "_pytest"}
    assert len(calls) == 1
