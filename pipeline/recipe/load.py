"""Reading a recipe: YAML, `extends:`, `--set a.b=c`, and all mistakes at once."""

import json
import os
import re
import shlex
import sys
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from perdure.pipeline.core.errors import ELLIPSIS, Problem, RecipeError
from perdure.pipeline.core.hints import near
from perdure.pipeline.recipe.fields import belongs
from perdure.pipeline.recipe.literals import read_yaml, within
from perdure.pipeline.recipe.root import Recipe

OVERRIDE = re.compile(r"^((?:--[a-z-]+=)?cluster(?:[.:][^=]*)?)=.*", re.DOTALL)
"""A change of a cluster's fields, as `--set` takes it."""
WRITTEN = re.compile(r"([0-9]{1,18}(?:,[0-9]{3}){0,6}(?:\.[0-9]{1,18})?) *([kKmMbBgGtT%]?)")
"""Numbers as people write them: `1B`, `1.5 M`, `100,000`, `10%`."""
UNITS = {"": 0, "k": 3, "m": 6, "b": 9, "g": 9, "t": 12}
"""Powers of ten by unit."""
MAX_BYTES = 4 << 20
"""Most bytes of a recipe's file: what is larger is text that was named by mistake, and would take minutes to parse."""
UNKNOWN_FIELD = "unknown field"
"""How the remedy of a field that does not exist begins."""


@dataclass(frozen=True)
class RecipeSource:
    """Where a recipe is read from, and what the command line changes in it.

    Attributes:
        path: YAML file; its `extends:` (a path relative to it) is merged in below it.
        overrides: `a.b=value` strings, the value in YAML, applied last; mappings are merged, and replaced by `a.b:=value`.
        out: Replaces the recipe's `out`.
        site: YAML file with the team's `cluster:` fields, merged in below the recipe's.
    """

    path: Path | str
    overrides: list[str] | tuple[str, ...] = ()
    out: Path | None = None
    site: Path | None = None


def load_recipe(
    path: Path | str, overrides: list[str] | tuple[str, ...] = (), out: Path | None = None
) -> Recipe:
    """Reads a recipe; arguments as in `RecipeSource`.

    Raises:
        RecipeError: With every mistake found, each with its path, value and remedy.
    """
    tree = read_tree(RecipeSource(path, overrides, out))
    if found := structural_problems(tree):
        raise RecipeError(str(path), found)
    return Recipe.model_validate(tree)


def read_tree(source: RecipeSource) -> dict:
    """Reads what `load_recipe` would validate: the YAML with `extends:`, the site file and overrides merged in.

    Raises:
        RecipeError: If there is no tree to speak of.
    """
    tree = _read_tree(Path(source.path), ())
    if source.site is not None:
        tree = merge({"cluster": _read_tree(source.site, ())}, tree)
    for override in source.overrides:
        tree = _apply_override(tree, override, str(source.path))
    return tree if source.out is None else tree | {"out": str(source.out)}


def structural_problems(tree: dict, model: type[BaseModel] = Recipe) -> list[Problem]:
    """All mistakes that types can tell: unknown and missing fields, wrong types, values out of range."""
    try:
        model.model_validate(tree)
    except ValidationError as error:
        return [_problem(detail, tree, model) for detail in error.errors()]
    return []


def json_schema() -> str:
    """JSON schema of a recipe, with which editors complete and check it."""
    schema = Recipe.model_json_schema()
    schema["properties"]["extends"] = {
        "type": "string",
        "description": "Another recipe that this one builds on.",
    }
    return json.dumps(schema, indent=1)


