"""Text from Python source: docstrings as prose, and code without docstrings; nothing is ever imported or run."""

import ast
import io
import re
import tokenize
import warnings
from collections.abc import Iterator

Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef

BLOCKS = (ast.stmt, ast.excepthandler, ast.match_case)
"""What can hold a definition; expressions, most of a tree, are not searched."""


def decode_source(content: bytes) -> str:
    """Decodes a source file as Python does (PEP 263), with `\\n` line ends.

    Raises:
        SyntaxError: If it declares an unknown encoding, or its first lines are not in UTF-8 and declare none.
        UnicodeDecodeError: If later lines are not in its encoding.
    """
    encoding, _ = tokenize.detect_encoding(io.BytesIO(content).readline)
    text = content.decode(encoding)
    return text.replace("\r\n", "\n").replace("\r", "\n")


def docs_of(source: str) -> str | None:
    """All docstrings of a module, in order, blank lines between; interactive examples are left out.

    Returns:
        None if there are none.

    Raises:
        SyntaxError: If it is no Python.
    """
    definitions = [owner for owner, _ in _docstrings(_parse(source))]
    texts = [prose_of(ast.get_docstring(owner) or "") for owner in definitions]
    return "\n\n".join(text for text in texts if text) or None


def code_of(source: str) -> str:
    """The module with its docstrings removed, everything else, comments included, as it was.

    A docstring that is its block's only statement becomes `pass`.

    Raises:
        SyntaxError: If it is no Python.
    """
    lines = [line.encode() for line in source.split("\n")]  # the tree counts columns in UTF-8 bytes
    for owner, statement in reversed(list(_docstrings(_parse(source)))):
        assert statement.end_lineno is not None
        first, last = statement.lineno - 1, statement.end_lineno - 1
        before, after = lines[first][: statement.col_offset], lines[last][statement.end_col_offset :]
        needed = len(owner.body) == 1 and not isinstance(owner, ast.Module)
        if needed or before.strip() or after.strip():
            lines[first : last + 1] = [before + b"pass" + after]
        else:
            del lines[first : last + 1]
    return b"\n".join(lines).decode()


def _parse(source: str) -> ast.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # invalid escapes in other people's code
        return ast.parse(source)


def _docstrings(tree: ast.AST) -> Iterator[tuple[Documented, ast.stmt]]:
    """Every docstring statement with the definition that it belongs to, in source order."""
    if isinstance(tree, Documented) and ast.get_docstring(tree, clean=False) is not None:
        yield tree, tree.body[0]
    for child in ast.iter_child_nodes(tree):
        if isinstance(child, BLOCKS):
            yield from _docstrings(child)


def prose_of(docstring: str) -> str:
    """A docstring's paragraphs, interactive examples left out."""
    paragraphs = re.split(r"\n\s*\n", docstring)
    return "\n\n".join(text for text in paragraphs if not text.lstrip().startswith(">>>")).strip()
