"""A version that exists was made from what its recipe says, and so was every version that it builds on."""

import shutil
from pathlib import Path
from unittest.mock import patch

import pytest
from tiny import random_data, tiny_recipe, write_export

from perdure.launch.chain import jobs
from perdure.pipeline.core.errors import PerdureError
from perdure.pipeline.core.files import read_json, write_json
from perdure.pipeline.core.hashes import hash_file, hash_of
from perdure.pipeline.core.manifest import finish
from perdure.pipeline.plan.fisher import open_fisher_order, sample_number
from perdure.pipeline.recipe import FisherAnchor
from perdure.pipeline.run import changed, run
from perdure.pipeline.run.fisher_inputs import fisher_checkpoint
from perdure.pipeline.run.version_inputs import recipe_identity

STEP = 32 * 8
MIXTURE = {"sources": {"a": {}}, "max_repetition": 100}
SCHEDULE = {"type": "constant", "max_lr": 0.01}
UPDATE = {"start": {"type": "update", "parent": "v1"}, "tokens": 2 * STEP, "mixture": MIXTURE}


def recipe_of(out: Path, **changes):
    v1 = {"start": {"type": "init"}, "tokens": 6 * STEP, "mixture": MIXTURE, "schedule": SCHEDULE} | changes
    v2 = UPDATE | {"schedule": {"type": "decay"}}
    return tiny_recipe(out, versions={"v1": v1, "v2": v2})


def prepared(recipe, name: str):
    """What `perdure prepare` leaves for a version's ranks to do, None if that is nothing."""
    data, _, tokenizer = random_data(recipe.directory)
    with patch("perdure.pipeline.data.stage.tokenizer_directory", return_value=tokenizer):
        return run.prepare_version(recipe, name, data)


@pytest.fixture
def trained(tmp_path) -> Path:
    """A directory in which v1 is finished, its weights aside."""
    recipe = recipe_of(tmp_path)
    prepared(recipe, "v1")
    directory = tmp_path / "versions" / "v1"
    write_json(directory / "hf" / "config.json", {"vocab_size": 300, "model_type": "llama"})
    record = {"weights_hash": write_export(directory), "steps": 6, "tokenizer_hash": "test"}
    write_json(directory / "version.json", record | {"lineage_tokens": 6 * STEP})
    write_json(directory / "eval.json", {"measured": read_json(directory / "inputs.json")["measured"]})
    finish(directory, {"files": {}})  # tests edit them
    return tmp_path


@pytest.mark.parametrize(
    "changes, differing",
    [
        ({"tokens": 2 * STEP}, "version.tokens: 1536 -> 512"),  # v2 would begin in what v1 saw
        (
            {"schedule": SCHEDULE | {"max_lr": 0.5}},
            "version.schedule.max_lr: 0.01 -> 0.5",
        ),  # and decay from there
    ],
)
def test_nothing_is_built_on_a_version_that_was_edited(trained, changes, differing):
    edited = recipe_of(trained, **changes)
    for attempt in (lambda: prepared(edited, "v2"), lambda: jobs(edited, Path("r.yaml"))):
        with pytest.raises(PerdureError, match=r"version v1: .* was made from something else") as refused:
            attempt()
        assert str(refused.value).endswith(f"What differs: {differing}")
    assert not (trained / "versions" / "v2").exists()


def test_a_reference_that_was_edited_is_refused_too(trained):
    start = {"start": {"type": "init"}, "schedule": SCHEDULE, "selection": {"reference": "v1"}}
    both = recipe_of(trained, tokens=2 * STEP).model_dump(mode="json")["versions"]
    edited = tiny_recipe(trained, versions={"v1": both["v1"], "v2": UPDATE | start})
    with pytest.raises(PerdureError, match=r"version v1: .*version\.tokens"):
        prepared(edited, "v2")


def test_an_adapter_is_refused_where_the_parent_lacks_rows_of_the_tokenizer(trained):
    """The export's tokenizer tells, whatever the recipe says of it; without an adapter the rows are trained."""
    export, tokenizer = trained / "versions/v1/hf/tokenizer.json", trained / "tokenizer"
    export.write_text("old")
    facts = {"base_tokenizer_hash": hash_file(export), "base_vocab_size": 298, "pieces": [[1], [1, 2]]}
    write_json(tokenizer / "extension.json", facts)
    versions = recipe_of(trained).model_dump(mode="json")["versions"]
    lora = versions["v2"] | {"adapter": {"type": "lora", "rank": 4, "alpha": 8}}
    with pytest.raises(PerdureError) as refused:
        prepared(tiny_recipe(trained, versions=versions | {"v2": lora}), "v2")
    said = str(refused.value)
    assert "version v2: the rows of 2 new tokens would stay frozen beside an adapter" in said
    assert "\n" not in said and not (trained / "versions" / "v2").exists()
    assert prepared(recipe_of(trained), "v2")


