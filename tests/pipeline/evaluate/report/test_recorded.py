"""What is said of a version that has begun is from its own records, whatever the recipe says today."""

import json
import math
import shutil
from copy import deepcopy

import numpy as np
import pytest
import yaml
from pydantic import ValidationError
from support import random_data, tiny_recipe

from perdure.launch.status import status
from perdure.pipeline.cli.log import diff, log
from perdure.pipeline.core.errors import PerdureError
from perdure.pipeline.core.files import read_json, write_json
from perdure.pipeline.core.manifest import finish
from perdure.pipeline.evaluate.record import measured_on, record_data
from perdure.pipeline.evaluate.report.summary import summarize
from perdure.pipeline.plan.identity import deciding_fields
from perdure.pipeline.plan.lineage import history
from perdure.pipeline.plan.plan import consumed_by_version, num_steps
from perdure.pipeline.plan.planning import build_plan
from perdure.pipeline.plan.recorded import as_recorded, recorded
from perdure.pipeline.recipe import Recipe

STEP = 32 * 8
VERSIONS = {
    "base": {
        "start": {"type": "init"},
        "tokens": 20 * STEP,
        "mixture": {
            "sources": {"a": {"weight": 0.7}, "b": {"weight": 0.3}},
            "switches": [{"at": 0.5, "sources": {"a": {}}}],
            "max_repetition": 100,
        },
        "schedule": {"type": "infinite", "max_lr": 0.01, "constant_lr": 0.005, "min_lr": 0.001},
        "keep": [5],
    },
    "next": {
        "start": {"type": "update", "parent": "base"},
        "tokens": 10 * STEP,
        "mixture": {
            "sources": {"b": {"order": "given"}},
            "replay": {"share": 0.25, "sources": {"a": {}}},
            "max_repetition": 100,
        },
        "schedule": {"type": "autoregressive", "max_lr": 0.01, "min_lr": 0.001},
        "selection": {"k": 0.5, "score": "random"},
        "weight_decay": 0.05,
    },
    "plain": {
        "start": {"type": "update", "parent": "base"},
        "tokens": 10 * STEP,
        "mixture": {
            "sources": {"b": {"order": "given"}},
            "replay": {"share": 0.25, "sources": {"a": {}}},
            "max_repetition": 100,
        },
        "schedule": {"type": "autoregressive", "max_lr": 0.01, "min_lr": 0.001},
        "weight_decay": 0.05,
    },
    "side": {
        "start": {"type": "branch", "parent": "base", "step": 5},
        "tokens": 5 * STEP,
        "schedule": {"type": "decay"},
    },
    "moved": {
        "start": {"type": "update", "parent": "next", "moments": "keep"},
        "tokens": 6 * STEP,
        "mixture": {
            "sources": {"a": {}, "b": {}},
            "reweight": {"interval": 2 * STEP, "alpha": 0.1, "weights": {"a": 1.0}},
            "max_repetition": 100,
        },
        "schedule": {"type": "wsd", "max_lr": 0.01, "min_lr": 0.001},
    },
}
WAITING = {
    "start": {"type": "update", "parent": "base"},
    "tokens": 4 * STEP,
    "mixture": {"sources": {"a": {}}, "max_repetition": 100},
    "schedule": {"type": "constant", "max_lr": 0.002},
}


