"""`perdure check` of recipes that are large in one way: what it does grows no faster than they do.

Calls of functions are counted, not seconds: they are the same on every machine.
"""

import copy
import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import yaml
from mutations import check, originals, write_inputs

from perdure.pipeline.checks import amounts
from perdure.pipeline.checks.check import tree_problems
from perdure.pipeline.cli import entry
from perdure.pipeline.recipe import RecipeSource, read_tree

SIZES = (50, 100, 200)
FACTOR = 2.6
"""How much more the second hundred may take than the first fifty did; twice is as it should be, four times is quadratic."""


def base(directory: Path) -> dict:
    """A small recipe: one source, one version."""
    tree = copy.deepcopy(originals(directory)[-1])
    first = tree["versions"]["base"] | {"mixture": {"sources": {"a": {}}}, "tokens": 1_000_000}
    first.pop("keep")
    return tree | {"versions": {"base": first}}


def with_sources(tree: dict, number: int) -> dict:
    """The same with many sources, all of them mixed in the first version."""
    one = Path(tree["sources"]["a"]["reader"]["path"]).parent
    sources = {}
    for name in (f"s{n}" for n in range(number)):
        (one / f"{name}.jsonl").write_text(json.dumps({"id": name, "text": f"text {name}"}))
        reader = tree["sources"]["a"]["reader"] | {"path": str(one / f"{name}.jsonl")}
        sources[name] = tree["sources"]["a"] | {"reader": reader}
    tokenizer = tree["tokenizer"] | {"sources": ["s0"]}
    mix = tree["versions"]["base"] | {"mixture": {"sources": {name: {} for name in sources}}}
    return tree | {"sources": sources, "tokenizer": tokenizer, "versions": {"base": mix}}


def mixing(tree: dict, **changes) -> dict:
    """The same with other fields in the first version's mixture."""
    first = tree["versions"]["base"]
    return tree | {"versions": {"base": first | {"mixture": first["mixture"] | changes}}}


def lineage(tree: dict, number: int, **mixture) -> dict:
    """The same with many versions, each from the one before."""
    first = tree["versions"]["base"]
    versions = {"base": first}
    for n in range(number):
        start = {"type": "update", "parent": list(versions)[-1]}
        versions[f"v{n}"] = first | {"start": start, "mixture": first["mixture"] | mixture}
    return tree | {"versions": versions}


def parts(tree: dict, number: int) -> dict:
    """One source in many parts, which switches name again."""
    tree["sources"]["a"]["topics"] = {"type": "metadata", "field": "subject"}
    names = {f"a/t{n}": {} for n in range(number)}
    return mixing(tree, sources=names, switches=[{"at": 0.5, "sources": names}])


LARGE: dict[str, Callable[[dict, int], dict]] = {
    "sources": with_sources,
    "unknown sources": lambda tree, n: mixing(with_sources(tree, n), sources={f"x{i}": {} for i in range(n)}),
    "wrong fields": lambda tree, n: with_sources(tree, n) | {f"field{i}": i for i in range(n)},
    "domains in order": lambda tree, n: mixing(with_sources(tree, n), domain_order="random"),
    "groups": lambda tree, n: mixing(
        with_sources(tree, n),
        reweight={"alpha": 0.1, "interval": 1000, "groups": {f"g{i}": [f"s{i}", f"s{i + 1}"] for i in range(0, n, 2)}},
    ),
    "parts": parts,
    "switches": lambda tree, n: mixing(
        tree, switches=[{"at_tokens": 256 * (i + 1), "sources": {"a": {}}} for i in range(n)]
    ),
    "switches by rate": lambda tree, n: mixing(
        tree | {"training": tree["training"] | {"seq_length": 2048}},
        switches=[{"at_lr": 0.9 - i / n / 2, "sources": {"a": {}}} for i in range(n)],
    ),
    "versions": lineage,
    "versions that replay": lambda tree, n: lineage(tree, n, replay={"share": 0.1, "from_parents": True}),
    "versions that replay by name": lambda tree, n: lineage(tree, n, replay={"share": 0.1, "sources": {"a": {}}}),
    "hub": lambda tree, n: tree
    | {"sources": {f"s{i}": {"reader": {"type": "huggingface", "path": "owner/name"}} for i in range(n)}},
}  # fmt: skip


