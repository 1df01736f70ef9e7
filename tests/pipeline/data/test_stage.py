import json
import random
import shutil
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
import yaml
from datatrove.pipeline.dedup.minhash import MinhashDedupSignature
from hypothesis import given
from hypothesis import strategies as st

from perdure.pipeline.cli.entry import main
from perdure.pipeline.core.errors import PerdureError
from perdure.pipeline.core.files import read_json
from perdure.pipeline.core.hashes import hash_directory, hash_of
from perdure.pipeline.core.shards import open_shard
from perdure.pipeline.data import identity, stage
from perdure.pipeline.data.backends.local import TASKS
from perdure.pipeline.data.cleaning.normalise import Words, is_heldout, text_hash
from perdure.pipeline.data.cleaning.signatures import Folder
from perdure.pipeline.data.cleaning.steps.minhash_dedup import ROWS, BoundedSignature
from perdure.pipeline.data.stage import finished_data, run_data
from tests.pipeline.data.made import counts, documents, trained_on


def test_shards_hold_every_document_once(make_recipe, texts, tmp_path, said):
    recipe = make_recipe({"news": texts, "blog": texts[:30]})
    found = run_data(recipe)
    rows = documents(found["news"])
    assert sorted(row["text"] for row in rows) == sorted(texts)
    for row in rows:
        assert row["hash"] == f"{text_hash(row['text']):016x}"
        assert row["split"] == ("heldout" if is_heldout(text_hash(row["text"]), 0.2) else "train")
        assert (row["num_chars"], row["num_bytes"]) == (len(row["text"]), len(row["text"].encode()))
    splits = Counter(row["split"] for row in rows)
    assert splits == {split: counts(found["news"])[split]["documents"] for split in ("train", "heldout")}
    tokens = sum(row["num_tokens"] for row in rows if row["split"] == "train")
    assert counts(found["news"])["train"]["tokens"] == tokens
    summary = "news: 60 documents in, 60 out (dropped: none); "
    assert f"{summary}{tokens:,} tokens to train on" in [line.rpartition(", ")[0] for line in said]
    assert not any((tmp_path / "out" / "work").iterdir())


def test_megatron_reads_the_shards(make_recipe, texts):
    from megatron.core.datasets.indexed_dataset import IndexedDataset

    directory = run_data(make_recipe({"news": texts}))["news"]
    for name in ("00000", "00001", "heldout.00000", "heldout.00001"):
        ours, theirs = open_shard(directory / name), IndexedDataset(str(directory / name))
        assert ours.values.dtype == np.uint16
        assert ours.lengths.tolist() == theirs.sequence_lengths.tolist()
        starts = np.cumsum(ours.lengths) - ours.lengths
        for number, (start, length) in enumerate(zip(starts, ours.lengths)):
            assert theirs[number].tolist() == ours.values[start : start + length].tolist()


def test_duplicates_are_dropped_and_counted(make_recipe, texts):
    near = texts[0] + " but"
    source = [*texts, texts[3], texts[3] + " \r\n", near]
    directory = run_data(make_recipe({"news": source}, tasks=3))["news"]
    assert counts(directory)["documents"] == {
        "in": len(texts) + 3,
        "dropped": {"exact_duplicate": 2, "near_duplicate": 1},
        "out": len(texts),
    }
    found = [row["text"] for row in documents(directory)]
    assert sorted(found) in (sorted(texts), sorted([near, *texts[1:]]))


@pytest.mark.parametrize(
    ("steps", "dropped"),
    [
        ([], {}),
        (["exact_dedup"], {"exact_duplicate": 1}),
        (["minhash_dedup"], {"near_duplicate": 2}),
        (
            ["exact_dedup", "minhash_dedup", "length"],
            {"exact_duplicate": 1, "near_duplicate": 1, "too_short": 1},
        ),
    ],
)
def test_cleaning_can_be_chosen(make_recipe, texts, steps, dropped):
    source = [*texts, texts[3], texts[0] + " but", "short"]
    clean = [{"type": step} | ({"min_chars": 300} if step == "length" else {}) for step in steps]
    recipe = make_recipe({"news": source}, tasks=2, clean=clean)
    found = counts(run_data(recipe)["news"])["documents"]
    assert found == {"in": len(source), "dropped": dropped, "out": len(source) - sum(dropped.values())}


