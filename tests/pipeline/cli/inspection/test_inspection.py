"""`perdure data inspect`: numbers are those of the artefacts, in the terminal, as JSON and as a page."""

import copy
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import yaml
from pyarrow import parquet
from tiny import tiny_recipe, write_scores

from perdure.pipeline.cli import entry
from perdure.pipeline.cli.inspection import gather
from perdure.pipeline.cli.inspection.page import render_inspection, shade
from perdure.pipeline.cli.inspection.sample import sample_row
from perdure.pipeline.cli.inspection.text import print_inspection
from perdure.pipeline.core.files import read_json
from perdure.pipeline.core.shards import open_shard
from perdure.pipeline.data.stage import run_data
from tests.pipeline.data.texts import random_text, write_jsonl


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished source with a dropped document of two kinds and scores, one that is not prepared, and the recipe's file."""
    directory = tmp_path_factory.mktemp("inspected")
    texts = [random_text(seed) for seed in range(40)]
    rows = [
        {"text": text, "id": f"d{number}", "topic": "xy"[number % 2]} for number, text in enumerate(texts)
    ]
    rows += [{"text": "<b>short & bad</b>", "id": "s"}, {"text": texts[0], "id": "twin"}]
    reader = {"type": "jsonl", "path": str(write_jsonl(directory / "in.jsonl", rows))}
    source = {
        "reader": reader,
        "heldout_fraction": 0.2,
        "clean": [{"type": "length", "min_chars": 60}, {"type": "exact_dedup"}],
        "topics": {"type": "metadata", "field": "topic", "map": {"x": "even", "y": "odd"}},
    }
    recipe = tiny_recipe(
        directory / "out", sources={"a": source}, versions__v1__mixture={"sources": {"a": {}}}
    )
    (data,) = run_data(recipe).values()
    (directory / "recipe.yaml").write_text(yaml.safe_dump(recipe.model_dump(mode="json")))
    shards = [open_shard(data / f"{task:05d}") for task in range(2)]
    losses = [[np.linspace(0, 6, length) for length in shard.lengths] for shard in shards]
    scores = write_scores(data / "scores" / "ref@12345678", data, losses)
    perplexities = np.exp(np.linspace(1, 3, sum(len(task) for task in losses)))
    parquet.write_table(pa.table({"perplexity": perplexities}), scores / "docs.parquet")
    worse = [[np.linspace(2, 5, length) for length in shard.lengths] for shard in shards]
    scores = write_scores(data / "scores" / "base@12345678", data, worse)
    parquet.write_table(pa.table({"perplexity": 2 * perplexities}), scores / "docs.parquet")
    return directory, data, recipe


def pq_topics(data: Path) -> list[str]:
    rows = parquet.read_table(data / "docs.parquet").to_pylist()
    return [row["topic"] for row in rows if row["split"] == "train"]


def test_mixtures_show_what_each_version_takes_and_how_often(run, capsys):
    _, data, recipe = run
    tokens = read_json(data / "manifest.json")["counts"]["topics"]["odd"]["train"]["tokens"]
    mixture = {"sources": {"a/odd": {"weight": 3}, "a/even": {}}}
    changed = recipe.model_validate(
        recipe.model_dump() | {"versions": {"v1": recipe.versions["v1"].model_dump() | {"mixture": mixture}}}
    )
    found = gather.of_recipe(changed)
    (version,) = found["mixtures"]
    odd = version["rows"][0]
    assert (odd["source"], odd["share"], odd["available"], odd["tokens"]) == ("a/odd", 0.75, tokens, 3840)
    assert odd["repetitions"] == pytest.approx(3840 / tokens)
    assert f"{3840 / tokens:.2f}" in render_inspection(found)
    print_inspection(found)
    line = f"v1 a/odd 75.0% 3,840 {tokens:,} {3840 / tokens:.2f}"
    assert line in [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]