def recipe_in(out) -> Recipe:
    changes = {"versions": deepcopy(VERSIONS), "evaluation": {"max_tokens": 500, "interval": 5}}
    return tiny_recipe(out, **changes)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of five finished versions with real plans and made-up losses: its recipe and its data."""
    recipe = recipe_in(tmp_path_factory.mktemp("recorded"))
    data = _data(recipe)
    on = measured_on(recipe, data)
    for number, name in enumerate(recipe.versions):
        _write_version(recipe, name, number, data, on)
    return recipe, data


def _data(recipe: Recipe) -> dict:
    data, _, _ = random_data(recipe.directory)
    for directory in data.values():
        manifest = read_json(directory / "manifest.json") | {"command": "perdure data"}
        manifest["counts"]["documents"] = {"in": 144, "dropped": {}, "out": 144}
        write_json(directory / "manifest.json", manifest)
    record_data(recipe, data)
    return data


def _write_version(recipe: Recipe, name: str, number: int, data: dict, on: dict) -> None:
    """All that a finished version leaves but its weights."""
    version, directory = recipe.versions[name], recipe.paths.version(name).directory
    plan = build_plan(directory / "plan", recipe, name, data, {}, history(recipe, name))
    steps = num_steps(recipe, version)
    (directory / "recipe.yaml").write_text(yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False))
    identity = deciding_fields(recipe, name) | {"data": {"a": "data of a"}}
    write_json(directory / "inputs.json", {"command": name, "measured": on, "identity": identity})
    lines = [
        {
            "step": step,
            "tokens": step * STEP,
            "loss": 5.0,
            "loss_selected": None,
            "loss_unselected": None,
            "lr": 0.01,
            "selected_fraction": 1.0,
            "tokens_per_second": 100.0,
            "mfu": None,
            "source_loss": dict.fromkeys(plan.keys, 5.0),
            **({"heldout_before": {"a": 5.0 + number, "b": 6.0}} if step in (1, 6) else {}),
        }
        for step in range(1, steps + 1)
    ]
    (directory / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for file, loss in (("eval_initial.json", 5.5), ("eval.json", 4 - math.sqrt(number))):
        measured = {"loss": loss, "tokens": 500, "documents": 20, "bytes": 2000, "bits_per_byte": loss / 3}
        write_json(directory / file, {"measured": on, "domains": {"a": measured, "b": measured}})
    write_json(
        directory / "version.json",
        {
            "selection": version.selection and version.selection.model_dump(),
            "mixture": version.mixture.model_dump(),
            "steps": steps,
            "tokens": steps * STEP,
            "lineage_tokens": steps * STEP,
            "consumed": {key: count * 32 for key, count in consumed_by_version(plan).items()},
            "selection_counts": {"scored": 100, "selected": 50 if version.selection else 100},
            "tokens_per_second": 100.0,
            "parallel": recipe.parallel.model_dump(),
            "weights_hash": f"{number:064x}",
            "heldout": {"a": 4.0, "b": 5.0},
            "seconds": 3.0,
            "device": "cpu",
            "device_seconds": 3.0,
            "lost_device_seconds": 0.0,
        },
    )
    finish(directory, {})


# ------------------------------------------------------------------------------------------- edits

ANYWHERE = [True, False, None, 0, 1, 2, 3, 7, 0.125, 0.5, 1.5, "x", "other", ["x"], [7], "sequence"]
SUBTREES = {
    "versions.base.start": [{"type": "update", "parent": "next"}],
    "versions.next.start": [{"type": "init"}, {"type": "branch", "parent": "base", "step": 3}],
    "versions.side.start": [{"type": "init"}, {"type": "update", "parent": "next"}],
    "versions.next.selection": [None, {"reference": "base"}],
    "versions.plain.selection": [{"reference": "base"}],
    "versions.next.mixture": [{"sources": {"a@de/science": {}, "b": {}}}],
    "versions.next.mixture.sources": [{"a": {}}, {"a": {}, "b": {}}, {"b/topic": {}}],
    "versions.next.mixture.replay": [None, {"share": 0.5, "from_parents": True}],
    "versions.base.mixture.switches": [[], [{"at": 0.25, "sources": {"b": {}}}]],
    "versions.base.mixture.reweight": [{"interval": 100, "alpha": 0.5}],
    "versions.base.mixture.domain_order": ["given", "random", "similarity"],
    "versions.moved.mixture.reweight": [None],
    "versions.base.schedule": [
        {"type": "constant", "max_lr": 1.0},
        {"type": "cosine", "max_lr": 1.0, "min_lr": 0.1},
        {"type": "wsd", "max_lr": 1.0, "min_lr": 0.1},
        {"type": "decay", "max_lr": 1.0},
        {"type": "autoregressive", "max_lr": 1.0, "min_lr": 0.1},
    ],
    "versions.side.schedule": [{"type": "decay", "max_lr": 1.0}],
    "model": [{"type": "huggingface", "path": "gone/model"}],
    "tokenizer": [{"type": "huggingface", "path": "gone/tokenizer"}],
    "sources": [{"a": {"reader": {"type": "text", "path": "unused"}}}],
    "evaluation.harness": [{"include_path": "gone", "tasks": ["x"]}],
    "evaluation.contamination": [None],
    "evaluation.probes": [["gone.jsonl"]],
}

FITTING = {
    "clean": [[]],
    "lowest_perplexity": [{"share": 0.5}],
    "replay": [{"share": 0.1, "sources": {"b": {}}}],
    "switches": [[{"at": at, "sources": {"a": {}}}] for at in (0.5, 0.25)],
    "reweight": [{"interval": 512, "alpha": 0.1}],
    "selection": [{"k": 0.25, "score": "random"}],
    "order": ["shuffled", "easy_to_hard"],
    "moments": ["reset"],
    "share_of": ["read"],
    "groups": [[["a"], ["b"]], {"all": ["a", "b"]}],
    "cooldown_shape": ["inverse_sqrt"],
    "decay_shape": ["exponential"],
    "decay_ends": [[0.5, 1.0]],
    "loss_implementation": ["chunked"],
    "on_nan": ["stop", "skip", "rollback"],
    "on_spike": ["stop", "skip", "rollback"],
    "harness": [{"include_path": "gone", "tasks": ["x"]}],
}
FIELDS: set[str] = set()
"""All that were edited."""
UNTRIED = (
    "cluster.",
    "logging.",
    "sources.a.topics",
    "sources.a.subset",
    "sources.b.topics",
    "sources.b.subset",
)
"""Whole sections that say nothing of a version; what fits there would have to be made up."""


def _leaves(tree, path=()):
    if isinstance(tree, dict) and tree:
        for key, value in tree.items():
            yield from _leaves(value, (*path, key))
    else:
        yield path


def _put(tree: dict, path: tuple, value) -> Recipe | None:
    """The recipe with another value; None if that is none of a recipe, or changes nothing."""
    edited = deepcopy(tree)
    node = edited
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    try:
        recipe = Recipe.model_validate(edited)
    except ValidationError:
        return None
    return None if recipe.model_dump(mode="json") == tree else recipe


def _choices(tree: dict, path: tuple) -> list:
    """Values to try at a place: near the one that is there, then whatever fits."""
    node = tree
    for key in path:
        node = node[key]
    near = [2 * node, node / 2] if isinstance(node, int | float) and not isinstance(node, bool) else []
    if isinstance(node, float) and 0 < node < 1:
        near = [node / 2, (1 + node) / 2]
    texts = ["given", "excess", "global", "keep", "linear", "bf16", "fp32"]
    return [
        *FITTING.get(path[-1], []),
        *near,
        *ANYWHERE,
        *texts,
        *([[*node, "x"]] if isinstance(node, list) else []),
    ]


TOGETHER = ("sources", "data", "scoring", "parallel", "logging", "cluster", "model", "training")
"""Sections whose fields are edited all at once: they are many, and one of them would be enough."""


def edits(recipe: Recipe) -> dict[str, Recipe]:
    """Edited recipes by what was edited: every field of every version by itself, other sections as a whole."""
    tree = recipe.model_dump(mode="json")
    found, together = {}, {section: deepcopy(tree) for section in TOGETHER}
    for path in _leaves(tree):
        if path[0] == "out" or path[-1] == "type":  # whole subtrees have other types, see `SUBTREES`
            continue
        if path[:2] == ("versions", "plain"):  # has the fields of `next`
            continue
        made = next((made for value in _choices(tree, path) if (made := _put(tree, path, value))), None)
        what = ".".join(path)
        assert made is not None or what.startswith(UNTRIED), f"{what}: no other value fits"
        if made is not None and path[0] in TOGETHER:
            node = other = together[path[0]]
            new = made.model_dump(mode="json")
            for key in path[:-1]:
                node, new = node[key], new[key]
            before, node[path[-1]] = node[path[-1]], new[path[-1]]
            try:
                Recipe.model_validate(other)
            except ValidationError:  # does not go with another edit
                node[path[-1]] = before
                found[what] = made
            else:
                FIELDS.add(what)
        elif made is not None:
            found[what] = made
            FIELDS.add(what)
    found |= {f"all of {section}": Recipe.model_validate(other) for section, other in together.items()}
    for place, values in SUBTREES.items():
        for value in values:
            edited = _put(tree, tuple(place.split(".")), value)
            assert edited is not None, f"{place} = {value}: no recipe"
            found[f"{place} = {value}"] = edited
    without = {name: version for name, version in tree["versions"].items() if name != "base"}
    orphans = {"next": {"type": "init"}, "plain": {"type": "init"}, "side": {"type": "init"}}
    for name, start in orphans.items():
        without[name] = without[name] | {"start": start}
    found["versions without base"] = _put(tree, ("versions",), without)
    shorter = {name: tree["versions"][name] for name in ("base", "side")}
    found["versions without next, plain, moved"] = _put(tree, ("versions",), shorter)
    return found


def of_version(report: dict, name: str) -> dict:
    """All that a report says of a version, but its losses."""
    row = next(number for number, version in enumerate(report["versions"]) if version["id"] == name)
    version = dict(report["versions"][row])
    for key in ("evaluation", "change"):
        del version[key]
    keyed = ("consumed", "selection", "curves", "passages", "chosen")
    return {"version": version} | {key: report[key].get(name) for key in keyed}


def losses_of(report: dict, name: str) -> dict:
    """All that a report says of a version's losses, by domain, so that other columns do not count."""
    row = 1 + next(number for number, version in enumerate(report["versions"]) if version["id"] == name)
    keyed = ("acc", "bwt", "fwt", "fwt_gem", "forgetting", "stability_gap")
    return {
        "row": dict(zip(report["domains"], report["loss_matrix"][row])),
        "change": report["versions"][row - 1]["change"],
        **{key: report[key].get(name) for key in keyed},
    }