@given(st.lists(st.sampled_from("abcdefgh"), min_size=2, max_size=60), st.sampled_from([5, ROWS + 4, 9000]))
def test_signatures_in_bounded_memory_are_datatroves(words, length):
    # Blocks of other shingles: a text that repeats itself has the same minimum in each.
    text = " ".join(random.Random(0).choices(words, k=length))
    ours = BoundedSignature(Folder("unused"))
    theirs = MinhashDedupSignature("unused", ours.config, Words())
    shingles = ours.get_shingles(text)
    assert ours.get_signature(shingles) == theirs.get_signature(shingles)


def test_finished_work_is_kept_and_changes_make_new_directories(make_recipe, texts, tmp_path):
    recipe = make_recipe({"news": texts})
    assert finished_data(recipe) == {"news": None}
    first = run_data(recipe)
    before = hash_directory(tmp_path / "out" / "data", hidden=False)
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert run_data(recipe) == first == finished_data(recipe)
    assert {
        path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*") if path.is_file()
    } == stamps
    assert stage.other_tasks(recipe) == {} == stage.other_tasks(make_recipe({"news": texts, "b": texts}))
    assert stage.other_tasks(make_recipe({"news": texts}, tasks=1)) == {"news": 2}
    other_tasks = run_data(make_recipe({"news": texts}, tasks=1))["news"]
    other_input = run_data(make_recipe({"news": [*texts, "one more of them"]}))["news"]
    assert len({first["news"], other_tasks, other_input}) == 3
    shutil.rmtree(first["news"])
    recipe = make_recipe({"news": texts})
    assert run_data(recipe) == first
    shutil.rmtree(other_tasks), shutil.rmtree(other_input)
    assert hash_directory(tmp_path / "out" / "data", hidden=False) == before


def test_a_changed_number_of_tasks_is_refused(make_recipe, texts, tmp_path, capsys):
    """Also while a source is only half clean."""
    recipe = make_recipe({"news": texts}, tasks=3)
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(recipe.model_dump(mode="json", exclude_none=True)))
    (name,) = (f"clean.news@{hash_of(inputs)[:8]}" for inputs in identity.clean_inputs(recipe).values())
    begun = tmp_path / "out" / "work" / name / "01_exact_dedup.sign" / TASKS
    begun.parent.mkdir(parents=True)
    begun.write_text("3\n")
    assert main(["check", str(file)]) == 0
    assert main(["data", str(file), "--set", "data.tasks=8"]) == 2
    refusal = (
        f"data.tasks = 8: {tmp_path}/out holds news in 3 parts; set it back to 3, or choose another --out"
    )
    assert refusal in capsys.readouterr().err