def test_the_order_of_domains_that_come_one_after_another_is_part_of_a_version(tmp_path):
    mixture = {"sources": {"a": {}, "b": {}}, "domain_order": "given", "max_repetition": 100}
    prepared(recipe_of(tmp_path, mixture=mixture), "v1")
    other = mixture | {"sources": {"b": {}, "a": {}}}
    for _ in range(2):
        with pytest.raises(PerdureError, match=r"order_of_sources: \['a', 'b'\] -> \['b', 'a'\]"):
            prepared(recipe_of(tmp_path, mixture=other), "v1")
        as_before(tmp_path / "versions" / "v1" / "inputs.json", max_repetition=100.0)
    assert prepared(recipe_of(tmp_path, mixture=mixture), "v1")


def as_before(path: Path, max_repetition: float) -> None:
    """Makes of a version's `inputs.json` one from when `max_repetition` stood in it, and no `order_of_sources`."""
    inputs = read_json(path)
    inputs["identity"].pop("order_of_sources", None)
    inputs["identity"]["version"]["mixture"]["max_repetition"] = max_repetition
    write_json(path, inputs)


def test_what_a_version_was_made_from_stays_as_it_was_written(trained):
    path = trained / "versions" / "v1" / "inputs.json"
    as_before(path, max_repetition=4.0)
    before = read_json(path)["identity"]
    recipe = recipe_of(trained)
    assert prepared(
        recipe.model_copy(update={"evaluation": recipe.evaluation.model_copy(update={"max_tokens": 99})}),
        "v1",
    )
    assert read_json(path)["identity"] == before  # by which a branch knows its parent


def test_how_often_a_source_may_repeat_decides_where_shares_follow_perplexity(tmp_path):
    mixture = {"sources": {"a": {}, "b": {}}, "reweight": {"interval": STEP, "alpha": 0.5}}
    prepared(recipe_of(tmp_path, mixture=mixture | {"max_repetition": 100}), "v1")
    with pytest.raises(PerdureError, match=r"max_repetition: 100\.0 -> 101\.0"):
        prepared(recipe_of(tmp_path, mixture=mixture | {"max_repetition": 101}), "v1")


def test_what_does_not_decide_may_be_edited(trained):
    edited = recipe_of(trained, keep=[3], mixture=MIXTURE | {"max_repetition": 101})
    assert [job.name for job in jobs(edited, Path("r.yaml"))] == ["data", "prepare-v2", "train-v2", "report"]
    assert prepared(edited, "v2")
    assert read_json(trained / "versions" / "v2" / "plan" / "plan.json")["sources"]["a"]["start"] == 6 * 8


REPLAY = {"sources": {"a": {}}, "replay": {"share": 0.2, "sources": {"b": {}}}}
CHOOSING = {"k": 0.6, "score": "random"}


def identity_hash(selection: dict | None, **replay) -> str:
    mixture = REPLAY | {"replay": REPLAY["replay"] | replay}
    version = {"start": {"type": "init"}, "tokens": 10 * STEP, "mixture": mixture, "schedule": SCHEDULE}
    if selection:
        version["selection"] = selection
    return hash_of(recipe_identity(tiny_recipe("unused", versions={"v1": version}), "v1")["version"])[:16]


@pytest.mark.parametrize(
    ("selection", "of_0_1"),
    [(CHOOSING, "888bb8ef7162c7ff"), (CHOOSING | {"k": 1.0}, "126939639253fabb"), (None, "f9414a1adebd659c")],
)
def test_a_version_keeps_its_identity_unless_its_share_of_replay_means_something_else(selection, of_0_1):
    """Hashes are those that version 0.1 gave, which read the share."""
    assert identity_hash(selection, share_of="read") == of_0_1
    changed = selection == CHOOSING
    assert (identity_hash(selection) != of_0_1) == changed
    assert (identity_hash(selection, share_of="trained") != of_0_1) == changed


def test_fields_that_are_off_are_no_part_of_an_identity():
    def identity(**changes):
        return recipe_identity(tiny_recipe("unused", **changes), "v1")

    off = {"versions__v1__elastic_reset": None, "versions__v1__reptile": None, "training__ema": None}
    assert identity(**off) == identity()
    assert not {"elastic_reset", "reptile"} & identity()["version"].keys()
    assert "ema" not in identity()["training"] and identity(training__ema=0.9)["training"]["ema"] == 0.9


