"""Reads a sweep, makes a recipe for each of its runs, and finds all mistakes before anything starts."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import Field

from perdure.pipeline.checks.check import filling, tree_problems
from perdure.pipeline.core.errors import Problem, RecipeError
from perdure.pipeline.core.hashes import hash_of
from perdure.pipeline.core.hints import near
from perdure.pipeline.recipe import (
    Name,
    Recipe,
    RecipeSource,
    Section,
    read_tree,
    structural_problems,
    with_field,
)
from perdure.pipeline.recipe.cluster import JobSize
from perdure.pipeline.recipe.literals import read_yaml, within

PLAIN = re.compile(r"[A-Za-z0-9._+-]{1,32}")
"""Values that are put in a run's name as they are; others are hashed."""


class Sweep(Section):
    """The runs over one recipe: every variant with every combination of values and every seed."""

    recipe: str
    """The recipe's file, from this file's directory. It may lack what every run sets."""
    out: Path | None = None
    """Where everything is written; default `runs/<name of this file>`. `--out` overrides it."""
    over: dict[str, Annotated[list[Any], Field(min_length=1)]] = Field(default_factory=dict)
    """Values by dotted path of a field, as in `versions.update.mixture.replay.share: [0, 0.05]`; members of lists by
    number. A mapping is merged into what stands there, as by `--set`."""
    variants: dict[Name, dict[str, Any]] = Field(default_factory=dict)
    """Named sets of changes, a value by dotted path each, where one field is not enough; `plain: {}` changes nothing."""
    seeds: tuple[int, ...] = ()
    """Seeds of each setting; the table shows means and deviations over them. Default: the recipe's own."""


@dataclass(frozen=True)
class Run:
    """One run of a sweep.

    Attributes:
        name: Of its directory: what is special about it.
        setting: Its variant and values by field, without the seed; runs that share it differ in the seed alone.
        changes: Every value that it sets, by dotted path, the seed included.
        seed: Its seed; None if seeds are not swept.
        recipe: The whole recipe; `out` is its directory below the sweep's.
    """

    name: str
    setting: dict[str, Any]
    changes: dict[str, Any]
    seed: int | None
    recipe: Recipe


@dataclass(frozen=True)
class SweepPlan:
    """A sweep that is ready to run.

    Attributes:
        name: What the tables call it.
        sweep: What was asked for.
        base: The recipe's tree as read, which the runs change.
        directory: Where everything is written.
        runs: The runs, the seeds of a setting one after another.
    """

    name: str
    sweep: Sweep
    base: dict
    directory: Path
    runs: list[Run]


def load_sweep(
    source: RecipeSource,
    over: list[str] | tuple[str, ...] = (),
    seeds: tuple[int, ...] = (),
    size: JobSize | None = None,
    checked: bool = True,
) -> SweepPlan:
    """Reads a sweep, or makes one of a recipe.

    Args:
        source: A sweep's file, or a recipe's; its overrides hold for all runs, its `out` replaces the file's.
        over: `a.b=value,value` strings, added to the file's `over`.
        seeds: Instead of the file's.
        size: What a training job occupies on a cluster; the runs get as many replicas as fill it.
        checked: Whether the runs are to start. Else their recipes need no more than be recipes: texts may be gone.

    Raises:
        RecipeError: With every mistake of the sweep and of each of its recipes, but for those that finished data show: they
            are a run's own, and do not keep the others from going on.
    """
    path = Path(source.path)
    tree = read_tree(RecipeSource(path))
    is_sweep = isinstance(tree.get("recipe"), str)
    if not is_sweep:
        tree = {"recipe": path.name}
    found = structural_problems(tree, Sweep)
    values, malformed = override_values(over)
    if found := found + malformed:
        raise RecipeError(str(path), found)
    sweep = Sweep.model_validate(tree)
    sweep = sweep.model_copy(update={"over": sweep.over | values, "seeds": tuple(seeds) or sweep.seeds})
    base = read_tree(RecipeSource(path.parent / sweep.recipe, source.overrides, site=source.site))
    name = path.stem if is_sweep else f"{base.get('name', path.stem)}-sweep"
    directory = source.out or sweep.out or Path("runs") / name
    if size:
        directory = directory.resolve()
    runs, found = _runs(sweep, base, directory, size, checked)
    if found:
        raise RecipeError(str(path), found)
    return SweepPlan(name, sweep, base, directory, runs)


def override_values(over: Sequence[str]) -> tuple[dict[str, list], list[Problem]]:
    """The values of `--over`, by dotted path.

    Args:
        over: `a.b=value,value` strings.

    Returns:
        The values, and what is wrong with strings that have none.
    """
    values: dict[str, list] = {}
    found: list[Problem] = []
    for entry in over:
        path, equals, text = entry.partition("=")
        try:
            parsed, misread = read_yaml(f"[{text}]")
        except yaml.YAMLError:
            parsed, misread = [], []
        found += [within(path, problem) for problem in misread]
        if misread:
            continue
        if path in values:
            found.append(Problem("--over", entry, f"`{path}` stands twice; give all of its values at once"))
        elif equals and path and parsed:
            values[path] = parsed
        else:
            found.append(Problem("--over", entry, "should read path.to.field=value,value"))
    return values, found


