"""Withdrawn documents: nobody reads them, and all else stays where it was."""

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet
from tiny import EOS, tiny_recipe

from perdure.pipeline.core.errors import PerdureError
from perdure.pipeline.plan.consumption import ledger
from perdure.pipeline.plan.fisher import open_fisher_order, write_fisher_order
from perdure.pipeline.plan.forecast import expected_mixture
from perdure.pipeline.plan.mixture import members
from perdure.pipeline.plan.plan import locate
from perdure.pipeline.plan.planning import build_plan
from perdure.pipeline.plan.reads import documents_read
from perdure.pipeline.plan.withdrawn import (
    documents_with,
    read_ids,
    unknown_ids,
    unknown_words,
    withdrawals,
    withdrawn_texts,
    without_words,
)
from perdure.pipeline.train.dataset import open_dataset
from perdure.pipeline.train.selection_report import label_documents
from perdure.pipeline.train.streams import read_sample
from tests.pipeline.plan.numbered import SEQ, recipe_of

GONE = (3, 4, 17, 31, 59)
"""Documents of `a`, of both shards; the first two and the last stand beside an end or each other."""
IDS = tuple(f"train/{number // 30}/{number % 30}" for number in GONE)
BOTH = {"sources": {"a": {"weight": 0.7}, "b": {"weight": 0.3}}}


def tokens_of(data: Path, numbers) -> set[int]:
    """The tokens of some documents, which no other has."""
    from perdure.pipeline.core.shards import open_shard

    shards = [open_shard(data / f"{task:05d}") for task in range(2)]
    found = set()
    for number in numbers:
        shard, place = shards[number // 30], number % 30
        found |= set(shard.values[shard.start(place) : shard.start(place) + shard.lengths[place]].tolist())
    return found - {EOS}


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"order": "given"},
        {"packing": "best_fit"},
        {"packing": "best_fit", "overlong": "drop"},
        {"packing": "next_fit", "order": "given"},
    ],
)
def test_a_sample_is_what_it_was_without_the_withdrawn_documents(tmp_path, data, settings):
    mixture = {"sources": {"a": settings}}
    plans, samples = {}, {}
    for name, withdrawn in (("plain", {}), ("without", {"a": IDS})):
        out = tmp_path / name
        recipe = recipe_of(out, mixture | {"withdrawn": withdrawn})
        plans[name] = build_plan(out / "plan", recipe, "v1", data, {})
        stream = open_dataset(out / "plan", data, {}).streams["a"]
        per_epoch = plans[name].sources["a"]["samples_per_epoch"]
        samples[name] = [read_sample(stream, sample, SEQ) for sample in range(per_epoch)]
        for sample, read in enumerate(samples[name]):
            assert sum(read.documents) == SEQ and all(size > 0 for size in read.documents)
            assert len(label_documents(stream, sample, SEQ)) == read.num_valid
    gone = tokens_of(data["a"], GONE)
    changed = 0
    for plain, without in zip(samples["plain"], samples["without"], strict=True):
        assert not gone & set(without.tokens.tolist())
        own = plain.tokens[1 : 1 + plain.num_valid]
        kept = np.ones(len(own), bool)
        kept[np.isin(own, list(gone))] = False
        for place in np.flatnonzero(
            own == EOS
        ):  # a separator goes with its document, whose last token stands before it
            kept[place] = plain.tokens[place] not in gone
        assert without.num_valid == kept.sum() and np.array_equal(own[kept], without.tokens[1:][: kept.sum()])
        assert (without.tokens[1 + without.num_valid :] == EOS).all()
        assert without.tokens[0] == (EOS if plain.tokens[0] in gone else plain.tokens[0])
        changed += not kept.all()
        if kept.all():
            assert plain.documents == without.documents
    assert changed >= 3
    plain, without = plans["plain"], plans["without"]
    assert [locate(plain, index) for index in range(plain.num_samples)] == [
        locate(without, index) for index in range(plain.num_samples)
    ]
    told = without.sources["a"].pop("withdrawn")
    assert without.sources == plain.sources
    lengths = [len(tokens_of(data["a"], [number])) + 1 for number in GONE]
    lengths = [each for each in lengths if settings.get("overlong") != "drop" or each <= SEQ]
    assert told == {"documents": len(lengths), "tokens": sum(lengths)}
    assert without_words(told) == f", without {len(lengths)} withdrawn documents of {sum(lengths):,} tokens"
    read = documents_read(without, tmp_path / "without" / "plan", "a", 60)
    assert not read[list(GONE)].any() and (read | np.isin(np.arange(60), GONE)).sum() >= read.sum() + 1


