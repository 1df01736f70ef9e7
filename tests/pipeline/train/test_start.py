"""What a run says as it begins."""

import pytest
from tiny import tiny_recipe

from perdure.pipeline.train.start import adopt_layout
from perdure.pipeline.train.state import TrainState


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