def _runs(
    sweep: Sweep, base: dict, directory: Path, size: JobSize | None, checked: bool
) -> tuple[list[Run], list[Problem]]:
    """The runs, or their mistakes; a mistake that all runs share is listed once."""
    found = list(_field_problems(sweep, base))
    if found:
        return [], found
    runs: list[Run] = []
    mistakes: dict[str, tuple[Problem, list[str]]] = {}
    labels = _labels(list(sweep.over))
    combinations = [
        (variant, dict(zip(sweep.over, values)), seed)
        for variant in sweep.variants or (None,)
        for values in product(*sweep.over.values())
        for seed in sweep.seeds or (None,)
    ]
    for variant, values, seed in combinations:
        words = [variant] if variant else []
        words += [f"{labels[path]}={_word(value)}" for path, value in values.items()]
        words += [] if seed is None else [f"seed={seed}"]
        name = ",".join(words)
        changes = (sweep.variants[variant] if variant else {}) | values
        changes |= {} if seed is None else {"seed": seed}
        tree = base
        for path, value in changes.items():
            tree = with_field(tree, path, value)
        slug = re.sub(r"[^a-z0-9_-]+", "-", f"{base.get('name')}-{name}".lower())
        tree = tree | {"name": slug, "out": str(directory / "runs" / name)}
        if not checked:
            own = structural_problems(tree)
        elif size:
            tree, own = filling(tree, size.nodes, size.ranks_per_node, with_data=False)
        else:
            own = tree_problems(tree, with_data=False)
        for problem in own:
            unknown = problem.remedy.startswith("unknown field")  # whatever the value
            key = problem.path if unknown else str(problem)
            mistakes.setdefault(key, (problem, []))[1].append(name)
        if not mistakes:
            setting = ({"variant": variant} if variant else {}) | values
            runs.append(Run(name, setting, changes, seed, Recipe.model_validate(tree)))
    for problem, names in mistakes.values():
        everywhere = len(names) == len(combinations) or problem.path in sweep.over
        where = "" if everywhere else f"{names[0]}: "
        found.append(replace(problem, path=where + problem.path))
    return runs, found or _duplicates(runs)


def _field_problems(sweep: Sweep, base: dict) -> list[Problem]:
    """Mistakes of the swept fields, whatever their values."""
    if not (sweep.over or sweep.variants or sweep.seeds):
        return [Problem("over", {}, "nothing to sweep: name a field and its values, variants or seeds")]
    named = [("over", path) for path in sweep.over]
    named += [
        (f"variants.{variant}", path) for variant, changes in sweep.variants.items() for path in changes
    ]
    found = []
    for where, path in named:
        part, _, rest = path.partition(".")
        name = rest.partition(".")[0]
        known = base.get(part)
        if part in ("name", "out", "extends"):
            found.append(Problem(where, path, "no field to sweep: every run has its own"))
        elif part == "cluster":
            found.append(
                Problem(where, path, "no field to sweep: it says where runs work, not what comes out")
            )
        elif part == "seed":
            found.append(Problem(where, path, "seeds are swept by `seeds`, or --seeds 1,2,3"))
        elif part not in Recipe.model_fields:
            found.append(Problem(where, path, f"unknown field{near(part, Recipe.model_fields)}"))
        elif (part in ("sources", "versions") and isinstance(known, dict) and rest) and name not in known:
            found.append(Problem(where, path, f"no such {part.removesuffix('s')}{near(name, known)}"))
    twice = {seed for seed in sweep.seeds if sweep.seeds.count(seed) > 1}
    return found + [Problem("seeds", seed, "stands twice; remove one") for seed in sorted(twice)]


def _duplicates(runs: list[Run]) -> list[Problem]:
    seen: dict[str, str] = {}
    found = []
    for run in runs:
        content = hash_of(run.recipe.model_dump(mode="json", exclude={"name", "out"}))
        if content in seen:
            found.append(Problem("run", run.name, f"the same recipe as that of {seen[content]}; remove one"))
        seen.setdefault(content, run.name)
    return found


def _labels(paths: list[str]) -> dict[str, str]:
    """The shortest unique suffix of each path."""
    found = {}
    for path in paths:
        names = path.split(".")
        ends = [".".join(names[-count:]) for count in range(1, len(names) + 1)]
        found[path] = next(
            end
            for end in ends
            if not any(f".{other}".endswith(f".{end}") for other in paths if other != path)
        )
    return found


def _word(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return text if PLAIN.fullmatch(text) else hash_of(value)[:8]
