"""The KL anchor in one step of real ranks: exactly nothing against itself, new data untouched, and torch's own divergence."""

import pytest
import torch
from support import on_rank
from tiny import prepare_version, tiny_recipe

from perdure.kernels import SelectiveLoss
from perdure.pipeline.model.layout import layout_of
from perdure.pipeline.recipe import KLAnchor
from perdure.pipeline.train.batch import Sample, collate, on_device
from perdure.pipeline.train.objectives.kl import AnchoredLanguageModeling

ON_ALL, ON_REPLAYED = {"on": "all"}, {"on": "replayed"}
MOL = ON_REPLAYED | {"instead_of_loss": True}
MIXTURE = {"sources": {"a": {}}, "replay": {"share": 0.25, "sources": {"b": {}}}, "max_repetition": 100}
LAYOUTS = {
    "one": {},
    "tp2": {"tensor_parallel": 2},
    "tp2_sequence": {"tensor_parallel": 2, "sequence_parallel": True},
    "pp2_recompute": {"pipeline_parallel": 2, "recompute": True},
    "dp2_distributed": {"data_parallel": 2, "distributed_optimizer": True},
}


def prepared(out, parallel=None, **changes):
    recipe = tiny_recipe(out, parallel=parallel or {}, versions__v1__mixture=MIXTURE, **changes)
    return prepare_version(recipe, scored=True), layout_of(recipe).world_size


def steps(version, ranks, anchors, seed=None):
    arguments = [version, anchors] if seed is None else [version, anchors, seed]
    return on_rank("first_steps", *arguments, script="kl_ranks.py", ranks=ranks)


@pytest.mark.slow
@pytest.mark.parametrize("layout", list(LAYOUTS))
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_against_its_own_weights_divergence_and_gradient_are_exactly_nothing(tmp_path, layout, precision):
    changes = {"training__precision": precision, "training__document_mask": True}
    version, ranks = prepared(tmp_path, LAYOUTS[layout], **changes)
    plain, everywhere = steps(version, ranks, [None, ON_ALL])
    assert plain["kl"] is None and everywhere["kl"][0] == 0 < everywhere["kl"][1]
    for key in ("gradients", "samples", "loss", "grad_norm"):
        assert everywhere[key] == plain[key], key


@pytest.mark.slow
@pytest.mark.parametrize("selection", [None, {"k": 0.5, "reference": "/unused", "scope": "global"}])
def test_new_data_has_the_same_gradient_where_replay_alone_is_compared(tmp_path, selection):
    version, _ = prepared(tmp_path, versions__v1__selection=selection)
    plain, beside, instead = steps(version, 1, [None, ON_REPLAYED, MOL], 77)
    for found in (beside, instead):
        assert found["selection"] == plain["selection"]
        replayed = [replayed for replayed, _ in found["samples"][0]]
        pairs = list(zip(replayed[::2], replayed[1::2], strict=True))
        assert (True, False) in pairs or (False, True) in pairs  # one micro-batch has both
        assert found["ran"] == [sum(map(any, pairs))] and found["kl"][0] > 0
        for (replayed, theirs), (_, ours) in zip(plain["samples"][0], found["samples"][0], strict=True):
            assert (ours != theirs) == replayed
    assert beside["samples"] != instead["samples"]


@pytest.mark.slow
@pytest.mark.parametrize("layout", list(LAYOUTS))
def test_gradient_and_divergence_are_those_of_all_logits(tmp_path, layout):
    version, ranks = prepared(tmp_path, LAYOUTS[layout])
    single, _ = prepared(tmp_path / "one")
    anchors = [anchor | {"weight": 0.7} for anchor in (ON_ALL, ON_REPLAYED, MOL)]
    found = steps(version, ranks, anchors, 77)
    for anchor, own in zip(anchors, found, strict=True):
        expected = on_rank("by_hand", single, anchor, 77, script="kl_ranks.py")
        assert own["kl"][1] == expected["kl"][1]
        assert own["kl"][0] == pytest.approx(expected["kl"][0], rel=1e-5)
        assert own["grad_norm"] == pytest.approx(expected["grad_norm"], rel=1e-4)


