"""Machine code of every kernel that the product launches, compiled for GPUs that need not be here, against budgets."""

import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from gpu.compiled import reports
from gpu.kernel_budgets import BUDGETS, over_budget
from support import on_rank

LOSS = ("statistics_kernel", "gradient_kernel")
OLDEST = Path(sys.prefix) / "triton-oldest"
"""The oldest Triton that is supported, where `make triton-oldest` has put it."""


def key(launch: dict) -> tuple[str, str, int]:
    """By which a launch has its budget."""
    return launch["kernel"], launch["purpose"], launch["capability"]


@pytest.fixture(scope="module")
def launches() -> list[dict]:
    """What the product launches, with its own tiles, options and specialisation."""
    return on_rank("launches", script="gpu/kernel_ranks.py")[0]


@pytest.mark.slow
def test_kernels_stay_within_their_budgets(launches):
    assert {key(launch) for launch in launches} == BUDGETS.keys()
    found = reports(launches)
    over = [line for launch, report in zip(launches, found) for line in over_budget(key(launch), report)]
    assert over == []
    for launch, report in zip(launches, found, strict=True):
        products = launch["kernel"] in LOSS and not launch["options"].get("CACHED")
        assert (report["tensor"] > 0) == (products and "bf16" in launch["purpose"]), launch


@pytest.mark.slow
@pytest.mark.skipif(not OLDEST.is_dir(), reason="no oldest Triton: make triton-oldest")
def test_the_oldest_triton_spills_nothing_either(launches):
    """Registers and programs are its own, spills are budgeted alike. Launches that specialise alike are left out."""
    chosen = [
        launch
        for launch in launches
        if launch["kernel"] in LOSS
        and not launch["purpose"].endswith(("z_loss", "odd vocabulary", "odd width"))
    ]
    over = []
    for launch, report in zip(chosen, reports(chosen, OLDEST), strict=True):
        assert report["triton"] != version("triton")
        over += [line for line in over_budget(key(launch), report) if "spills" in line]
    assert over == []


@pytest.mark.slow
def test_a_kernel_that_spills_breaks_its_budget(launches):
    launch = next(launch for launch in launches if launch["kernel"] == "statistics_kernel")
    squeezed = launch | {"options": launch["options"] | {"maxnreg": 128}}
    (found,) = reports([squeezed])
    assert found["spills"] > 0
    assert any("spills" in line for line in over_budget(key(launch), found))