def test_nothing_withdrawn_is_the_same_plan_byte_for_byte_and_the_same_identity(tmp_path, data):
    (tmp_path / "empty.txt").write_text("\n  \n")
    files = []
    for name, withdrawn in (("one", {}), ("two", {"a": ()}), ("three", {"a": tmp_path / "empty.txt"})):
        recipe = recipe_of(tmp_path / name, BOTH | {"withdrawn": withdrawn})
        build_plan(tmp_path / name / "plan", recipe, "v1", data, {})
        files.append({path.name: path.read_bytes() for path in (tmp_path / name / "plan").iterdir()})
    assert files[0] == files[1] == files[2]
    assert (
        "withdrawn"
        not in recipe_of(tmp_path, BOTH | {"withdrawn": {"a": ()}}).versions["v1"].model_dump_json()
    )


def lineage(out: Path, **changes):
    """A base on `a`, an update that withdraws documents, and one that follows it; both replay what was read before."""
    step = SEQ * 8
    pools = {"share": 0.5, "from_parents": True}
    schedule = {"type": "constant", "max_lr": 0.01, "warmup": 0}
    both = {"tokens": step * 30, "schedule": schedule}
    versions = {
        "base": both | {"start": {"type": "init"}, "mixture": {"sources": {"a": {}}, "max_repetition": 100}},
        "update": both
        | {"start": {"type": "update", "parent": "base"}}
        | {"mixture": {"sources": {"b": {}}, "replay": pools, "max_repetition": 100} | changes},
        "later": both
        | {"start": {"type": "update", "parent": "update"}}
        | {"mixture": {"sources": {"b": {}, "a": {}}, "replay": pools, "max_repetition": 100}},
    }
    return tiny_recipe(out, versions=versions)


def plans_of(recipe, data) -> dict:
    history, found = [], {}
    for name in recipe.versions:
        plan = build_plan(recipe.paths.version(name).plan, recipe, name, data, {}, history)
        history = [(plan, plan.end), *history]
        found[name] = plan
    return found


def test_replay_and_all_later_versions_leave_them_out(tmp_path, data):
    listed = tmp_path / "withdrawn.txt"
    listed.write_text("\n".join([*IDS, "", IDS[0]]) + "\n")
    recipe, plain = lineage(tmp_path / "one", withdrawn={"a": listed}), lineage(tmp_path / "two")
    assert withdrawals(recipe, "base") == [] and withdrawals(recipe, "later") == [
        ("versions.update.mixture.withdrawn.a", "a", listed)
    ]
    plans, others = plans_of(recipe, data), plans_of(plain, data)
    gone, met = tokens_of(data["a"], GONE), set()
    for name in ("base", "update", "later"):
        dataset = open_dataset(recipe.paths.version(name).plan, data, {})
        for index in range(plans[name].num_samples):
            key, _, sample = locate(plans[name], index)
            assert (key, _, sample) == locate(others[name], index)
            read = set(read_sample(dataset.streams[key], sample, SEQ).tokens.tolist())
            met |= read & gone if name == "base" else set()
            assert name == "base" or not read & gone
    assert met == gone
    # Samples are counted on as if nothing had gone.
    assert plans["later"].sources["a"]["start"] == others["later"].sources["a"]["start"] == 240
    history = [(plans[name], plans[name].end) for name in ("later", "update", "base")]
    assert ledger(history) == ledger(
        [(others[name], others[name].end) for name in ("later", "update", "base")]
    )


def test_the_same_text_in_another_source_goes_too(tmp_path, data):
    mine = {name: Path(shutil.copytree(path, tmp_path / name)) for name, path in data.items()}
    rows = parquet.read_table(mine["b"] / "docs.parquet").to_pylist()
    theirs = {row["id"]: row["hash"] for row in parquet.read_table(mine["a"] / "docs.parquet").to_pylist()}
    rows[7 if rows[5]["split"] == "heldout" else 2]["hash"] = theirs[IDS[0]]
    parquet.write_table(pa.Table.from_pylist(rows), mine["b"] / "docs.parquet")
    recipe = recipe_of(tmp_path, BOTH | {"withdrawn": {"a": IDS[:1]}})
    plan = build_plan(tmp_path / "plan", recipe, "v1", mine, {})
    assert [plan.sources[key]["withdrawn"]["documents"] for key in ("a", "b")] == [1, 1]
    assert withdrawn_texts(recipe, "v1", mine) == [theirs[IDS[0]]]


