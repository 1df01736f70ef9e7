"""Machine code of every kernel that the product launches, compiled for GPUs that need not be here, against budgets."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from gpu.kernel_budgets import BUDGETS, over_budget
from gpu.layouts import prepared
from support import on_rank

SCRIPT = Path(__file__).with_name("compile_launches.py")
LOSS = ("statistics_kernel", "gradient_kernel")


def reports(launches: list[dict], *capabilities: int) -> list[dict[str, dict]]:
    """Of each launch, by capability, what its machine code needs and does."""
    outcome = subprocess.run(
        [sys.executable, str(SCRIPT)],
        input=json.dumps({"launches": launches, "capabilities": capabilities}),
        capture_output=True,
        text=True,
        env=os.environ | {"TRITON_INTERPRET": "0"},
    )
    assert outcome.returncode == 0, outcome.stderr
    return json.loads(outcome.stdout)


@pytest.fixture(scope="module")
def launches() -> list[dict]:
    """What the product launches, with its own tiles, options and specialisation."""
    return on_rank("launches", script="gpu/pretended_ranks.py")[0]


@pytest.mark.slow
def test_kernels_stay_within_their_budgets(launches):
    half = [launch for launch in launches if "bf16" in launch["purpose"]]
    found: dict[tuple[str, str, int], list[dict]] = {}
    for members, capabilities in ((launches, (90,)), (half, (80, 100))):
        for launch, by_capability in zip(members, reports(members, *capabilities), strict=True):
            for capability, report in by_capability.items():
                key = launch["kernel"], launch["purpose"], int(capability)
                found.setdefault(key, []).append(report)
    assert found.keys() == BUDGETS.keys()
    assert [line for key, both in found.items() for report in both for line in over_budget(key, report)] == []
    for (kernel, purpose, _), both in found.items():
        assert all((report["tensor"] > 0) == (kernel in LOSS and "bf16" in purpose) for report in both)


@pytest.mark.slow
def test_a_kernel_that_spills_breaks_its_budget(launches):
    launch = next(launch for launch in launches if launch["kernel"] == "statistics_kernel")
    squeezed = launch | {"options": launch["options"] | {"maxnreg": 128}}
    key = launch["kernel"], launch["purpose"], 90
    (found,) = reports([squeezed], 90)
    assert found["90"]["spills"] > 0
    assert any("spills" in line for line in over_budget(key, found["90"]))


@pytest.mark.slow
def test_launches_of_a_training_step_compile(tmp_path):
    version, _ = prepared(tmp_path, {"training__document_mask": True})
    (ranks,) = on_rank("train", version, True, 1, script="gpu/pretended_ranks.py")
    recorded = list({json.dumps(launch): launch for launch in ranks[0]["launches"]}.values())
    found = reports(recorded, 90)
    assert {launch["kernel"] for launch in recorded} > set(LOSS)
    for launch, report in zip(recorded, found, strict=True):
        assert report["90"]["spills"] == 0, launch
