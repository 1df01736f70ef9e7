import itertools
import re
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import EOS, prepare_version, random_documents, tiny_recipe, write_data, write_scores

from perdure.pipeline.core.errors import PerdureError
from perdure.pipeline.core.files import read_json, write_json
from perdure.pipeline.core.shards import REF_MISSING
from perdure.pipeline.evaluate.documents import heldout
from perdure.pipeline.plan.plan import locate, place_of
from perdure.pipeline.train.dataset import open_dataset, read_batch
from perdure.pipeline.train.streams import open_heldout, open_stream, read_sample


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    recipe = tiny_recipe(tmp_path_factory.mktemp("dataset"))
    directory = prepare_version(recipe, scored=True)
    data = {name: recipe.directory / "data" / name for name in ("a", "b")}
    return directory / "plan", data, {name: path / "scores" / "test" for name, path in data.items()}


def test_every_token_is_a_label_once_an_epoch_beside_its_own_reference_loss(prepared):
    dataset = open_dataset(*prepared)
    for key, stream in dataset.streams.items():
        samples = [
            read_sample(stream, number, 32)
            for number in range(dataset.plan.sources[key]["samples_per_epoch"])
        ]
        labels = np.concatenate([sample.tokens[1:][: sample.num_valid] for sample in samples])
        reference = np.concatenate([sample.reference[: sample.num_valid] for sample in samples])
        pieces, losses = [], []
        for number in stream.documents:
            task = int(number >= stream.shard_starts[1])
            shard, (sidecar,) = stream.shards[task], stream.sidecars[task]
            begin = shard.start(int(number - stream.shard_starts[task]))
            end = begin + int(shard.lengths[number - stream.shard_starts[task]])
            pieces.append(shard.values[begin:end])
            losses.append(sidecar.values[begin:end])
        np.testing.assert_array_equal(labels, np.concatenate(pieces))
        np.testing.assert_array_equal(reference, np.concatenate(losses))
        assert samples[0][0][0] == EOS
        for before, after in itertools.pairwise(samples):
            assert before[0][-1] == after[0][0]  # inputs go on where the labels before them ended
        padding = samples[-1][2]
        assert (samples[-1][0][1:][padding:] == EOS).all() and (samples[-1][1][padding:] == REF_MISSING).all()


def test_a_batch_names_its_sources_and_masks_padding(prepared):
    dataset = open_dataset(*prepared)
    batch = read_batch(dataset, range(3, 9), torch.device("cpu"))
    assert [dataset.plan.keys[number] for number in batch.source] == [
        locate(dataset.plan, i)[0] for i in range(3, 9)
    ]
    assert batch.tokens.shape == batch.labels.shape == batch.valid.shape == batch.reference.shape == (6, 32)
    assert torch.equal(batch.tokens[:, 1:], batch.labels[:, :-1])


def packed(data: Path, sizes: list[list[int]], order: list[int]):
    """A stream over documents of these sizes, their separator included."""
    made = iter(range(1, 1 + sum(map(len, sizes))))
    tasks = [
        [np.append(np.full(size - 1, next(made)), EOS).astype(np.uint16) for size in task] for task in sizes
    ]
    write_data(data, tasks, [], 600)
    ends = np.cumsum(np.concatenate([*map(np.array, sizes)])[order])
    return open_stream(data, None, np.array(order), ends)


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        # The separator opens the next document; a sample that begins with one reads it as its first input.
        ([3, 7, 6], [(3, 5), (2, 6)]),
        # What is left of a sample is padding, a document of its own.
        ([5, 5], [(5, 3), (2, 6)]),
        ([8, 8], [(8,), (8,)]),
        ([9, 7], [(8,), (1, 7)]),
        ([1, 1, 6], [(1, 1, 6)]),
        ([20], [(8,), (8,), (4, 4)]),
    ],
)
def test_a_sample_knows_the_lengths_of_its_documents(tmp_path, sizes, expected):
    stream = packed(tmp_path / "data", [sizes, []], [*range(len(sizes))])
    assert [read_sample(stream, number, 8).documents for number in range(len(expected))] == expected