def _read_tree(path: Path, seen: tuple[str, ...]) -> dict:
    if (place := os.path.realpath(path)) in seen:
        raise RecipeError(str(path), [Problem("extends", str(path), "a recipe cannot extend itself")])
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            remedy = f"should be a recipe; this file has more than {MAX_BYTES >> 20} MiB"
            raise RecipeError(str(path), [Problem("recipe", str(path), remedy)])
        tree, misread = read_yaml(content.decode("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise RecipeError(str(path), [Problem("recipe", str(path), f"cannot be read: {reason}")]) from None
    except yaml.YAMLError as error:
        raise RecipeError(
            str(path), [Problem("recipe", str(path), f"not YAML: {' '.join(str(error).split())}")]
        ) from None
    if misread:
        raise RecipeError(str(path), misread)
    if not isinstance(tree, dict):
        raise RecipeError(
            str(path), [Problem("recipe", tree, "should be a mapping; see `perdure recipe new`")]
        )
    if (base := tree.pop("extends", None)) is None:
        return tree
    if not isinstance(base, str):
        raise RecipeError(str(path), [Problem("extends", base, "should be the path of another recipe")])
    return merge(_read_tree(path.parent / base, (*seen, place)), tree)


def merge(base: Any, over: Any) -> Any:
    """What `extends:` means: mappings merge key by key; a mapping with another `type` and everything else replaces.

    `sources` that both name come in the order of `over`, where those of `base` stood: domains can come one after another.
    """
    if not (isinstance(base, dict) and isinstance(over, dict)):
        return over
    if "type" in over and over["type"] != base.get("type"):
        return over
    merged = base | {key: merge(base[key], value) if key in base else value for key, value in over.items()}
    sources, named = merged.get("sources"), over.get("sources")
    if isinstance(sources, dict) and isinstance(named, dict):
        merged["sources"] = _ordered(sources, named)
    return merged


def _ordered(mapping: dict, named: dict) -> dict:
    """A mapping with the keys that `named` has in its order, and all others where they were."""
    names = iter(named)
    order = [next(names) if key in named else key for key in mapping]
    return {key: mapping[key] for key in order}


def _apply_override(tree: dict, override: str, source: str) -> dict:
    key, equals, text = override.partition("=")
    whole = key.endswith(":")
    key = key.removesuffix(":")
    if not equals or not all(key.split(".")):
        remedy = "should read path.to.field=value, or path.to.field:=value to replace a mapping"
        raise RecipeError(source, [Problem("--set", shown(override), remedy)])
    try:
        value, misread = read_yaml(text)
    except yaml.YAMLError:
        raise RecipeError(source, [Problem(key, text, "should be a YAML value")]) from None
    if misread:
        raise RecipeError(source, [within(key, problem) for problem in misread])
    section, *names = key.split(".")
    found = tree.get(section)
    known = found if isinstance(found, dict) else {}
    if section in ("sources", "versions") and len(names) > 1 and names[0] not in known:
        remedy = f"no such {section.removesuffix('s')}{near(names[0], known)}"
        raise RecipeError(source, [Problem(key, value, remedy)])
    return _replaced(tree, names=[section, *names], value=value) if whole else with_field(tree, key, value)


def _replaced(node: Any, names: list[str], value: Any) -> Any:
    """A tree with another value in one place, whatever stands there."""
    if not names:
        return value
    name, *rest = names
    if isinstance(node, list) and name.isdigit() and int(name) < len(node):
        number = int(name)
        return [*node[:number], _replaced(node[number], rest, value), *node[number + 1 :]]
    known = node if isinstance(node, dict) else {}
    return known | {name: _replaced(known.get(name), rest, value)}


def shown(argument: str) -> str:
    """An argument of the command line without values of `cluster`, which may be secret."""
    return OVERRIDE.sub(rf"\1={ELLIPSIS}", argument)


def typed_command() -> str:
    """The command that is running, as it was typed, without what may be secret."""
    return shlex.join(["perdure", *map(shown, sys.argv[1:])])


def with_field(tree: Any, path: str, value: Any) -> Any:
    """A tree with another value in one place; mappings are merged as by `extends:`.

    Args:
        tree: A recipe's tree, unchanged by this.
        path: Dotted path of the field; members of lists by number, from 0.
        value: What is to stand there.
    """
    names, node = path.split("."), tree
    for position, name in enumerate(names):
        if isinstance(node, list) and name.isdigit() and int(name) < len(node):
            rest, whole, number = names[position + 1 :], list(node), int(name)
            whole[number] = (
                with_field(node[number], ".".join(rest), value) if rest else merge(node[number], value)
            )
            names, value = names[:position], whole
            break
        node = node.get(name) if isinstance(node, dict) else None
    for name in reversed(names):
        value = {name: value}
    return merge(tree, value)


def _problem(detail: Any, tree: dict, model: type[BaseModel]) -> Problem:
    """Turns one of pydantic's error entries into a Problem that names the remedy."""
    location = [part for part in detail["loc"] if part not in ("[key]", "[list]", "[mapping]", "[file]")]
    value: Any = tree
    path = []
    for position, part in enumerate(location):
        if isinstance(value, dict) and part not in value and position < len(location) - 1:
            continue  # the tag of a discriminated union, which is no key of the recipe
        if isinstance(value, list) and not isinstance(part, int):
            continue  # the member of a union, likewise
        path.append(str(part))
        value = (
            value.get(part) if isinstance(value, dict) else value[part] if isinstance(value, list) else None
        )
    name, kind = ".".join(path), detail["type"]
    if "[key]" in detail["loc"]:
        value = path[-1]
    if kind == "missing":
        return Problem(name, None, "required, but missing")
    if kind == "extra_forbidden":
        return Problem(name, value, f"{UNKNOWN_FIELD}{belongs(path, model)}")
    if kind == "union_tag_invalid":
        # What a version inherits does not stand in the recipe under its name.
        tag = value.get("type") if isinstance(value, dict) else detail["ctx"]["tag"]
        return Problem(f"{name}.type", tag, f"should be one of {detail['ctx']['expected_tags']}")
    if kind == "union_tag_not_found":
        return Problem(f"{name}.type", None, "required: names the kind of this section")
    if kind == "string_pattern_mismatch":
        return Problem(name, value, "should be lower-case letters, digits, `_` and `-`")
    if kind == "too_short":
        return Problem(name, value, "should not be empty")
    if kind in ("model_type", "model_attributes_type", "dict_type"):
        return Problem(name, value, "should be a mapping of fields, as in `{name: value}`")
    message = detail["msg"].removeprefix("Value error, ").replace("Input should be", "should be")
    message = message.replace("String should have", "should have")
    return Problem(name, value, message[0].lower() + message[1:] + meant(detail, value))


def meant(detail: Any, value: Any) -> str:
    """A hint for the end of a remedy: the number that a percentage, or a number with a unit or commas, stands for."""
    number: Any = None
    if detail["type"] in ("less_than", "less_than_equal") and 1 in detail["ctx"].values():
        number = value / 100 if isinstance(value, int | float) and 1 < value <= 100 else None
    elif isinstance(value, str) and (match := WRITTEN.fullmatch(value.strip())):
        digits, unit = match[1].replace(",", ""), match[2].lower()
        if detail["type"] in ("int_parsing", "int_type") and unit != "%":
            exact = Decimal(digits) * 10 ** UNITS[unit]
            number = f"{int(exact):_}" if exact == int(exact) else None
        elif detail["type"] in ("float_parsing", "float_type"):
            number = float(Decimal(digits) / 100 if unit == "%" else Decimal(digits) * 10 ** UNITS[unit])
    return "" if number is None else f"; did you mean {number}?"
