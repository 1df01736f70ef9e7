"""Held-out text measured by a real model: a sample of it against all of it."""

import hashlib

import numpy as np
import pytest
from support import on_rank
from tiny import EOS, prepare_version, tiny_recipe, write_data

from perdure.pipeline.evaluate import bootstrap

pytestmark = pytest.mark.slow
ALL = 100_000
SAMPLE = 6000


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """All and a sample of 400 documents in two languages, sorted by language and length, by one rank and by two."""
    random = np.random.default_rng(0)
    lengths = np.append(np.sort(random.integers(5, 150, 300)), np.sort(random.integers(5, 60, 100)))
    lengths[299] = 4000  # one is more than a tenth of all
    heldout = [
        # Each language has half of the vocabulary; a document has its own few words.
        np.append(random.choice(random.integers(1, 150, 20) + 149 * (place >= 300), size), EOS).astype(
            np.uint16
        )
        for place, size in enumerate(lengths)
    ]
    found = {}
    for name, ranks, order in (("one", 1, range(400)), ("two", 2, random.permutation(400))):
        out = tmp_path_factory.mktemp(name)
        write_data(
            out / "data" / "a",
            [[np.array([1, EOS], np.uint16)], []],
            [heldout[place] for place in order],
            300,
            label=lambda split, _task, number, order=order: {
                "language": "de" if split == "heldout" and order[number] < 300 else "ja"
            },
        )
        recipe = tiny_recipe(
            out,
            parallel__data_parallel=ranks,
            training__seq_length=64,
            training__document_mask=True,
            versions__v1__mixture={"sources": {"b": {}}, "max_repetition": 10_000},
        )
        directory = prepare_version(recipe)
        found[name] = on_rank("heldout_losses", directory, [ALL, SAMPLE], ranks=ranks)
    return found, heldout


def text_hash(document: np.ndarray) -> str:
    """As `write_data` makes it, of tokens."""
    return hashlib.sha256(document.tobytes()).hexdigest()[:16]


def test_a_sample_stands_for_all(measured):
    ((whole, documents), (sample, drawn)) = measured[0]["one"]
    assert whole["documents"] == 400 and whole["tokens"] == whole["heldout_tokens"]
    assert documents["tokens"] == [len(document) for document in measured[1]]
    assert documents["hash"] == [text_hash(document) for document in measured[1]]
    assert set(drawn["hash"]) < set(documents["hash"])
    assert whole["cut_documents"] == 0 and sample["cut_documents"] == 1
    assert sample["heldout_tokens"] == whole["tokens"] and sample["heldout_documents"] == 400
    assert SAMPLE - 300 <= sample["tokens"] <= SAMPLE and sum(drawn["tokens"]) == sample["tokens"]
    share = (
        sum(n for n, language in zip(drawn["tokens"], drawn["language"]) if language == "ja")
        / sample["tokens"]
    )
    truth = sum(map(len, measured[1][300:])) / whole["tokens"]
    assert share == pytest.approx(truth, abs=300 / SAMPLE)
    sums, sizes = np.array([drawn["loss"]]), np.array(drawn["tokens"], float)
    strata = np.array([language == "ja" for language in drawn["language"]], np.int64)
    low, high = bootstrap.interval(bootstrap.resampled(sums, sizes, 1, strata)[0])
    assert low < whole["loss"] < high and high - low < 0.2 * whole["loss"]
    assert low < sample["loss"] < high and sample["loss"] == pytest.approx(sums.sum() / sizes.sum())
    # Bits per byte too: 4 bytes a token, the separator's included.
    assert sample["bits_per_byte"] == pytest.approx(sample["loss"] / np.log(2) / 4, rel=0.01)


def test_the_pieces_of_a_long_document_cost_what_it_costs(measured):
    """In context, as if all were measured: without what stands before them they would cost more."""
    ((_, documents), (_, drawn)) = measured[0]["one"]
    (place,) = [number for number, n in enumerate(drawn["heldout_tokens"]) if n > 4000]
    mean = drawn["loss"][place] / drawn["tokens"][place]
    assert mean == pytest.approx(documents["loss"][299] / 4001, rel=0.05)
    assert 0 < drawn["tokens"][place] < 1500


def test_no_order_of_documents_and_no_layout_decides(measured):
    one, two = (measured[0][name][1] for name in ("one", "two"))
    assert one[1]["tokens"] == two[1]["tokens"] and one[1]["bytes"] == two[1]["bytes"]
    assert one[1]["loss"] == pytest.approx(two[1]["loss"], rel=1e-5)
    assert one[0]["loss"] == pytest.approx(two[0]["loss"], rel=1e-6)
