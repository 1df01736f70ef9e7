"""Scopes of the selection and implementations of the loss, trained for real under several layouts."""

import pytest
from support import on_rank
from tiny import prepare_version, tiny_recipe

from perdure.pipeline.model.layout import layout_of

pytestmark = pytest.mark.slow

SCOPES = ("sequence", "microbatch", "dp_microbatch", "global", "global_lagged")
LAYOUTS = {
    "one": {},
    "tp2": {"tensor_parallel": 2, "sequence_parallel": True},
    "dp2": {"data_parallel": 2, "distributed_optimizer": True},
    "tp2_dp2": {"tensor_parallel": 2, "data_parallel": 2},
    "pp2": {"pipeline_parallel": 2},
}
CASES = [{"scope": scope} for scope in SCOPES] + [{"scope": "microbatch", "main_grad": True}]
STEPS = 3


def trained(out, cases, steps, **changes):
    recipe = tiny_recipe(out, versions__v1__selection={"k": 0.6, "reference": "/unused"}, **changes)
    directory = prepare_version(recipe, scored=True)
    return on_rank("train_cases", directory, cases, steps, ranks=layout_of(recipe).world_size)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    out = tmp_path_factory.mktemp("scopes")
    return {
        name: dict(zip([*SCOPES, "main_grad"], trained(out / name, CASES, STEPS, parallel=layout)))
        for name, layout in LAYOUTS.items()
    }


def parts(told, *names):
    return [[step[name] for name in names] for step in told]


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name != "one"])
def test_all_layouts_select_the_same_tokens(runs, layout, scope):
    # This one pools what two replicas do at the same time.
    pooled = scope == "dp_microbatch" and "dp2" in layout
    expected, found = runs["dp2" if pooled else "one"][scope], runs[layout][scope]
    assert parts(found, "stream", "selection") == parts(expected, "stream", "selection")
    for left, right in zip(expected, found):
        assert right["loss"] == pytest.approx(left["loss"], abs=1e-4)
    if pooled:
        assert parts(found[:1], "stream") == parts(runs["one"][scope][:1], "stream")
        assert parts(found[:1], "selection") != parts(runs["one"][scope][:1], "selection")


def test_the_scopes_differ_and_select_the_share_that_they_promise(runs):
    by_scope = runs["dp2"]
    assert len({by_scope[scope][1]["selection"] for scope in SCOPES}) == len(SCOPES)
    lagged = by_scope["global_lagged"][0]  # has no batch before it
    assert lagged["selection"] == by_scope["global"][0]["selection"]
    for scope in SCOPES:
        for number, step in enumerate(by_scope[scope]):
            if scope == "global":
                assert step["selected"] == int(0.6 * step["tokens"] + 0.5)
            elif scope == "global_lagged" and number > 0:
                assert step["selected"] == pytest.approx(0.6 * step["tokens"], rel=0.25)
            else:
                assert step["selected"] == pytest.approx(0.6 * step["tokens"], abs=8)
            assert (step["threshold"] is not None) == (scope == "global_lagged")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_weight_gradients_straight_into_main_grad_are_the_same(runs, layout):
    """Tied embeddings: on one stage the embedding's gradient is added to the output layer's, on two it is all-reduced."""
    for left, right in zip(runs[layout]["microbatch"], runs[layout]["main_grad"], strict=True):
        assert right == left | {
            "loss": pytest.approx(left["loss"], abs=1e-5),
            "grad_norm": pytest.approx(left["grad_norm"], abs=1e-5),
        }


def test_all_implementations_of_the_loss_train_alike(tmp_path, monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    found = {
        name: trained(
            tmp_path / name,
            [{}] + [{"z_loss": 0.0}] * (name == "torch"),
            10,
            training__loss_implementation=name,
            training__z_loss=1e-3,
            training__global_batch_size=2,
            training__micro_batch_size=1,
        )
        for name in ("torch", "chunked", "triton")
    }
    for name in ("chunked", "triton"):
        for left, right in zip(found["torch"][0], found[name][0], strict=True):
            assert right["selection"] == left["selection"]
            assert right["loss"] == pytest.approx(left["loss"], abs=1e-5)
            # AdamW turns gradients that are nothing but rounding into whole steps.
            assert right["grad_norm"] == pytest.approx(left["grad_norm"], rel=1e-3)
    with_z, without = (told[0] for told in found["torch"])
    assert with_z["loss"] == without["loss"]
    assert with_z["grad_norm"] != without["grad_norm"]  # of the same weights and data