def test_no_edit_of_the_recipe_changes_what_is_said_of_finished_versions(run):
    recipe, data = run
    before = summarize(recipe, data)
    assert [version["status"] for version in before["versions"]] == ["finished"] * 5
    assert all(version["sources"] and version["phases"] for version in before["versions"])
    unmeasured, noticed = set(), set()
    made = edits(recipe)
    for what, edited in made.items():
        after = summarize(edited, data | dict.fromkeys(set(edited.sources) - set(data)))
        names = [name for name in VERSIONS if name in {version["id"] for version in after["versions"]}]
        assert set(names) >= set(edited.versions) & set(VERSIONS), what
        for name in names:
            assert of_version(after, name) == of_version(before, name), what
            if name in after["unmeasured"]:
                assert set(losses_of(after, name)["row"].values()) == {None}, what
            else:
                assert losses_of(after, name) == losses_of(before, name), what
        if not after["unmeasured"] and names == list(VERSIONS):
            assert after["findings"] == before["findings"] and after["intervals"] == before["intervals"], what
        unmeasured |= {what} if after["unmeasured"] else set()
        noticed |= {what} if after["edited"] else set()
    assert len(FIELDS) > 180 and {"all of training", "seed", "versions.next.weight_decay"} <= noticed
    assert {what.partition(" ")[0] for what in unmeasured} == {"evaluation.max_tokens", "evaluation.probes"}
    print(f"{len(FIELDS)} fields in {len(made)} recipes, of which {len(noticed)} are said to be edited")