def test_metadata_is_kept(make_recipe, tmp_path, texts):
    rows = [
        {"text": text, "id": f"n{number}", "topic": "x", "metadata": {"url": "u"}}
        for number, text in enumerate(texts)
    ]
    (tmp_path / "meta.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = make_recipe({"news": {"type": "jsonl", "path": str(tmp_path / "meta.jsonl")}})
    for row in documents(run_data(recipe)["news"]):
        assert texts[int(row["id"][1:])] == row["text"]
        assert {"topic": "x", "url": "u"}.items() <= json.loads(row["metadata"]).items()


def test_a_source_with_no_document_left_says_what_dropped_them(make_recipe, tmp_path):
    (tmp_path / "bad.jsonl").write_text('{"text": ""}\n{"body": "x"}\nnothing\n')
    recipe = make_recipe({"bad": {"type": "jsonl", "path": str(tmp_path / "bad.jsonl")}})
    with pytest.raises(
        PerdureError, match=r"sources.bad: no document left of 3 \(1 broken_json, 1 empty, 1 no_text\)"
    ):
        run_data(recipe)


def test_a_missing_input_names_the_source(make_recipe, tmp_path):
    recipe = make_recipe({"news": {"type": "text", "path": str(tmp_path / "missing")}})
    assert finished_data(recipe) == {"news": None}  # nothing stands there that could be of any input
    for run in (run_data, finished_data):
        with pytest.raises(PerdureError, match=r"sources.news.reader: .*missing: no such file or directory"):
            run(recipe)
        (recipe.directory / "tokenizer@01234567").mkdir(parents=True, exist_ok=True)


def test_looking_for_finished_data_is_cheap():
    code = "import sys, perdure.pipeline.data.stage; "
    code += "print([m for m in ('torch', 'datatrove', 'transformers') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"


@pytest.mark.slow
def test_python_packages_end_to_end(make_recipe):
    readers = {
        kind: {"type": f"python_{kind}", "packages": ["json", "email", "http", "asyncio"]}
        for kind in ("docs", "code")
    }
    found = run_data(make_recipe(readers))
    for kind in readers:
        rows = documents(found[kind])
        assert {"asyncio.queues", "http.client"} <= {row["id"] for row in rows}
        assert all(json.loads(row["metadata"])["license"] is None for row in rows)
        assert any("class Queue" in row["text"] for row in rows) == (kind == "code")
        assert any("Remove and return an item from the queue" in row["text"] for row in rows) == (
            kind == "docs"
        )


@pytest.mark.slow
def test_a_document_of_20_mb(make_recipe, texts):
    rng = np.random.default_rng(0)
    giant = " ".join(
        rng.choice(["lorem", "ipsum", "dolor", "sit", "amet,", "Ünïcode", "12"], 3_600_000).tolist()
    )
    assert len(giant.encode()) > 20_000_000
    directory = run_data(
        make_recipe({"news": [*texts, giant], "other": texts}, tokenizer=trained_on("other"))
    )["news"]
    (row,) = [row for row in documents(directory) if row["num_chars"] == len(giant)]
    assert row["text"] == giant


def test_sources_that_lost_what_is_read_by_now_are_made_anew_and_others_kept(make_recipe, texts, tmp_path):
    recipe = make_recipe({"whole": texts, "lost": texts})
    path = recipe.sources["lost"].reader.path
    path.write_text('{"text": "half \\\\ud83d of an emoji"}\n' + path.read_text())
    found = run_data(recipe)
    assert counts(found["lost"])["documents"] == {"in": 61, "dropped": {}, "out": 61}
    assert finished_data(recipe) == found and run_data(recipe) == found
    # As the version before left it, which dropped the line.
    for directory in (*recipe.directory.glob("clean/*"), *recipe.directory.glob("data/*")):
        manifest = read_json(directory / "manifest.json")
        del manifest["reading"]
        if "lost" in directory.name:
            manifest["counts"]["steps"][0]["dropped"]["broken_json"] = {"documents": 1, "words": 0}
        (directory / "manifest.json").write_text(json.dumps(manifest))
    again = finished_data(recipe)
    assert again["lost"] is None and again["whole"] is None  # the tokenizer has learnt from both
    recipe = make_recipe(
        {"whole": texts, "lost": texts}, tokenizer={"type": "train", "vocab_size": 400, "sources": ["whole"]}
    )
    path.write_text('{"text": "half \\\\ud83d of an emoji"}\n' + path.read_text())
    cleaned = identity.clean_inputs(recipe)
    assert "reading" not in cleaned["whole"] and cleaned["lost"]["reading"] == identity.READING
    made = run_data(recipe)
    assert finished_data(recipe) == made and counts(made["lost"])["documents"]["out"] == 61
    shutil.rmtree(next(recipe.directory.glob("clean/lost@*")))
    assert "reading" in identity.clean_inputs(recipe)["lost"]  # its shards tell the same