def test_numbers_are_those_of_the_artefacts(run):
    directory, data, recipe = run
    found = gather.of_recipe(recipe)
    (source,) = found["sources"]
    assert source["counts"] == read_json(data / "manifest.json")["counts"]
    assert {step: [row["id"] for row in rows] for step, rows in source["examples"].items()} == {
        "01_length": ["s"],
        "02_exact_dedup": [source["examples"]["02_exact_dedup"][0]["id"]],
    }
    assert (
        sum(parts["train"]["documents"] for parts in source["counts"]["topics"].values())
        == (source["counts"]["train"]["documents"])
    )
    _, scores = source["scores"]
    assert scores["model"] == "ref" and sum(scores["histogram"]) == scores["documents"]
    assert scores["quantiles"]["50%"] == pytest.approx(np.exp(2), abs=1e-3)
    sample = source["sample"]
    assert "".join(sample["tokens"]).removesuffix("<|endoftext|>") in {
        random_text(seed) for seed in range(40)
    }
    assert sample["losses"] == pytest.approx(np.linspace(0, 6, sample["num_tokens"]), abs=1e-3)
    assert sample["topic"] in ("even", "odd")
    assert (sample["model"], sample["trainee"]) == ("ref", "base")
    assert sample["excess"] == pytest.approx(np.linspace(2, -1, sample["num_tokens"]), abs=2e-3)
    topics = pq_topics(data)
    assert {topic: entry["documents"] for topic, entry in scores["topics"].items()} == {
        topic: topics.count(topic) for topic in ("even", "odd")
    }
    assert (
        np.sum([entry["histogram"] for entry in scores["topics"].values()], axis=0).tolist()
        == scores["histogram"]
    )
    values = np.exp(np.linspace(1, 3, len(topics)))[[topic == "odd" for topic in topics]]
    assert scores["topics"]["odd"]["quantiles"]["50%"] == pytest.approx(
        np.exp(np.median(np.log(values))), abs=1e-3
    )
    for where in (directory / "out", data):
        assert gather.of_directory(where)["sources"][0]["counts"] == source["counts"]
    json.dumps(found)


def test_the_tables_show_steps_examples_topics_and_scores(run, capsys):
    print_inspection(gather.of_recipe(run[2]))
    text = capsys.readouterr().out
    lines = [" ".join(line.split()) for line in text.splitlines()]
    words = 41 * 60 + 3
    assert f"01_length 42 {words:,} 1 too_short 3" in lines
    assert f"02_exact_dedup 41 {words - 3:,} 1 exact_duplicate 60" in lines
    assert any(line.startswith("01_length too_short s: <b>short & bad</b>") for line in lines)
    assert any(line.startswith("even ") for line in lines)
    assert any(line.startswith("perplexity under ref") for line in lines)


def test_every_column_has_a_heading_with_and_without_topics(run):
    found = gather.of_recipe(run[2])
    plain = copy.deepcopy(found)
    scores = [scores for source in plain["sources"] for scores in source["scores"]]
    assert scores and all(entry["topics"] for entry in scores)
    for scored in scores:
        scored["topics"] = {}
    for page in (render_inspection(found), render_inspection(plain)):
        assert not re.search(r"<th[^>]*>\s*</th>", page)


def test_prefixes_and_dates_are_shown_where_a_source_has_them(run, capsys):
    found = gather.of_recipe(run[2])
    plain = render_inspection(found)
    assert "have the prefix" not in plain and "Dates" not in plain
    found["sources"][0]["counts"] |= {
        "prefix": {"documents": 30, "without": 8, "tokens": 90},
        "dates": {"first": "2022", "last": "2024-05", "undated": {"train": 4, "heldout": 1}, "by_date": {}},
    }
    print_inspection(found)
    text, page = capsys.readouterr().out.splitlines(), render_inspection(found)
    assert "30 documents have the prefix, 8 lack a field of it and stay plain" in text
    assert "dates 2022 to 2024-05, 5 documents without" in text
    assert "30 documents have the prefix" in page and "Dates 2022 to 2024-05, 5 documents without." in page


def test_the_page_is_whole_and_escapes_text(run):
    found = gather.of_recipe(run[2])
    page = render_inspection(found)
    assert page == render_inspection(found)
    assert "&lt;b&gt;short &amp; bad&lt;/b&gt;" in page and "<b>short" not in page
    assert "http" not in page and "src=" not in page
    open_tags: list[str] = []

    class Balance(HTMLParser):
        def handle_starttag(self, tag, attributes):
            if tag not in ("meta", "link", "br"):
                open_tags.append(tag)

        def handle_endtag(self, tag):
            assert open_tags.pop() == tag

    Balance().feed(page)
    assert not open_tags


