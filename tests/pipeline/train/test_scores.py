"""What the selection of each kind of score subtracts, as the dataset reads it."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from tiny import prepare_version, tiny_recipe, write_shard

from perdure.kernels import select_tokens
from perdure.pipeline.core.files import read_json
from perdure.pipeline.core.shards import REF_MISSING, open_shard
from perdure.pipeline.recipe import Selection
from perdure.pipeline.train.dataset import open_dataset, read_batch
from perdure.pipeline.train.objectives.lm import LanguageModeling
from perdure.pipeline.train.scores import made_reference, smoothed
from perdure.pipeline.train.streams import read_sample

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A plan, its data, and scores with entropies: half the loss of even documents, twice that of odd ones."""
    from pathlib import Path

    directory = prepare_version(tiny_recipe(tmp_path_factory.mktemp("scores")), scored=True)
    inputs = read_json(directory / "inputs.json")
    data, scores = ({name: Path(path) for name, path in inputs[part].items()} for part in ("data", "scores"))
    for path in scores.values():
        for index in path.glob("*.ref.idx"):
            losses = open_shard(index.with_suffix(""))
            documents = np.split(np.array(losses.values), np.cumsum(losses.lengths)[:-1])
            documents[0][0] = REF_MISSING
            entropies = [
                np.minimum(losses * (2.0 if number % 2 else 0.5), 60_000).astype(np.uint16)
                for number, losses in enumerate(documents)
            ]
            write_shard(index.with_suffix(""), documents)
            write_shard(path / index.name.replace(".ref.idx", ".ent"), entropies)
    return directory / "plan", data, scores


def references(prepared, score: str, indices: range = range(8)) -> np.ndarray:
    selection = Selection(score=score, reference="x" if score in ("reference_loss", "excess") else None)
    dataset = open_dataset(*prepared, objective=LanguageModeling(selection))
    return read_batch(dataset, indices, CPU).reference.numpy()


def test_a_score_subtracts_its_sidecar_or_the_larger_of_two(prepared):
    plain = read_batch(open_dataset(*prepared), range(8), CPU).reference.numpy()
    loss, entropy, both = (
        references(prepared, f"{name}") for name in ("excess", "reference_entropy", "intersection")
    )
    assert (loss == plain).all() and (references(prepared, "reference_loss") == plain).all()
    assert (entropy != loss).mean() > 0.9
    assert (both == np.maximum(loss, entropy)).all()
    assert (both > loss).any() and (both > entropy).any()
    missing = (loss == REF_MISSING) | (entropy == REF_MISSING)
    assert (both[missing] == REF_MISSING).all()


def test_random_scores_depend_on_seed_sample_and_place_alone(prepared):
    together = references(prepared, "random", range(8))
    apart = np.concatenate([references(prepared, "random", range(i, i + 2)) for i in (0, 2, 4, 6)])
    assert (together == apart).all()
    assert together.min() > REF_MISSING and len(np.unique(together)) == together.size
    random = Selection(score="random")
    assert (made_reference(random, 1, range(8), 32) != made_reference(random, 2, range(8), 32)).all()
    values = torch.from_numpy(made_reference(random, 0, range(4000), 32))
    assert len(torch.unique(values * 1e-3)) == len(torch.unique(values)), "float32 keeps them apart"
    # Every place is as likely as any other: the share selected at each is k, by the binomial distribution.
    selected = select_tokens(
        None,
        values * 1e-3,
        torch.ones_like(values, dtype=torch.bool),
        k=0.6,
    )
    deviation = (selected.float().mean(0) - 0.6).abs().max()
    assert deviation < 5 * (0.24 / 4000) ** 0.5


def test_the_control_by_the_highest_loss_subtracts_nothing(prepared):
    assert (references(prepared, "highest_loss") == 0).all()


def test_smoothing_is_the_mean_of_the_neighbours_there_are():
    units = np.array([4, 8, REF_MISSING, 0, 6], np.uint16)
    assert smoothed(units, 1).tolist() == [6, 6, REF_MISSING, 3, 3]
    assert smoothed(units, 9).tolist() == [4, 4, REF_MISSING, 4, 4]


def test_a_smoothed_score_sees_its_whole_document_and_no_other(prepared):
    """Samples of 32 tokens, cut anywhere: the same numbers as from whole documents."""
    stream, plain = (
        open_dataset(
            *prepared, objective=LanguageModeling(Selection(score="intersection", smoothing=width))
        ).streams["a"]
        for width in (5, None)
    )
    reads = [
        np.concatenate([read_sample(each, number, 32)[1] for number in range(40)]) for each in (stream, plain)
    ]
    starts = [0, *stream.ends[stream.ends < 40 * 32]]  # without the last document, which may be cut off
    pieces = [slice(*bounds) for bounds in pairwise(starts)]
    assert len(pieces) > 3
    for piece in pieces:
        assert (reads[0][piece] == smoothed(reads[1][piece], 5)).all()
