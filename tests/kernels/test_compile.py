"""The loss's kernels compile for a GPU, which Triton does without one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_kernels_compile_for_hopper_to_pipelined_tensor_core_code():
    script = Path(__file__).parents[1] / "kernel_compile.py"
    outcome = subprocess.run(
        [sys.executable, str(script), "90"],
        capture_output=True,
        text=True,
        env=os.environ | {"TRITON_INTERPRET": "0"},
    )
    assert outcome.returncode == 0, outcome.stderr
    found = json.loads(outcome.stdout)
    assert found.keys() == {
        f"{kernel}{teacher}" for kernel in ("statistics", "gradient") for teacher in ("", ", teacher")
    }
    for kernel in found.values():
        assert kernel["wgmma"] > 0 and kernel["cp_async"] > 0
        assert kernel["shared"] <= 227 << 10