def test_a_forgotten_source_is_read_to_forget_it_and_never_again(tmp_path, data):
    mine = {name: Path(shutil.copytree(path, tmp_path / name)) for name, path in data.items()}
    rows = parquet.read_table(mine["b"] / "docs.parquet").to_pylist()
    copied = next(row["hash"] for row in rows if row["id"] == "train/0/1")
    others = parquet.read_table(mine["a"] / "docs.parquet").to_pylist()
    others[7]["hash"] = copied  # a document of `a` that stands in `b` as well
    parquet.write_table(pa.Table.from_pylist(others), mine["a"] / "docs.parquet")
    both = {"sources": {"a": {"weight": 9}, "b": {}}, "max_repetition": 100}
    forget = {"objective": {"type": "forget", "source": "b"}}
    changes = {"sources": {"b": {"packing": "best_fit"}}, "replay": {"share": 0.5, "from_parents": True}}
    recipe = lineage(tmp_path / "one", **changes)
    tree = recipe.model_dump(mode="json")
    tree["versions"]["base"]["mixture"] |= both
    tree["versions"]["update"] |= forget
    tree["versions"]["later"]["mixture"]["sources"] = {"a": {}}
    recipe = type(recipe).model_validate(tree)
    plans = plans_of(recipe, mine)
    assert list(plans["base"].sources) == ["a", "b"]
    assert (
        list(plans["update"].sources)
        == list(members(expected_mixture(recipe, "update")))
        == ["b", "replay/a"]
    )
    assert (
        list(plans["later"].sources) == list(members(expected_mixture(recipe, "later"))) == ["a", "replay/a"]
    )
    assert "withdrawn" not in plans["update"].sources["b"]
    assert documents_read(plans["update"], recipe.paths.version("update").plan, "b", 10).all()
    for name, key in (("update", "replay/a"), ("later", "a"), ("later", "replay/a")):
        assert plans[name].sources[key]["withdrawn"]["documents"] == 1
    assert not documents_read(plans["later"], recipe.paths.version("later").plan, "a", 60)[7]
    tree["versions"]["later"]["mixture"]["sources"] = {"b": {}}
    with pytest.raises(PerdureError, match="version later: all documents of b are withdrawn"):
        shutil.rmtree(recipe.paths.version("later").plan)
        plans_of(type(recipe).model_validate(tree), mine)


def test_ids_that_nobody_has_are_named(tmp_path, data):
    assert unknown_ids(data["a"], ["train/0/1", "heldout/0/0", "other", "more"]) == ["other", "more"]
    recipe = recipe_of(tmp_path, BOTH | {"withdrawn": {"a": ("other",)}})
    with pytest.raises(
        PerdureError, match=r"versions.v1.mixture.withdrawn.a: no document of `a` has the id other;"
    ):
        build_plan(tmp_path / "plan", recipe, "v1", data, {})
    assert "has the id 0, 1, 2, 3, 4 and 2 more;" in unknown_words("a", [str(number) for number in range(7)])
    with pytest.raises(PerdureError, match=r"missing.txt: cannot be read: No such file"):
        read_ids(tmp_path / "missing.txt")
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(PerdureError, match="not UTF-8 text"):
        read_ids(tmp_path / "bytes.txt")


def test_a_source_without_any_document_left_is_refused(tmp_path, data):
    ids = [f"train/{task}/{number}" for task in range(2) for number in range(5)]
    with pytest.raises(PerdureError, match="all documents of b are withdrawn"):
        build_plan(tmp_path / "plan", recipe_of(tmp_path, BOTH | {"withdrawn": {"b": ids}}), "v1", data, {})


def test_fishers_samples_leave_them_out(tmp_path, data):
    write_fisher_order(tmp_path, data["a"], documents_with(data["a"], "id", list(IDS)))
    documents, ends = open_fisher_order(tmp_path)
    assert np.array_equal(np.flatnonzero(documents == -1), GONE) and len(ends) == 60


def test_a_file_of_ids_may_begin_with_a_byte_order_mark(tmp_path):
    (tmp_path / "ids.txt").write_bytes(b"\xef\xbb\xbfpage-1\r\npage-2\r\n")
    assert read_ids(tmp_path / "ids.txt") == ["page-1", "page-2"]


def test_one_document_is_told_as_one():
    assert without_words({"documents": 1, "tokens": 1}) == ", without 1 withdrawn document of 1 token"
    assert without_words({"documents": 2, "tokens": 9}) == ", without 2 withdrawn documents of 9 tokens"