def test_a_version_whose_share_of_replay_meant_another_is_refused_and_kept_by_a_field(tmp_path):
    def recipe(**replay):
        return recipe_of(tmp_path, mixture=REPLAY | {"replay": REPLAY["replay"] | replay}, selection=CHOOSING)

    prepared(
        recipe(share_of="read"), "v1"
    )  # as 0.1 made it: what is read, and what stands in inputs.json, are the same
    directory = tmp_path / "versions" / "v1"
    assert "share_of" not in str(read_json(directory / "inputs.json")["identity"])
    phases = read_json(directory / "plan" / "plan.json")["phases"]
    assert phases == [{"first_sample": 0, "counts": {"a": 4, "replay/b": 1}, "reason": "start"}]
    for later in ("v1", "v2"):
        with pytest.raises(PerdureError, match=r"replay\.share_of: None -> 'trained'") as refused:
            prepared(recipe(), later)
        assert str(refused.value).endswith("versions.v1.mixture.replay.share_of: read keeps it")
    assert prepared(recipe(share_of="read"), "v1")
    shutil.rmtree(directory)
    prepared(recipe(), "v1")
    counts = read_json(directory / "plan" / "plan.json")["phases"][0]["counts"]
    assert counts == {"a": 20, "replay/b": 3}
    with pytest.raises(PerdureError, match=r"replay\.share_of: 'trained' -> None"):
        prepared(recipe(share_of="read"), "v1")


@pytest.mark.parametrize(("estimate", "needed"), [("moments", True), ({"examples": 3, "source": "b"}, False)])
def test_an_anchor_by_moments_needs_the_parents_last_checkpoint_and_one_by_samples_the_data(
    trained, estimate, needed
):
    recipe = recipe_of(trained)
    update = recipe.versions["v2"].model_copy(
        update={"anchor": FisherAnchor(type="fisher", strength=1.0, estimate=estimate)}
    )
    recipe = recipe.model_copy(update={"versions": recipe.versions | {"v2": update}})
    if needed:
        with pytest.raises(
            PerdureError, match=r"last checkpoint of v1, whose moments .* gone .*use anchor.estimate"
        ):
            prepared(recipe, "v2")
        checkpoint = trained / "versions" / "v1" / "checkpoints" / "step_000006"
        checkpoint.mkdir(parents=True)
        (checkpoint / "_SUCCESS").touch()
        _, inputs = prepared(recipe, "v2")
        assert inputs["fisher_checkpoint"] == str(checkpoint) and set(inputs["identity"]["data"]) == {"a"}
        with pytest.raises(PerdureError, match=r"v1, whose moments .* another tokenizer \(test -> other\)"):
            fisher_checkpoint(recipe, "v2", "other")
    else:
        directory, inputs = prepared(recipe, "v2")
        assert "fisher_checkpoint" not in inputs and set(inputs["identity"]["data"]) == {"a", "b"}
        documents, ends = open_fisher_order(directory / "plan")
        assert documents.tolist() == list(range(120))
        samples = -(-int(ends[-1]) // 32)
        numbers = [sample_number(index, int(ends[-1]), 32, recipe.seed) for index in range(samples)]
        assert sorted(numbers) == list(range(samples)) != numbers


def test_a_list_of_withdrawn_documents_that_was_emptied_or_changed_is_noticed(tmp_path):
    """By a run, and by `perdure check`, of a version that is there."""
    ids = tmp_path / "ids.txt"
    recipe = recipe_of(tmp_path, mixture=MIXTURE | {"withdrawn": {"a": str(ids)}})
    ids.write_text("train/0/3\n")
    prepared(recipe, "v1")
    data = random_data(tmp_path)[0]

    def checked():
        with (
            patch.object(changed, "finished_data", return_value=data),
            patch.object(changed.identity, "clean_inputs", return_value={}),
            patch.object(changed, "_tokenizer_hash", return_value=None),
        ):
            return changed.changed_data(recipe, ["v1"])

    assert prepared(recipe, "v1") and checked() == {}
    for text in ("", "train/0/4\n"):
        ids.write_text(text)
        with pytest.raises(PerdureError, match=r"What differs: withdrawn: '[0-9a-f]{16}' -> "):
            prepared(recipe, "v1")
        assert "What differs: withdrawn: " in checked()["v1"]
    ids.write_text("train/0/3\n")
    assert prepared(recipe, "v1") and checked() == {}
