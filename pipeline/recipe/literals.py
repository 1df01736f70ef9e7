"""YAML as its writer means it: what YAML 1.1 would turn into something else without a word is a mistake.

`0100` is 64 (octal), `1:00:04` is 3604 (base 60), `no` is false, `2024-01-01` is a date (https://yaml.org/type/).
"""

import re
from collections import Counter
from collections.abc import Hashable, Iterator
from dataclasses import replace
from typing import Any

import yaml

from perdure.pipeline.core.errors import Problem

PREFIX = "tag:yaml.org,2002:"
SCALARS = ("str", "int", "float", "bool", "null", "timestamp")
"""Tags of single values; all others, `!!python/name` for one, are refused."""
RESOLVER = yaml.resolver.Resolver()
UNTAGGED = "should stand without a tag (`!`), or in quotes if it is text"
PLAIN = re.compile(r"[-+]?(0|[1-9][0-9]*(_[0-9]+)*)")
"""Integers that YAML reads as people do."""
FIELDS = ("on",)
"""Names of fields that YAML reads as booleans; where a name stands they are text, as YAML 1.2 has it."""
MAX_DEPTH, MAX_NODES = 50, 1_000_000
"""Most levels and values of a recipe, what aliases stand for included; those of today have 10 and some hundred."""
NO_TEXT = re.compile("[\0\ud800-\udfff]")
"""Characters that no file's name or text can have."""


def read_yaml(text: str) -> tuple[Any, list[Problem]]:
    """Parses one YAML document.

    Returns:
        Its value, and its literals that YAML reads otherwise than they look; the value is None if there are any.

    Raises:
        yaml.YAMLError: If it is not YAML, a key stands twice, or it is nested too deeply or too large.
    """
    loader = _UniqueKeyLoader(text)
    try:
        node = loader.get_single_node()
        found = [] if node is None else list(_misread(node, (), set()))
        return (None if node is None or found else loader.construct_document(node)), found
    finally:
        loader.dispose()


def within(field: str, problem: Problem) -> Problem:
    """A problem of a value, as one of the field that the value is for."""
    return replace(problem, path=".".join(filter(None, (field, problem.path))))


class _UniqueKeyLoader(yaml.SafeLoader):
    """YAML would let the second of two equal keys win silently; one beside a merge (`<<: *anchor`) may win.

    A few lines of aliases of aliases can stand for more values than memory holds, so what they stand for is counted.
    """

    def __init__(self, text: str):
        super().__init__(text)
        self._depth = 0
        self._sizes: dict[int, tuple[int, int]] = {}
        """By node, the nodes that it stands for, and how deep they are nested."""

    def compose_node(self, parent: Any, index: Any) -> yaml.Node:
        event = self.peek_event()
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise _too_large(f"nested more than {MAX_DEPTH} deep", event)
        node = super().compose_node(parent, index)
        assert node is not None
        self._depth -= 1
        if isinstance(event, yaml.AliasEvent):
            if id(node) not in self._sizes:
                raise _too_large(f"the alias *{event.anchor} stands in what it stands for", event)
            return node
        parts = [] if isinstance(node, yaml.ScalarNode) else node.value
        if isinstance(node, yaml.MappingNode):
            for key, _ in parts:
                if isinstance(key, yaml.ScalarNode) and key.value in FIELDS:
                    key.tag = f"{PREFIX}str"
            parts = [part for pair in parts for part in pair]
        sizes = [self._sizes[id(part)] for part in parts]
        size, depth = 1 + sum(size for size, _ in sizes), 1 + max((depth for _, depth in sizes), default=0)
        if size > MAX_NODES or depth > MAX_DEPTH:
            what = (
                f"more than {MAX_NODES:,} values"
                if size > MAX_NODES
                else f"nested more than {MAX_DEPTH} deep"
            )
            raise _too_large(f"{what}, with what aliases stand for", event)
        self._sizes[id(node)] = size, depth
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> dict:
        written = [key for key, _ in node.value if key.tag != f"{PREFIX}merge"]
        keys = [self.construct_object(key, deep=True) for key in written]
        # Others are refused as keys.
        for key, times in Counter(key for key in keys if isinstance(key, Hashable)).items():
            if times > 1:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {key!r} stands twice", node.start_mark
                )
        # Depth first: a merge writes into the mapping that it takes from, which must have been through here by then.
        return super().construct_mapping(node, deep=True)