def test_log_diff_and_status_say_what_is_recorded(run, tmp_path):
    recipe, _ = run
    shutil.copytree(recipe.directory, tmp_path / "run")
    recipe = recipe.model_copy(update={"out": tmp_path / "run"})
    before = {version["id"]: version for version in log(recipe)["versions"]}
    pair = diff(recipe, "next", "plain")
    assert pair["recipe"] and pair["results"]["a"]["difference"] == pytest.approx(1 - math.sqrt(2))
    (tmp_path / "run" / "launch").mkdir()
    launched = tmp_path / "run" / "launch" / "recipe.yaml"
    ages = ("seconds_since_step",)

    def stand(recipe):
        launched.write_text(yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False))
        return {
            version["name"]: {key: value for key, value in version.items() if key not in ages}
            for version in status(tmp_path / "run")["versions"]
        }

    stood = stand(recipe)
    tried = 0
    for what, edited in edits(recipe).items():
        if not what.startswith(("versions", "all of training", "seed", "model")) or "sources" in what:
            continue
        after = {version["id"]: version for version in log(edited)["versions"]}
        assert {name: before[name] for name in after} == after, what
        if {"next", "plain"} <= set(edited.versions):
            assert diff(edited, "next", "plain") == pair, what
        now = stand(edited)
        assert {name: stood[name] for name in now} == now, what
        tried += 1
    assert tried > 50


