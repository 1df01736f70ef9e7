"""One step against sums written out: counts, samples of ranks, the mean that is trained on, clipping, decay, agreement."""

import pytest
import torch
from support import on_rank
from tiny import prepare_version, tiny_recipe

from perdure.kernels import SelectiveLoss
from perdure.pipeline.core.files import write_atomic, write_json
from perdure.pipeline.core.shards import REF_MISSING
from perdure.pipeline.model.documents import documents_of
from perdure.pipeline.train.batch import Batch
from perdure.pipeline.train.objectives.lm import LanguageModeling

SELECTION = {"k": 0.6, "reference": "/unused"}


def test_counts_of_a_micro_batch_by_hand():
    """Two sources of which the second is replayed: it is neither selected nor unscored, whatever the reference says of it."""
    valid = torch.tensor([[True, True, True, False], [True, True, True, True], [True, True, False, False]])
    reference = torch.full((3, 4), 1000, dtype=torch.int32)
    reference[0, 1] = reference[1] = REF_MISSING  # one token of new data, and all that is replayed
    reference[0, 3] = REF_MISSING  # padding
    batch = Batch(
        indices=range(3),
        tokens=torch.zeros(3, 4, dtype=torch.int64),
        labels=torch.arange(12).view(3, 4),
        valid=valid,
        positions=torch.arange(4).expand(3, 4),
        documents=documents_of((4, 4, 4), torch.device("cpu")),
        reference=reference,
        source=torch.tensor([0, 1, 0]),
        replayed=torch.tensor([False, True, False]),
    )
    nll = torch.tensor([[1.0, 2.0, 4.0, 8.0], [16.0, 32.0, 64.0, 128.0], [0.5, 0.25, 99.0, 99.0]])
    selected = valid.clone()
    selected[0, 1] = selected[2, 1] = False
    total, number, told = LanguageModeling().reduce(SelectiveLoss(10 * nll, selected, nll), batch, 2)
    assert float(total) == 10 * (1 + 4 + 240 + 0.5) and int(number) == 7
    # Tokens, losses and what was read by source; selected tokens of new data and their loss; tokens of new data without a
    # score.
    assert told["sums"].tolist() == [5, 4, 7.75, 240, 5, 4, 3, 5.5, 1]


def prepared(out, ranks: int = 1, **changes):
    recipe = tiny_recipe(out, parallel={"data_parallel": ranks}, **changes)
    return prepare_version(recipe, scored=True)


@pytest.mark.slow
@pytest.mark.parametrize(("scope", "pooled"), [("microbatch", 1), ("dp_microbatch", 2)])
def test_two_ranks_train_on_what_competes_among_consecutive_samples(tmp_path, scope, pooled):
    """Micro-batch m of rank r are the samples from 2 (2 m + r) on: under `dp_microbatch` four consecutive ones compete."""
    changes = {"versions__v1__selection": SELECTION | {"scope": scope}, "training__clip_grad": 0.0}
    version = prepared(tmp_path, 2, **changes)
    found = on_rank("first_step", version, script="step_ranks.py", ranks=2)
    assert found["read"] == [[[0, 1], [4, 5]], [[2, 3], [6, 7]]]
    expected = on_rank("by_hand", prepared(tmp_path / "one", **changes), pooled, script="step_ranks.py")
    counts = found["counts"]
    assert (counts["selection"], counts["selected_tokens"]) == (expected["selection"], expected["selected"])
    assert sum(counts["tokens"]) == expected["tokens"] > expected["selected"]
    assert counts["selected_loss"] == pytest.approx(expected["selected_loss"], rel=1e-5)
    # The gradient is that of the mean over all selected tokens, on however many ranks they are.
    assert found["grad_norm"] == pytest.approx(expected["grad_norm"], rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("distributed", [False, True])
def test_gradients_are_clipped_to_their_norm_and_matrices_decay(tmp_path, distributed):
    """After one step the first moments are (1 - beta1) times the clipped gradient; without one a matrix shrinks by 1 - lr
    decay."""
    for clip in (0.5, 0.0):
        layout = {"data_parallel": 1, "distributed_optimizer": distributed}
        recipe = tiny_recipe(
            tmp_path / str(clip), parallel=layout, training__clip_grad=clip, training__adam_beta1=0.8
        )
        version = prepare_version(recipe, scored=True)
        found = on_rank("one_update", version, 0.01, 0.5, script="step_ranks.py")
        assert found["grad_norm"] > 1
        norm = clip or found["grad_norm"]
        assert found["moments"] == pytest.approx(0.2 * norm, rel=1e-4)
        for name, factor in found["factors"].items():
            assert factor == pytest.approx(1.0 if "norm" in name else 1 - 0.01 * 0.5, rel=1e-6), name


@pytest.mark.slow
def test_ranks_act_on_what_one_of_them_noticed_and_on_what_the_first_finds(tmp_path):
    for number in (5, 10):
        path = tmp_path / "checkpoints" / f"step_{number:06d}"
        write_json(path / "state.json", {"step": number})
        write_atomic(path / "_SUCCESS", "")
    first, second = on_rank("agreements", tmp_path, script="step_ranks.py", ranks=2)
    assert first[:3] == second[:3] == [[1, 5, 0], "step_000005", None]
    assert first[3] == second[3]
    assert "reads step 5 (" in first[3] and "reads step 5 (01234567)" in first[3]
    # A last bit that differs is the same on both, and what is no number on one of them is none on both.
    assert first[4] == second[4] == [[8.0], [2.0 + 2.0**-50], 4.0, "nan", 0.5]