@given(st.lists(st.integers(2, 20), min_size=1, max_size=8), st.integers(4, 16), st.randoms())
@settings(max_examples=40, deadline=None)
def test_lengths_of_documents_are_those_of_the_runs_that_separators_open(sizes, seq_length, rng):
    order = [*range(len(sizes))]
    rng.shuffle(order)
    with TemporaryDirectory() as out:
        stream = packed(Path(out) / "data", [sizes[::2], sizes[1::2]], order)
        for number in range(-(-sum(sizes) // seq_length)):
            sample = read_sample(stream, number, seq_length)
            opened = [0, *(np.flatnonzero(sample.tokens[1:-1] == EOS) + 1)]
            text = [place for place in opened if place <= sample.num_valid]  # the last one opens the padding
            expected = tuple(np.diff([*text, seq_length]))
            assert sample.documents == expected


def test_a_separator_inside_a_document_does_not_end_it(tmp_path):
    """Chats that were rendered with a template have some."""
    chat = np.array([5, 5, EOS, 6, 6, EOS], np.uint16)
    write_data(tmp_path / "data", [[chat, chat], []], [], 16)
    stream = open_stream(tmp_path / "data", None, np.arange(2), np.array([6, 12]))
    assert read_sample(stream, 0, 12).documents == (6, 6)


def test_a_batch_has_the_documents_of_its_rows_and_the_places_of_its_tokens(prepared):
    dataset = open_dataset(*prepared)
    batch = read_batch(dataset, range(3, 9), torch.device("cpu"))
    places = [place_of(dataset.plan, index) for index in batch.indices]
    samples = [
        read_sample(dataset.streams[dataset.plan.keys[place.source]], place.sample, 32) for place in places
    ]
    assert batch.indices == range(3, 9) and batch.source.tolist() == [place.source for place in places]
    lengths = batch.documents.lengths
    assert lengths == tuple(size for sample in samples for size in sample.documents)
    assert sum(lengths) == batch.tokens.numel() and len(lengths) > 6
    assert batch.documents.ends.dtype == torch.int32
    assert batch.documents.ends.tolist() == [0, *np.cumsum(lengths).tolist()]
    assert batch.positions.tolist() == [[*range(32)]] * 6


def test_a_truncated_shard_is_refused_by_name(tmp_path):
    recipe = tiny_recipe(tmp_path)
    plan = prepare_version(recipe) / "plan"
    data = {name: tmp_path / "data" / name for name in ("a", "b")}
    shard = data["b"] / "00001.bin"
    shard.write_bytes(shard.read_bytes()[:-6])
    with pytest.raises(PerdureError, match=r"00001\.bin: truncated"):
        open_dataset(plan, data, {})


def test_a_sidecar_of_other_data_is_refused(tmp_path):
    recipe = tiny_recipe(tmp_path)
    plan = prepare_version(recipe) / "plan"
    data = {name: tmp_path / "data" / name for name in ("a", "b")}
    other = [[np.ones(len(document)) for document in random_documents(5, 60, 300)] for _ in range(2)]
    scores = {name: write_scores(tmp_path / "scores" / name, data[name], other) for name in data}
    with pytest.raises(PerdureError, match="belongs to other data"):
        open_dataset(plan, data, scores)


def test_a_sidecar_of_another_tokenizer_is_refused_naming_both_hashes(tmp_path):
    recipe = tiny_recipe(tmp_path)
    plan = prepare_version(recipe, scored=True) / "plan"
    data = {name: tmp_path / "data" / name for name in ("a", "b")}
    scores = {name: path / "scores" / "test" for name, path in data.items()}
    manifest = scores["b"] / "manifest.json"
    write_json(manifest, read_json(manifest) | {"tokenizer_hash": "other"})
    with pytest.raises(PerdureError, match=r"made with tokenizer_hash other, but .* has test"):
        open_dataset(plan, data, scores)


def read_whole(stream) -> np.ndarray:
    size = int(stream.ends[-1])
    tokens, _, valid, *_ = read_sample(stream, 0, size + 3)
    assert valid == size
    return tokens[1 : size + 1]


def test_heldout_documents_come_in_the_order_they_were_read(tmp_path):
    documents = random_documents(1, 5, 100)
    data = write_data(tmp_path / "data", [random_documents(0, 4, 100), []], documents, 100)
    held = heldout(data, "data", 10_000)
    stream, rows = open_heldout(data, held, 8)
    assert held.documents["bytes"].to_pylist() == [4 * len(document) for document in documents]
    assert rows.tolist() == [0, 1, 2, 3, 4] and held.all_documents == 5
    np.testing.assert_array_equal(read_whole(stream), np.concatenate(documents))


def test_a_piece_of_a_document_stands_where_it_would_in_all_of_it(tmp_path):
    """Behind as much of its document as a sample holds, before the separator; neither is measured."""
    long = np.append(np.arange(1, 400), EOS).astype(np.uint16)
    others = [np.full(4, 500 + number, np.uint16) for number in range(30)]
    for name, documents in (("one", [long, *others]), ("other", [*others[::-1], long])):
        data = write_data(tmp_path / name, [random_documents(0, 4, 100), []], documents, 600)
        held = heldout(data, name, 130)
        stream, rows = open_heldout(data, held, 8)
        tokens = read_whole(stream)
        (row,) = np.flatnonzero(held.documents["num_tokens"].to_numpy() == 400)
        parts, expected = np.split(tokens, stream.ends[:-1]), []
        for place, begin, stop in zip(held.rows, held.begins, held.stops):
            if place != row:
                expected.append((place, None))
                continue
            parts_of_it = [(-1, long[max(begin - 8, 0) : begin]), (row, long[begin:stop])]
            parts_of_it += [(-1, long[-1:])] if stop < 400 else []
            expected += [(number, part.tolist()) for number, part in parts_of_it if len(part)]
        found = [
            (number, part.tolist() if number in (row, -1) else None) for number, part in zip(rows, parts)
        ]
        assert found == expected
        # The same text in the same order, wherever it stands in the file.
        if name == "one":
            first, of = tokens, (held.documents["tokens"].to_pylist(), held.all_documents, held.all_tokens)
    np.testing.assert_array_equal(tokens, first)
    assert of == (held.documents["tokens"].to_pylist(), 31, 520)
    measured, size = held.documents["tokens"][row].as_py(), held.documents["bytes"][row].as_py()
    ends = int(held.stops[held.rows == row].max() == 400)
    assert 0 < measured <= 130 and size == round(1600 * (measured - ends) / 399)


def test_a_sample_reads_its_own_pages_alone(tmp_path):
    """The system is told not to read on around a page: `rr` in the flags of each map of the plan, shards and sidecars."""
    recipe = tiny_recipe(tmp_path, versions__v1__selection={"reference": "/unused"})
    plan = prepare_version(recipe, scored=True) / "plan"
    data = {name: tmp_path / "data" / name for name in ("a", "b")}
    dataset = open_dataset(plan, data, {name: path / "scores" / "test" for name, path in data.items()})
    flags: dict[str, set[str]] = {}
    path = ""
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            path = line.split()[-1] if str(tmp_path) in line else ""
        elif line.startswith("VmFlags:") and path:
            flags[path] = set(line.split()[1:])
    assert {Path(path).suffix for path in flags} == {".npy", ".bin", ".idx"}
    assert any("scores" in path for path in flags) and len(dataset.streams) == 2
    assert {path: found for path, found in flags.items() if "rr" not in found} == {}
