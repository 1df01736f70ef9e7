"""Subsets of a source: by importance resampling and by a classifier, in whole runs of the data stage."""

import json
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from datatrove.data import Document
from hypothesis import given, settings
from hypothesis import strategies as st

from perdure.pipeline.core.errors import PerdureError
from perdure.pipeline.core.files import read_json
from perdure.pipeline.core.hashes import hash_directory
from perdure.pipeline.data import dsir, features
from perdure.pipeline.data.cleaning.normalise import is_heldout, text_hash
from perdure.pipeline.data.stage import run_data
from perdure.pipeline.data.subset import Count, choose, take_best
from perdure.pipeline.recipe import DsirSubset
from tests.pipeline.data.subjects import text
from tests.pipeline.data.texts import write_jsonl


@pytest.fixture
def make(make_recipe, tmp_path):
    """A recipe over 20 documents about the sea among 80 about farms, with `subset`; samples stand in sea.jsonl."""
    write_jsonl(tmp_path / "sea.jsonl", [{"text": text("sea", seed)} for seed in range(200, 240)])
    texts = [text("farm" if number % 5 else "sea", number) for number in range(100)]
    rows = [
        {"text": text, "id": f"{'sea' if number % 5 == 0 else 'farm'}-{number}"}
        for number, text in enumerate(texts)
    ]
    path = write_jsonl(tmp_path / "in.jsonl", rows)

    def make(subset: dict | None, **options):
        return make_recipe({"news": {"type": "jsonl", "path": str(path)}}, subset=subset, **options)

    return make


@pytest.mark.parametrize("rows", [2, 100])
def test_the_highest_scores_are_taken_until_the_budget_is_reached(tmp_path, rows):
    scores, tokens = np.array([9.0, 1.0, 5.0, 3.0, 3.0]), np.full(5, 10)
    for budget, expected in ((1, [2]), (20, [2, 3]), (21, [2, 3, 4]), (1000, [1, 2, 3, 4])):
        keep = np.arange(5) == 0  # held out
        (scratch := tmp_path / str(budget)).mkdir()
        taken = take_best(keep, scores, tokens, budget, scratch, rows)
        assert np.flatnonzero(keep).tolist() == [0, *expected]
        assert taken == {"documents": len(expected), "tokens": 10 * len(expected)}


@settings(max_examples=30)
@given(
    st.lists(st.tuples(st.sampled_from([-1.0, 0.0, 0.5, 2.0]), st.integers(1, 9), st.booleans()), min_size=1),
    st.integers(1, 99),
)
def test_it_is_a_stable_sort_whatever_fits_into_memory(documents, budget):
    scores, tokens, held = (np.array(column) for column in zip(*documents, strict=True))
    order = [number for number in np.argsort(-scores, kind="stable") if not held[number]]
    before = np.cumsum(tokens[order]) - tokens[order] if order else np.array([])
    expected = held.copy()
    expected[[number for number, sum in zip(order, before, strict=True) if sum < budget]] = True
    keep = held.copy()
    with tempfile.TemporaryDirectory() as scratch:
        take_best(keep, scores, tokens, budget, Path(scratch), rows=3)
    assert keep.tolist() == expected.tolist()


def test_a_sample_of_texts_holds_little_and_is_of_the_lowest_hashes(tmp_path, monkeypatch):
    texts = [f"{number} {text('sea', number)}" for number in range(50)]
    lines = "".join(json.dumps({"text": text, "id": "", "metadata": {}}) + "\n" for text in texts)
    (tmp_path / "00000.jsonl.zst").write_bytes(zstandard.compress(lines.encode()))
    expected = sorted((text_hash(text), text) for text in texts)[:5]
    sizes = []
    monkeypatch.setattr(
        features, "sorted", lambda found: sizes.append(len(found)) or sorted(found), raising=False
    )
    assert features.sample_texts(tmp_path, 0.0, 5) == [text for _, text in expected]
    assert max(sizes) == 10


