"""What a run says as it begins."""

from dataclasses import replace

import pytest
from tiny import tiny_recipe

from perdure.pipeline.model.choices import Choices
from perdure.pipeline.train.start import adopt_kernels, adopt_layout
from perdure.pipeline.train.state import TrainState, state_of_json


@pytest.mark.parametrize(
    "selection, parallel, words",
    [
        (None, {"data_parallel": 2}, "equal to rounding"),
        ({"scope": "dp_microbatch"}, {"tensor_parallel": 2}, "equal to rounding"),
        ({"scope": "global"}, {"data_parallel": 2}, "equal to rounding"),
        ({"scope": "dp_microbatch", "k": 1}, {"data_parallel": 2}, "equal to rounding"),
        ({"scope": "dp_microbatch"}, {"data_parallel": 2}, "other tokens are selected"),
    ],
)
def test_another_layout_is_told_for_what_it_is(selection, parallel, words, said):
    before = tiny_recipe("unused").parallel.model_dump()
    chosen = selection and {"score": "random"} | selection
    recipe = tiny_recipe("unused", parallel=parallel, versions__v1__selection=chosen)
    state = adopt_layout(recipe, "v1", TrainState(parallel=before))
    (line,) = said
    assert words in line and f"{next(iter(parallel))}: 1 -> 2" in line
    assert state.parallel == recipe.parallel.model_dump()
    assert adopt_layout(recipe, "v1", state) == state and len(said) == 1


def test_a_checkpoint_of_before_there_were_fields_has_the_same_layout(said):
    recipe = tiny_recipe("unused", parallel={"data_parallel": 2, "recompute": "full"})
    new = ("overlap_grad_reduce", "overlap_param_gather")
    old = {name: value for name, value in recipe.parallel.model_dump().items() if name not in new}
    state = adopt_layout(recipe, "v1", TrainState(parallel=old | {"recompute": True}))
    assert not said and state.parallel == recipe.parallel.model_dump()


PLAIN = Choices("flash2", "local", None, True, {"torch": "2.13.0"})
EIGHT_BITS = {"recipe": "current", "first_last_layers_bf16": True}
EIGHT_BITS |= {"num_layers_at_start_in_bf16": 1, "num_layers_at_end_in_bf16": 2}
OTHER = Choices(
    "flash2", "transformer_engine", EIGHT_BITS, True, {"torch": "2.14.1", "transformer_engine": "2.8.0"}
)


def test_what_computes_is_kept_and_a_change_is_told(said, monkeypatch):
    monkeypatch.setattr("torch.distributed.get_rank", lambda: 0)
    old = adopt_kernels(PLAIN, TrainState(step=3))  # a checkpoint of before does not say
    assert old.kernels == [{"step": 3, **PLAIN.as_json()}] and said == []
    assert adopt_kernels(PLAIN, old) == old and said == []
    new = adopt_kernels(OTHER, TrainState(step=7, kernels=old.kernels))
    assert new.kernels == [{"step": 3, **PLAIN.as_json()}, {"step": 7, **OTHER.as_json()}]
    (line,) = said
    assert line == (
        "what computes changed (linears local -> transformer_engine; fp8 none -> current, the first 1 and the last 2 layers in "
        "bf16; torch 2.13.0 -> 2.14.1; transformer_engine not used -> 2.8.0): from here on equal to rounding, no longer bit "
        "for bit, to a run that kept it"
    )
    assert state_of_json(new.as_json()) == new
    assert new.rolled_back(old).kernels == new.kernels


def test_each_start_from_a_checkpoint_says_that_delayed_scales_begin_anew(said, monkeypatch):
    monkeypatch.setattr("torch.distributed.get_rank", lambda: 0)
    delayed = replace(OTHER, fp8=EIGHT_BITS | {"recipe": "delayed"}, deterministic=False)
    fresh = adopt_kernels(delayed, TrainState(step=0))
    assert said == []
    adopt_kernels(delayed, replace(fresh, step=5))
    (line,) = said
    assert "delayed: its scales are in no checkpoint and begin anew" in line
