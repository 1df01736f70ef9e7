"""Training on a pretended GPU: CUDA's branches with real numbers, under every option and layout, against the CPU's."""

import json

import pytest
from gpu.compiled import reports
from gpu.layouts import LAYOUTS, OPTIONS, prepared
from gpu.matching import first_stall
from gpu.outcome import mean_loss
from support import on_rank

KERNELS = {
    "_rotate_kernel",
    "_swiglu_kernel",
    "_swiglu_backward_kernel",
    "statistics_kernel",
    "gradient_kernel",
}


COMPILED = "documents"
"""Of whose steps every launch is compiled, as it was launched."""


@pytest.mark.slow
@pytest.mark.parametrize("name", [*OPTIONS, *LAYOUTS])
def test_steps_on_the_gpu_are_those_of_the_cpu(tmp_path, name):
    changes = (OPTIONS | LAYOUTS)[name]
    version, ranks = prepared(tmp_path, changes)
    computed = "interpreted" if name in OPTIONS or name == "tensors" else "by torch"
    on_cpu, on_gpu = (
        on_rank("train", version, pretended, 2, computed, script="gpu/pretended_ranks.py", ranks=ranks)
        for pretended in (False, True)
    )
    exact = changes.get("training__precision") == "fp32"
    for step, (expected, found) in enumerate(zip(on_cpu[0], on_gpu[0], strict=True)):
        assert found["stream"] == expected["stream"]
        assert found["selected_tokens"] == pytest.approx(expected["selected_tokens"], abs=0 if exact else 2)
        assert mean_loss(found) == pytest.approx(
            mean_loss(expected), rel=1e-6 if exact else (5e-4, 2e-3)[step]
        )
        assert found["grad_norm"] == pytest.approx(expected["grad_norm"], rel=1e-5 if exact else 1e-2)
        if exact:
            assert found["selection"] == expected["selection"]
    launched = {launch["kernel"] for rank in on_gpu for launch in rank[-1]["launches"]}
    loss = {"statistics_kernel", "gradient_kernel"} if name == "chunked" else set()
    assert launched == KERNELS - loss
    assert not any(rank[-1]["launches"] or rank[-1]["waits"] for rank in on_cpu)
    assert first_stall([rank[-1]["calls"] for rank in on_gpu]) is None
    for other in on_gpu[1:]:
        assert [step["loss"] for step in other] == [step["loss"] for step in on_gpu[0]]
    if name == COMPILED:
        recorded = {json.dumps(launch): launch for launch in on_gpu[0][-1]["launches"]}.values()
        for report in reports([launch | {"capability": 90} for launch in recorded]):
            assert report["spills"] == 0, report