@pytest.mark.parametrize(
    "kind", [{"type": "dsir", "target": "sea.jsonl"}, {"type": "classifier", "positive": "sea.jsonl"}]
)
def test_a_subset_is_like_its_sample_and_counts_what_it_leaves(make, tmp_path, kind):
    kind = {key: str(tmp_path / value) if value.endswith("jsonl") else value for key, value in kind.items()}
    directory = run_data(make(kind | {"tokens": 1200}))["news"]
    whole = run_data(make(None))["news"]
    rows, every = (pq.read_table(path / "docs.parquet").to_pylist() for path in (directory, whole))
    train = [row["id"] for row in rows if row["split"] == "train"]
    assert [row for row in rows if row["split"] == "heldout"] == [
        row for row in every if row["split"] == "heldout"
    ]
    assert len(train) >= 10 and sum(name.startswith("sea") for name in train) >= 0.9 * len(train)
    counts = read_json(directory / "manifest.json")["counts"]
    shortest = min(row["num_tokens"] for row in rows)
    assert 1200 <= counts["train"]["tokens"] < 1200 + 3 * shortest
    left_out = 100 - len(rows)
    assert counts["documents"] == {"in": 100, "dropped": {"not_in_subset": left_out}, "out": len(rows)}
    assert counts["steps"][-1]["step"] == "subset"
    words = sum(len(text("farm" if n % 5 else "sea", n).split()) for n in range(100))
    assert counts["words"] == {
        "in": words,
        "dropped": {"not_in_subset": left_out * 80},
        "out": len(rows) * 80,
    }


def test_the_seed_decides_what_is_drawn(tmp_path):
    """A score is a log weight and the noise of the document's hash under the seed; the highest are taken."""
    subset = DsirSubset(type="dsir", target=tmp_path / "unused", tokens=20)
    rows = {
        "hash": np.random.default_rng(0).integers(0, 2**64, 40, dtype=np.uint64),
        "tokens": np.ones(40, np.int64),
        "trains": np.arange(40) % 4 > 0,
        "score": np.linspace(0, 1, 40),
    }
    taken = []
    for seed in (0, 1, 2**70 + 3):
        work = tmp_path / str(seed)
        for folder in ("scores", "artefact"):
            (work / folder).mkdir(parents=True)
        pq.write_table(pa.table(rows), work / "scores" / "00000.parquet")
        counts = choose(subset, work, 1, seed, "here")
        assert counts == tuple({"documents": number, "tokens": number} for number in (20, 30))
        found = pq.read_table(work / "artefact" / "00000.parquet").to_pydict()
        scores = rows["score"] + dsir.gumbel_noise(rows["hash"], seed)
        assert found["score"] == scores.tolist()
        best = np.argsort(-np.where(rows["trains"], scores, -np.inf))[:20]
        assert set(np.flatnonzero(found["keep"])) == {*best.tolist(), *range(0, 40, 4)}
        taken.append(frozenset(best.tolist()))
    assert len(set(taken)) == 3


def test_held_out_texts_are_no_part_of_what_a_source_is_like(tmp_path, texts):
    """Reserved documents of 60 are left out of the counts that the target is weighed against, in every task."""
    subset = DsirSubset(type="dsir", target=tmp_path / "unused", tokens=30)
    trained = [one for one in texts if not is_heldout(text_hash(one), 0.5)]
    assert 10 < len(trained) < 50
    documents = [Document(text=one, id=str(number)) for number, one in enumerate(texts)]
    for task, part in enumerate((documents[:25], documents[25:], [])):
        Count(subset, 0.5, tmp_path / "counts").run(part, rank=task)
    found = sum(np.load(path) for path in sorted((tmp_path / "counts").glob("*.npy")))
    expected = np.asarray(dsir.bucket_counts(trained, subset.num_buckets).sum(0)).ravel()
    assert found.tolist() == expected.tolist() and len(list((tmp_path / "counts").iterdir())) == 3


def test_a_subset_does_not_depend_on_workers(make, tmp_path):
    recipe = make({"type": "dsir", "target": str(tmp_path / "sea.jsonl"), "tokens": 1000}, tasks=3)
    hashes = []
    for workers in (1, 3):
        out = tmp_path / f"with-{workers}"
        changed = recipe.model_copy(
            update={"out": out, "data": recipe.data.model_copy(update={"workers": workers})}
        )
        run_data(changed)
        hashes.append([hash_directory(out / part, hidden=False) for part in ("clean", "subset", "data")])
    assert hashes[0] == hashes[1]


def test_a_budget_beyond_the_source_is_refused(make, tmp_path):
    recipe = make({"type": "dsir", "target": str(tmp_path / "sea.jsonl"), "tokens": 1_000_000})
    with pytest.raises(
        PerdureError, match=r"subset.tokens = 1,000,000: the source has only [\d,]+ training tokens"
    ):
        run_data(recipe)


def test_an_empty_sample_is_refused(make, tmp_path):
    (tmp_path / "empty.jsonl").write_text("\n")
    recipe = make({"type": "classifier", "positive": str(tmp_path / "empty.jsonl"), "tokens": 1000})
    with pytest.raises(PerdureError, match=r"subset.positive = .*empty.jsonl: there is no text in it"):
        run_data(recipe)