def test_higher_losses_are_darker():
    assert shade(None) == "transparent"
    strengths = [int(shade(loss).split()[-2].rstrip("%,")) for loss in (0.0, 1.0, 4.0, 20.0)]
    assert "--excess" in shade(2.0) and shade(-2.0) == shade(2.0).replace("--excess", "--better")
    assert strengths == sorted(strengths) and strengths[0] == 0 and strengths[2] == 30 and strengths[3] <= 60


def test_the_command(run, tmp_path, capsys):
    directory, _, _ = run
    assert (
        entry.main(["data", "inspect", str(directory / "recipe.yaml"), "--html", str(tmp_path / "data.html")])
        == 0
    )
    assert (tmp_path / "data.html").read_text().startswith("<!DOCTYPE html>")
    capsys.readouterr()
    assert entry.main(["data", "inspect", str(directory / "out"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["sources"][0]["name"] == "a"


def test_a_directory_without_data_is_one_line(tmp_path, capsys):
    assert entry.main(["data", "inspect", str(tmp_path)]) == 1
    assert capsys.readouterr().err.startswith(f"error: {tmp_path}: no finished data in it; name a recipe")


def test_sources_that_are_not_prepared(run, tmp_path):
    found = gather.of_recipe(run[2].model_copy(update={"out": tmp_path}))
    assert found["sources"] == [{"name": "a", "directory": None}]
    assert "not prepared yet" in render_inspection(found)


def test_gathering_imports_nothing_heavy():
    code = "import sys, perdure.pipeline.cli.inspection.gather; "
    code += "print([m for m in ('torch', 'datatrove', 'sklearn') if m in sys.modules])"
    root = Path(__file__).parents[4]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize(
    ("rows", "found"),
    [
        # split, tokens, hash: the lowest hash of those that fit, in whatever group of rows it is
        ([("train", 59, "0"), ("train", 60, "2"), ("train", 240, "1"), ("heldout", 99, "0")], 2),
        ([("train", 241, "0"), ("train", 99, "2"), ("train", 99, "3"), ("train", 99, "1")], 3),
        # none fits: the lowest hash of those that train
        ([("heldout", 99, "0"), ("train", 5, "2"), ("train", 500, "1"), ("heldout", 5, "0")], 2),
        ([("heldout", 99, "0")], None),
        ([], None),
    ],
)
def test_the_sample_is_looked_for_in_one_group_of_rows_after_the_other(tmp_path, monkeypatch, rows, found):
    columns = dict(zip(("split", "num_tokens", "hash"), zip(*rows, strict=True) if rows else ([],) * 3))
    table = pa.table({name: list(values) for name, values in columns.items()})
    table = table.cast(pa.schema([("split", pa.string()), ("num_tokens", pa.int32()), ("hash", pa.string())]))
    for name in ("shard", "sequence"):
        table = table.append_column(name, pa.array(range(len(rows)), pa.int32()))
    for name in ("id", "topic", "language"):
        table = table.append_column(name, pa.array([name] * len(rows)))
    parquet.write_table(table, tmp_path / "docs.parquet", row_group_size=2)
    largest = []
    real = parquet.ParquetFile.read_row_group
    monkeypatch.setattr(
        parquet.ParquetFile,
        "read_row_group",
        lambda *given, **options: largest.append(len(result := real(*given, **options))) or result,
    )
    row = sample_row(tmp_path / "docs.parquet", np.zeros(len(rows), bool))
    assert (row and row["sequence"]) == found and max(largest, default=0) <= 2


def test_examples_with_separators_of_lines_inside(tmp_path):
    row = {"id": "Title\u2028part", "text": "a\x85b"}
    (tmp_path / "dropped").mkdir()
    (tmp_path / "dropped" / "01_length.jsonl").write_text(
        json.dumps(row, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    assert gather.dropped_examples(tmp_path) == {"01_length": [row]}