def _too_large(what: str, event: Any) -> yaml.YAMLError:
    return yaml.composer.ComposerError(None, None, what, event.start_mark)


def _misread(node: yaml.Node, path: tuple[str, ...], seen: set[int]) -> Iterator[Problem]:
    """Problems of a node and of what is in it; a node that aliases share is looked at once."""
    if id(node) in seen:
        return
    seen.add(id(node))
    kind = node.tag.removeprefix(PREFIX)
    if isinstance(node, yaml.ScalarNode):
        written = kind == "str" or node.tag == RESOLVER.resolve(yaml.ScalarNode, node.value, (True, False))
        remedy = _remedy(kind, node.value) if written and kind in SCALARS else UNTAGGED
        if NO_TEXT.search(node.value):
            remedy = "should be text, without zeros and lone surrogates"
        if remedy:
            yield Problem(".".join(path), node.value, remedy)
    elif kind not in ("seq", "map"):
        yield Problem(".".join(path), None, UNTAGGED)
    elif isinstance(node, yaml.SequenceNode):
        for number, entry in enumerate(node.value):
            yield from _misread(entry, (*path, str(number)), seen)
    else:
        for key, value in node.value:
            if key.tag == f"{PREFIX}merge":
                yield from _misread(value, path, seen)
                continue
            name = key.value if isinstance(key, yaml.ScalarNode) else "?"
            if NO_TEXT.search(name):
                yield Problem(
                    ".".join((*path, ascii(name))),
                    None,
                    "a name should be text, without zeros and lone surrogates",
                )
            if key.tag != f"{PREFIX}str":
                remedy = f"a name is text, which YAML does not read here: write '{name}' in quotes"
                yield Problem(".".join((*path, name)), None, remedy)
            yield from _misread(value, (*path, name), seen)


def _remedy(kind: str, text: str) -> str | None:
    """What to write instead of a scalar that YAML reads otherwise than it looks; None if it does not."""
    quoted = f"'{text}' in quotes if it is text"
    if kind == "int" and not PLAIN.fullmatch(text):
        return f"should be {_readings(text)}, or {quoted}"
    if kind == "float" and ":" in text:
        return f"should be a decimal number (YAML counts to the base of 60 here), or {quoted}"
    if kind == "bool" and text.lower() not in ("true", "false"):
        value = "true" if text.lower() in ("yes", "on") else "false"
        return f"should be {value}, as YAML reads it, or {quoted}"
    if kind == "timestamp":
        return f"should stand in quotes, as '{text}': without them YAML reads a date"
    return None


def _readings(text: str) -> str:
    """Decimal numbers that an integer may mean: as it looks, if it looks decimal, and as YAML 1.1 reads it."""
    digits = text.replace("_", "").lstrip("+")
    sign, digits = ("-", digits[1:]) if digits.startswith("-") else ("", digits)
    if ":" in digits:
        total = 0
        for part in digits.split(":"):
            total = total * 60 + int(part)
        return f"{sign}{total} (YAML counts to the base of 60 here)"
    if digits[:2].lower() in ("0x", "0b"):
        base = 16 if digits[1] in "xX" else 2
        return f"{sign}{int(digits[2:] or '0', base)} in decimal digits"
    if digits.startswith("0") and int(digits):
        return f"{sign}{int(digits)}, or {sign}{int(digits, 8)} if it is octal, as YAML takes it"
    return f"{sign}{int(digits)}"