def test_a_version_that_waits_is_as_the_recipe_says_today(run):
    recipe, data = run
    versions = {"base": VERSIONS["base"] | {"tokens": 40 * STEP}, "later": WAITING}
    edited = tiny_recipe(recipe.directory, versions=versions, evaluation={"max_tokens": 500, "interval": 5})
    base, later = summarize(edited, data)["versions"]
    assert (base["planned_steps"], base["status"]) == (20, "finished")
    assert (later["schedule"]["type"], later["planned_steps"], later["status"]) == ("constant", 4, "waiting")
    assert log(edited)["versions"][1]["lineage_tokens"] == 20 * STEP  # those of `base` as it was made


def test_what_differs_is_named(run):
    recipe, data = run
    assert summarize(recipe, data)["edited"] == {}
    edited = recipe.model_copy(update={"seed": 5})
    said = summarize(edited, data)["edited"]
    assert set(said) == set(VERSIONS) and said["base"] == ["seed: 1234 -> 5"]


def test_versions_made_under_different_settings_each_have_their_own(run, tmp_path):
    """Two first models, trained one by one, the second after an edit of the batch size."""
    versions = dict.fromkeys(("small", "large"), VERSIONS["base"])
    recipe = tiny_recipe(tmp_path, versions=versions)
    data = _data(recipe)
    other = tiny_recipe(tmp_path, versions=versions, training__global_batch_size=16)
    on = measured_on(recipe, data)
    _write_version(recipe, "small", 0, data, on)
    _write_version(other, "large", 1, data, on)
    made = recorded(recipe)
    assert [made[name].training.global_batch_size for name in versions] == [8, 16]
    small, large = summarize(recipe, data)["versions"]
    assert (small["planned_steps"], large["planned_steps"]) == (20, 10)
    assert [small["schedule_phases"][1][key] for key in ("after_step", "after_tokens")] == [11, 11 * STEP]
    assert [large["schedule_phases"][1][key] for key in ("after_step", "after_tokens")] == [5, 5 * 2 * STEP]


def test_runs_whose_records_are_older_still_report(run, tmp_path):
    recipe, data = run
    shutil.copytree(recipe.directory, tmp_path / "run")
    recipe = recipe.model_copy(update={"out": tmp_path / "run"})
    for path in (tmp_path / "run").glob("versions/*/recipe.yaml"):
        tree = yaml.safe_load(path.read_text())
        for version in tree["versions"].values():
            if replay := version["mixture"]["replay"]:
                del replay["share_of"]
        del tree["logging"], tree["cluster"], tree["evaluation"]["contamination"]
        path.write_text(yaml.safe_dump(tree))
        write_json(path.parent / "manifest.json", {})  # nor were there hashes of a version's files
    older = summarize(recipe, data)["versions"][1]
    assert older["schedule"]["type"] == "autoregressive"
    # Before there was `share_of`, a share was that of the tokens read, with selection, too.
    assert [member["share"] for member in older["mixture"]] == [0.75, 0.25]
    for path in (tmp_path / "run").glob("versions/*/recipe.yaml"):
        path.unlink()
    assert as_recorded(recipe) is recipe
    assert summarize(recipe, data)["versions"][1]["schedule"]["type"] == "autoregressive"


def test_a_damaged_record_is_one_line(run, tmp_path):
    recipe, data = run
    shutil.copytree(recipe.directory, tmp_path / "run")
    recipe = recipe.model_copy(update={"out": tmp_path / "run"})
    path = tmp_path / "run" / "versions" / "next" / "recipe.yaml"
    for content in (b"name: [", b"\xff\xfe\x00", b"- a list", path.read_bytes()[:400]):
        path.write_bytes(content)
        with pytest.raises(PerdureError, match=r"next/recipe\.yaml") as caught:
            summarize(recipe, data)
        assert "\n" not in str(caught.value)


def test_the_schedule_is_the_one_that_the_version_began_with(run, tmp_path):
    recipe, data = run
    shutil.copytree(recipe.directory, tmp_path / "run")
    recipe = recipe.model_copy(update={"out": tmp_path / "run"})
    path = tmp_path / "run" / "versions" / "side" / "version.json"
    schedule = {"type": "decay", "max_lr": 0.25, "min_lr": 0.125, "shape": "linear"}
    write_json(path, read_json(path) | {"schedule": schedule})
    finish(path.parent, {})
    side = next(version for version in summarize(recipe, data)["versions"] if version["id"] == "side")
    assert side["schedule"] == schedule
    assert np.isclose(log(recipe)["versions"][3]["learning_rate"], 0.125)