class Recorded:
    """A teacher that remembers which micro-batches it was asked about."""

    output_weight = torch.eye(3)

    def __init__(self):
        self.asked = []

    def hidden_states(self, batches):
        self.asked += [batch.indices.start for batch in batches]
        return [torch.full((2, 4, 3), float(batch.indices.start)) for batch in batches]


def batch_of(first: int, replayed: list[bool]):
    sample = Sample(torch.arange(5).numpy(), torch.zeros(4).int().numpy(), 3, (4,))
    return on_device(collate(range(first, first + 2), [sample] * 2, replayed=replayed), torch.device("cpu"))


def prepare(anchor: dict, batches: list):
    objective = AnchoredLanguageModeling(anchor=KLAnchor(type="kl", **anchor), teacher=Recorded())
    return objective, list(objective.prepare(iter(batches), pytest.fail))


BATCHES = [batch_of(0, [False, False]), batch_of(2, [False, True]), batch_of(4, [True, True])]


def test_the_teacher_sees_the_micro_batches_that_hold_what_is_compared():
    objective, found = prepare(ON_REPLAYED, BATCHES)
    assert objective.teacher.asked == [2, 4]
    assert found[0].teacher_hidden is None
    assert [float(batch.teacher_hidden[0, 0, 0]) for batch in found[1:]] == [2.0, 4.0]
    objective, _ = prepare(ON_ALL, BATCHES)
    assert objective.teacher.asked == [0, 2, 4]


@pytest.mark.parametrize(("anchor", "weights"), [(ON_ALL, [0.5, 0.5]), (ON_REPLAYED, [0.0, 0.5])])
def test_weights_stand_on_valid_tokens_of_what_is_compared(anchor, weights):
    objective, (_, mixed, _) = prepare(anchor | {"weight": 0.5}, BATCHES)
    options = objective.loss_options(mixed)
    assert options["kl_weight"].dtype == torch.float32
    assert options["kl_weight"].tolist() == [[weight] * 3 + [0.0] for weight in weights]
    assert "token_weight" not in options
    assert options["teacher_hidden"] is mixed.teacher_hidden


def test_in_place_of_the_loss_replayed_tokens_have_none_and_micro_batches_of_new_data_are_plain():
    objective, (new, mixed, _) = prepare(MOL, BATCHES)
    assert objective.loss_options(mixed)["token_weight"].tolist() == [[1.0] * 4, [0.0] * 3 + [1.0]]
    assert objective.loss_options(new) == {"valid": new.valid, "selected": None}


def test_the_sum_is_divided_by_all_trained_tokens_and_the_divergence_counted_without_its_weight():
    objective, (_, mixed, _) = prepare(MOL | {"weight": 10.0}, BATCHES)
    nll, kl = torch.ones(2, 4), torch.tensor([[0.0] * 4, [1.0, 2.0, 3.0, 0.0]])
    loss = torch.tensor([[1.0] * 3 + [0.0], [10.0, 20.0, 30.0, 0.0]])
    total, number, told = objective.reduce(SelectiveLoss(loss, mixed.valid, nll, kl), mixed, 1)
    assert (float(total), int(number)) == (63.0, 6)
    assert told["kl"].tolist() == [6.0, 3.0] and objective.sums == {"kl": 2}
    assert told["sums"][:2].tolist() == [6.0, 6.0]


def test_a_token_that_selection_leaves_out_has_its_divergence_in_the_sum():
    objective, (new, *_) = prepare(ON_ALL | {"weight": 2.0}, BATCHES)
    selected = new.valid & torch.tensor([[False, True, True, True], [True] * 4])
    nll, kl = torch.ones(2, 4), 3.0 * new.valid
    total, number, told = objective.reduce(SelectiveLoss(nll * selected + 2 * kl, selected, nll, kl), new, 1)
    assert (float(total), int(number)) == (5 + 36.0, 5)
    assert told["kl"].tolist() == [18.0, 6.0]
