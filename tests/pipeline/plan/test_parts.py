"""Parts of a source: exactly the documents with a label, or those of lowest perplexity up to the budget, in every order."""

import re
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import write_data

from perdure.pipeline.core.errors import PerdureError
from perdure.pipeline.core.files import read_json
from perdure.pipeline.evaluate.documents import heldout
from perdure.pipeline.plan.order import Order, count_documents, write_order
from perdure.pipeline.plan.parts import build_part, describe, finished_part
from perdure.pipeline.recipe import LowestPerplexity
from tests.pipeline.plan.perplexities import HALF, write_perplexities

LENGTHS = [4, 6, 5, 3, 8, 2]
"""Tokens of the documents of two shards."""
PERPLEXITIES = [9.0, 2.0, float("nan"), 2.0, 7.0, 30.0]
TOPICS = ["sea", "farm", "sea", "sea", "farm", None]
DATES = ["2023-01", "2023-02-14", "2023", "2023-07", None, "2022-12-31"]
LANGUAGES = ["de", "de", "en", "en", "de", "de"]


def label(split: str, task: int, number: int) -> dict:
    if split == "heldout":
        return {"topic": "sky", "language": "fr", "date": "2023-03"}
    place = HALF * task + number
    return {"topic": TOPICS[place], "language": LANGUAGES[place], "date": DATES[place]}


def write_source(directory: Path, lengths: list[int]) -> Path:
    documents = [np.ones(length, np.uint16) for length in lengths]
    heldout = [np.ones(3, np.uint16)]
    return write_data(directory, [documents[:HALF], documents[HALF:]], heldout, 300, label=label)


@pytest.fixture
def data(tmp_path):
    return write_source(tmp_path / "web", LENGTHS)


@pytest.fixture
def scores(data):
    return write_perplexities(data / "scores" / "base@1", PERPLEXITIES)


def kept(part: Path) -> list[int]:
    return np.flatnonzero(np.load(part / "keep.npy")).tolist()


def test_dates_choose_documents_that_lie_in_them_as_a_whole(data):
    chosen = {
        "web[2023-01..2023-06]": [0, 1],
        "web[..2023-01]": [0, 5],
        "web@de[2023..]": [0, 1],
        "web[..]": [0, 1, 2, 3, 5],
    }
    for domain, documents in chosen.items():
        part = build_part(data, domain)
        assert kept(part) == documents
        manifest = read_json(part / "manifest.json")
        assert manifest["taken"]["documents"] == len(documents)
        assert finished_part(data, domain, None, None) == manifest
    with pytest.raises(
        PerdureError, match=r"web\[2024..\]: no training document has a date in 2024..; there are dates"
    ):
        build_part(data, "web[2024..]")
    assert heldout(data, "web[2023..2023-06]", 1000).all_documents == 1
    assert heldout(data, "web[2024..]", 1000).all_documents == 0


def test_labels_choose_documents_and_are_counted(data):
    assert build_part(data, "web") is None
    for domain, documents in (("web/sea", [0, 2, 3]), ("web@en", [2, 3]), ("web@de/farm", [1, 4])):
        part = build_part(data, domain)
        assert kept(part) == documents
        tokens = sum(LENGTHS[number] for number in documents)
        assert count_documents(data, part) == (len(documents), tokens)
        assert describe(domain, read_json(part / "manifest.json")) == (
            f"{domain}: {len(documents)} documents, {tokens} tokens"
        )
    assert count_documents(data) == (6, 28)


def test_the_lowest_perplexities_are_taken_until_the_budget_is_reached(data, scores):
    def chosen(domain="web", **budget):
        return build_part(data, domain, LowestPerplexity(**budget), scores)

    # By perplexity: documents 1 and 3 (equal, the first wins), 4, 0, 5; 2 has none. Tokens 6, 3, 8, 4, 2.
    for tokens, documents in ((1, [1]), (6, [1]), (7, [1, 3]), (10, [1, 3, 4]), (23, [0, 1, 3, 4, 5])):
        assert kept(chosen(tokens=tokens)) == documents
    assert kept(chosen(share=0.4)) == [1, 3, 4]  # 9.2 of 23 tokens
    assert kept(chosen("web/sea", tokens=4)) == [0, 3]
    assert describe("web", read_json(chosen(tokens=10) / "manifest.json")) == (
        "subset of web: 3 documents, 17 of 23 tokens, perplexity <= 7"
    )
    with pytest.raises(
        PerdureError, match=r"web/sea: lowest_perplexity.tokens = 8, .* only 7 training tokens"
    ):
        chosen("web/sea", tokens=8)


