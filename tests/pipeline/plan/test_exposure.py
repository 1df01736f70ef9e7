"""Who read a document, and when: against the labels of every sample of every version."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from tiny import tiny_recipe

from perdure.pipeline.cli import entry
from perdure.pipeline.cli.contains import contains, print_contains
from perdure.pipeline.core.files import write_json
from perdure.pipeline.plan.exposure import last_clean, reads_of, samples_with
from perdure.pipeline.plan.permutation import inverse, permute
from perdure.pipeline.plan.plan import locate
from perdure.pipeline.plan.planning import build_plan
from perdure.pipeline.plan.withdrawn import matching
from perdure.pipeline.train.dataset import open_dataset
from perdure.pipeline.train.selection_report import label_documents
from tests.pipeline.plan.numbered import SEQ

IDS = ("train/0/3", "train/0/4", "train/0/17", "train/1/1", "train/1/29")
"""Of documents of `a`."""
STEP = SEQ * 8
STEPS = 20
"""Of each version; they have trained for as many."""


@given(st.integers(1, 5000), st.integers(0, 2**64 - 1), st.integers(0, 4999))
def test_a_permutation_backwards(size, key, index):
    assert inverse(permute(index % size, size, key), size, key) == index % size


@pytest.fixture(scope="module")
def run(tmp_path_factory, data):
    """A recipe on disk whose versions have plans, and metrics as if they had trained; nothing was computed."""
    out = tmp_path_factory.mktemp("exposed")
    (out / "data").symlink_to(data["a"].parent)
    pools = {"share": 0.5, "from_parents": True}
    schedule = {"type": "constant", "max_lr": 0.01, "warmup": 0}
    some = {"tokens": STEP * STEPS, "schedule": schedule}

    def update(parent, **mixture):
        return (
            some
            | {"start": {"type": "update", "parent": parent}}
            | {"mixture": mixture | {"max_repetition": 100}}
        )

    versions = {
        "clean": some | {"start": {"type": "init"}, "mixture": {"sources": {"b": {}}, "max_repetition": 100}},
        "base": update("clean", sources={"a": {"weight": 3}, "b": {}}),
        "more": update("base", sources={"a": {}, "b": {}}, switches=[{"at": 0.5, "sources": {"a": {}}}]),
        "packed": update("more", sources={"a": {"packing": "best_fit"}}, replay=pools),
        "last": update(
            "packed", sources={"b": {}}, replay=pools | {"order": "given"}, withdrawn={"a": IDS[1:]}
        ),
        "aside": update("clean", sources={"b": {}}),
    }
    recipe = tiny_recipe(out, versions=versions)
    histories, plans = {None: []}, {}
    for name, version in recipe.versions.items():
        paths, parent = recipe.paths.version(name), getattr(version.start, "parent", None)
        plans[name] = build_plan(paths.plan, recipe, name, data, {}, histories[parent])
        histories[name] = [(plans[name], plans[name].end), *histories[parent]]
        paths.recipe.write_text(yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False))
        places = {source: str(out / "data" / source) for source in data}
        write_json(
            paths.inputs, {"version": name, "data": places, "identity": {"data": {}, "tokenizer_hash": "x"}}
        )
        lines = [json.dumps({"step": step, "tokens": step * STEP}) for step in range(1, STEPS + 1)]
        paths.metrics.write_text("\n".join(lines) + "\n")
    checkpoint = recipe.paths.version("base").checkpoint(2)
    checkpoint.mkdir(parents=True)
    write_json(checkpoint / "state.json", {})
    (checkpoint / "_SUCCESS").touch()
    path = out / "main.yaml"
    path.write_text(yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False))
    return SimpleNamespace(recipe=recipe, plans=plans, data=data, path=path)


def labelled(run, name) -> dict[str, dict[int, set[int]]]:
    """By place, and by document of `a`, the global indices of the samples whose labels are of it."""
    plan, found = run.plans[name], {}
    dataset = open_dataset(run.recipe.paths.version(name).plan, run.data, {})
    for index in range(plan.num_samples):
        key, _, sample = locate(plan, index)
        if plan.sources[key]["source"] == "a":
            for number in np.unique(label_documents(dataset.streams[key], sample, SEQ)).tolist():
                found.setdefault(key, {}).setdefault(number, set()).add(index)
    return found


@pytest.mark.parametrize("name", ["base", "more", "packed", "last"])
def test_samples_of_every_document_are_those_whose_labels_are_of_it(run, name):
    plan, directory, expected = run.plans[name], run.recipe.paths.version(name).plan, labelled(run, name)
    assert expected
    for key in (key for key, told in plan.sources.items() if told["source"] == "a"):
        for number in range(60):
            found = samples_with(plan, directory, key, np.array([number]), plan.end)
            assert found.tolist() == sorted(expected.get(key, {}).get(number, ()))
        half = plan.first_sample + plan.num_samples // 2
        some = samples_with(plan, directory, key, np.array([3, 4, 17]), half)
        together = {index for number in (3, 4, 17) for index in expected.get(key, {}).get(number, ())}
        assert some.tolist() == sorted(index for index in together if index < half)


def test_the_command_tells_who_read_a_document_and_what_was_before(run, capsys):
    assert entry.main(["versions", "log", str(run.path), "--contains", f"a:{IDS[0]}", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [(each["source"], each["id"], each["split"]) for each in found["documents"]] == [
        ("a", IDS[0], "train")
    ]
    versions = {each["id"]: each for each in found["versions"]}
    for name in ("base", "more", "packed", "last"):
        expected = {
            key: {
                "samples": len(indices[3]),
                "first_step": min(indices[3]) // 8 + 1,
                "last_step": max(indices[3]) // 8 + 1,
                "source": "a",
                "replayed": key != "a",
                "forgotten": False,
            }
            for key, indices in labelled(run, name).items()
            if 3 in indices
        }
        assert versions[name]["reads"] == expected
    assert versions["base"]["reads"] and not versions["clean"]["reads"]
    first = versions["base"]["reads"]["a"]["first_step"]
    clean = {"version": "clean", "reader": "base", "before": first, "checkpoint": 2 if first > 2 else None}
    assert all(versions[name]["last_without"] == clean for name in ("base", "more", "packed", "last"))
    assert versions["aside"]["last_without"] is versions["clean"]["last_without"] is None


def test_withdrawn_documents_are_read_by_ancestors_alone(run, capsys):
    assert entry.main(["log", str(run.path), "--contains", f"a:{IDS[1]}"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"a {IDS[1]}, ")
    told = dict(line.split(": ", 1) for line in lines[1:])
    assert told["clean"] == told["aside"] == "did not read it, nor did its ancestors"
    assert told["base"].startswith("read it in ") and " of a (step" in told["base"]
    assert told["last"].startswith("did not read it; the last that had not, before base did: ")


def test_an_id_that_nobody_has_is_one_line(run, capsys):
    assert entry.main(["log", str(run.path), "--contains", "nobody"]) == 1
    assert "no document of a, b has the id nobody" in capsys.readouterr().err
    assert entry.main(["log", str(run.path), "--contains", IDS[0]]) == 1
    assert f"documents of a, b have the id {IDS[0]}; say which, as in a:{IDS[0]}" in capsys.readouterr().err


def test_a_version_that_stopped_before_is_the_last_clean_one(run):
    """A branch leaves its parent before the parent first reads."""
    recipes = dict.fromkeys(run.recipe.versions, run.recipe)
    reads = {"base": {"a": SimpleNamespace(first_step=5)}}
    assert last_clean(recipes, "base", reads).before == 5
    assert last_clean(recipes, "clean", reads) is last_clean(recipes, "aside", reads) is None
    start = {"type": "branch", "parent": "base", "step": 4}
    branch = {"start": start, "tokens": STEP, "schedule": {"type": "decay"}}
    tree = run.recipe.model_dump(mode="json")
    tree["versions"] |= {"early": branch, "late": branch | {"start": start | {"step": 5}}}
    recipe = type(run.recipe).model_validate(tree)
    recipes = dict.fromkeys(recipe.versions, recipe)
    assert last_clean(recipes, "early", reads) is None
    assert last_clean(recipes, "late", reads).reader == "base"


def test_a_version_that_read_a_document_to_forget_it_says_so(run, capsys):
    tree = run.recipe.model_dump(mode="json")
    tree["versions"]["packed"]["objective"] = {"type": "forget", "source": "a"}
    recipe, text = type(run.recipe).model_validate(tree), contains(run.recipe, f"a:{IDS[0]}")
    assert not any(each["forgotten"] for version in text["versions"] for each in version["reads"].values())
    texts = [
        row["hash"]
        for batch in matching(run.data["a"], "id", [IDS[0]], ["hash"])
        for row in batch.to_pylist()
    ]
    assert [each.forgotten for each in reads_of(recipe, "packed", texts).values()] == [
        key == "a" for key in reads_of(recipe, "packed", texts)
    ]
    assert "a" in reads_of(recipe, "packed", texts)
    one = {"samples": 1, "first_step": 3, "last_step": 3, "forgotten": True}
    print_contains(
        {"id": "x", "documents": [], "versions": [{"id": "v", "reads": {"a": one}, "last_without": None}]}
    )
    assert capsys.readouterr().out.startswith("v: read it in 1 sample of a (step 3, to forget it)")
