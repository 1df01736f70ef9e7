"""The benchmark works from its first line to its last; its numbers mean something on a GPU only."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from perdure.kernels.bench import errors, is_exact, make_problem


@pytest.mark.slow
def test_the_benchmark_runs_and_finds_every_method_exact(tmp_path: Path):
    command = [sys.executable, "-m", "perdure.kernels.bench", "--tiny", "--out", str(tmp_path / "out.json")]
    outcome = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | {"TRITON_INTERPRET": "1"}
    )
    assert outcome.returncode == 0, outcome.stderr
    report = json.loads((tmp_path / "out.json").read_text())
    exact = {row["method"]: row["grad_weight"] for row in report["errors"] if row["head"] == "tiny"}
    assert exact.keys() >= {"triton", "cached", "chunked", "torch", "eager"}
    assert exact["triton"] < 1e-5 < exact["cached"] < 1e-2
    timed = {(row["method"], row["k"]) for row in report["timings"]}
    assert timed >= {("triton", 0.6), ("triton", 1.0), ("scoring, triton", 0.6), ("eager", 1.0)}
    assert all(row["ms"] > 0 for row in report["timings"] + report["elementwise"])
    assert {(row["operation"], row["impl"]) for row in report["elementwise"]} == {
        (operation, impl) for operation in ("rotary", "swiglu") for impl in ("triton", "torch")
    }
    assert [(row["parts"], row["k"]) for row in report["steps"]] == [
        ("perdure", 1.0),
        ("perdure", 0.6),
        ("megatron", 1.0),
    ]
    assert all(row["ms"] > 0 and row["tokens_per_second"] > 0 and row["mb"] > 0 for row in report["steps"])
    losses = [row["loss"] for row in report["steps"]]
    assert losses[2] == pytest.approx(losses[0], abs=1e-5)  # they do the same
    assert outcome.stdout.count("| tiny |") == sum(
        len(report[part]) for part in ("errors", "timings", "steps")
    )


@pytest.mark.parametrize("where", ["nothing", "loss", "one loss", "grad_hidden", "grad_weight"])
def test_what_is_wrong_or_no_number_anywhere_is_not_exact(where):
    """A plain loss in float64, of which one number is replaced."""
    problem = make_problem(8, 20, 300, torch.float64, torch.device("cpu"))

    def method(problem, _k):
        logits = problem.hidden[0] @ problem.weight.t()
        nll = torch.nn.functional.cross_entropy(logits, problem.labels[0], reduction="none")[None]
        nll.sum().backward()
        nll = nll.detach()
        wrong = {"loss": nll, "grad_hidden": problem.hidden.grad[0], "grad_weight": problem.weight.grad}
        if where in wrong:
            wrong[where][0, 3] = torch.nan
        elif where == "one loss":
            nll[0, 3] += 0.01
        return nll, torch.ones_like(problem.labels, dtype=torch.bool)

    assert is_exact(errors(method, problem, 1.0), 1e-5) is (where == "nothing")