def test_a_label_that_nobody_has_is_refused_with_those_there_are(data):
    message = "web/see: no training document has the topic 'see'; there are topics farm, sea, sky"
    with pytest.raises(PerdureError, match=re.escape(message)):
        build_part(data, "web/see")
    with pytest.raises(PerdureError, match="the language 'en' and the topic 'farm'"):
        build_part(data, "web@en/farm")
    with pytest.raises(PerdureError, match="no training document has the topic 'sky'"):
        build_part(data, "web/sky")  # held out alone
    assert not list(data.glob("parts/*/_SUCCESS"))


def test_a_part_is_made_once_found_again_and_made_anew_after_a_kill(data, scores):
    lowest = LowestPerplexity(tokens=7)
    assert finished_part(data, "web", lowest, "base") is None
    part = build_part(data, "web", lowest, scores)
    stamps = {path: path.stat().st_mtime_ns for path in part.iterdir()}
    content = {path.name: path.read_bytes() for path in part.iterdir()}
    assert sorted(content) == ["_SUCCESS", "keep.npy", "manifest.json"]
    assert build_part(data, "web", lowest, scores) == part
    assert stamps == {path: path.stat().st_mtime_ns for path in part.iterdir()}
    assert finished_part(data, "web", lowest, "base") == read_json(part / "manifest.json")
    assert finished_part(data, "web", LowestPerplexity(tokens=8), "base") is None
    assert finished_part(data, "web", lowest, "other") is None
    other = write_perplexities(data / "scores" / "base@2", PERPLEXITIES[::-1])
    assert build_part(data, "web", lowest, other) != part
    part.rename(part.with_name(f".{part.name}.building"))  # killed before it was renamed
    assert {
        path.name: path.read_bytes() for path in build_part(data, "web", lowest, scores).iterdir()
    } == content
    assert [path for path in (data / "parts").iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize("rows", [2, 100])
@pytest.mark.parametrize("kind", ["given", "shuffled", "easy_to_hard", "hard_to_easy"])
def test_the_order_of_a_part_is_that_of_the_source_without_the_others(data, scores, tmp_path, kind, rows):
    def order(part):
        files = tmp_path / "documents.npy", tmp_path / "ends.npy"
        write_order(Order(data, kind, None, scores, 5, part), *files, rows)
        documents, ends = map(np.load, files)
        assert ends.tolist() == np.cumsum([LENGTHS[number] for number in documents]).tolist()
        return documents.tolist()

    part = build_part(data, "web/sea", rows=rows)
    assert order(part) == [number for number in order(None) if TOPICS[number] == "sea"]


def test_buckets_of_a_part_have_equally_many_of_its_documents(data, scores, tmp_path):
    files = tmp_path / "documents.npy", tmp_path / "ends.npy"
    part = build_part(data, "web@de")
    write_order(Order(data, "easy_to_hard", 2, scores, 5, part), *files)
    documents = np.load(files[0]).tolist()
    assert [sorted(documents[:2]), sorted(documents[2:])] == [[1, 4], [0, 5]]


documents = st.lists(
    st.tuples(st.integers(1, 9), st.sampled_from([1.5, 2.0, 3.0, 4.5, float("nan")])),
    min_size=HALF,
    max_size=12,
)


@settings(max_examples=25)
@given(documents, st.integers(1, 60), st.integers(1, 20))
def test_a_subset_is_what_numpy_would_choose(documents, budget, rows):
    lengths, perplexities = map(np.array, zip(*documents, strict=True))
    with tempfile.TemporaryDirectory() as directory:
        data = write_source_quickly(Path(directory) / "web", lengths.tolist())
        scores = write_perplexities(data / "scores" / "base@1", perplexities.tolist())
        order = [number for number in np.argsort(perplexities, kind="stable") if perplexities[number] < 9]
        tokens = sum(lengths[number] for number in order)
        lowest = LowestPerplexity(tokens=budget)
        if budget > tokens:
            with pytest.raises(
                PerdureError, match=f"only {tokens} training tokens|none of its documents has a finite"
            ):
                build_part(data, "web", lowest, scores, rows)
            return
        part = build_part(data, "web", lowest, scores, rows)
        expected: list[int] = []
        for number in order:
            if sum(lengths[expected]) >= budget:
                break
            expected.append(number)
        assert kept(part) == sorted(expected)
        manifest = read_json(part / "manifest.json")
        assert manifest["taken"] == {"documents": len(expected), "tokens": sum(lengths[expected])}
        assert manifest["available"] == {"documents": len(order), "tokens": tokens}
        assert manifest["max_perplexity"] == perplexities[expected[-1]]


def write_source_quickly(directory: Path, lengths: list[int]) -> Path:
    directory.mkdir()
    from tiny import write_shard

    for task, part in enumerate((lengths[:HALF], lengths[HALF:])):
        write_shard(directory / f"{task:05d}", [np.ones(length, np.uint16) for length in part])
    (directory / "manifest.json").write_text('{"tasks": 2, "counts": {}}')
    return directory