def calls(action: Callable[[], object]) -> int:
    """Functions that are called while something is done."""
    count = 0

    def event(frame, kind, argument) -> None:
        nonlocal count
        count += kind in ("call", "c_call")

    sys.setprofile(event)
    try:
        action()
    finally:
        sys.setprofile(None)
    return count


def _check(path: Path, statuses: set[int]) -> None:
    statuses.add(check(path, path.parent / "out").status)


@pytest.mark.parametrize("kind", LARGE)
def test_twice_as_much_takes_twice_as_long(tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    write_inputs(tmp_path)
    counts, statuses = [], set()
    for size in (2, *SIZES):  # the first one imports what is needed
        path = tmp_path / "large.yaml"
        path.write_text(yaml.safe_dump(LARGE[kind](base(tmp_path), size), sort_keys=False))
        counts.append(calls(partial(_check, path, statuses)))
    _, first, second, third = counts
    assert third - second < FACTOR * (second - first)
    assert statuses <= {0, 2}


def test_mixtures_that_take_everything_from_many_ancestors_are_bounded(tmp_path, monkeypatch):
    write_inputs(tmp_path)
    monkeypatch.setattr(amounts, "MOST_PLACES", 20)
    replay = {"share": 0.1, "from_parents": True}
    for number, refused in ((9, False), (10, True)):  # 1 place of the first, 2 of each other one
        tree = lineage(base(tmp_path), number, replay=replay)
        found = [problem for problem in tree_problems(tree) if problem.path == "versions"]
        assert bool(found) == refused
    assert found[0].value == "21 places in mixtures" and "at most 20" in found[0].remedy


def test_places_are_those_of_the_forecast(tmp_path, monkeypatch):
    """Also of versions side by side, which do not replay each other's sources."""
    write_inputs(tmp_path)
    tree = with_sources(base(tmp_path), 6)
    replay = {"share": 0.1, "from_parents": True}
    mixture = {"sources": {"s0": {}}}
    tree["versions"]["base"]["mixture"] = mixture
    for name, parent, source in (
        ("x", "base", "s1"),
        ("y", "base", "s2"),
        ("z", "x", "s3"),
        ("w", "y", "s4"),
    ):
        start = {"type": "update", "parent": parent}
        tree["versions"][name] = tree["versions"]["base"] | {
            "start": start,
            "mixture": {"sources": {source: {}}, "replay": replay},
        }
    path = tmp_path / "r.yaml"
    path.write_text(yaml.safe_dump(tree, sort_keys=False))
    monkeypatch.setattr(amounts, "MOST_PLACES", 0)
    (found,) = [
        problem for problem in tree_problems(read_tree(RecipeSource(path))) if problem.path == "versions"
    ]
    monkeypatch.undo()
    from perdure.pipeline.checks.check import load_checked
    from perdure.pipeline.checks.preview import preview

    rows = sum(len(version["mixture"]) for version in preview(load_checked(RecipeSource(path)))["versions"])
    assert found.value == f"{rows} places in mixtures"


def test_what_is_printed_ends(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_inputs(tmp_path)
    for place, number in (
        ("cli.preview_text.LISTED", 5),
        ("checks.preview_mixture.LISTED", 5),
        ("cli.preview_text.LISTED_VERSIONS", 3),
    ):
        monkeypatch.setattr(f"perdure.pipeline.{place}", number)
    path = tmp_path / "large.yaml"
    path.write_text(yaml.safe_dump(lineage(with_sources(base(tmp_path), 7), 4), sort_keys=False))
    assert entry.main(["check", str(path), "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert said.count("and 2 more sources; --json has all") == 1 + 3
    assert "and 2 more versions; --json has all" in said
    assert "Version v1:" in said and "Version v2:" not in said
    assert entry.main(["check", str(path), "--out", str(tmp_path / "out"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert len(found["sources"]) == 7 and len(found["versions"]) == 5
