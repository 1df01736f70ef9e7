"""A version from its start to its export on a pretended GPU: training, held-out losses, checkpoints, resuming, export."""

import json
from pathlib import Path

import pytest
import torch
from gpu.layouts import SEQUENCE, SHARDED, STAGES, prepared, selection
from gpu.matching import first_stall
from gpu.outcome import cut_back, weights
from support import metrics, on_rank, start_ranks

RUN = {
    "training__checkpoint_interval": 1,
    "versions__v1__tokens": 16 * 4 * 2,
}


def on_gpu(version: Path, ranks: int) -> list[dict]:
    return on_rank("whole", version, script="gpu/pretended_ranks.py", ranks=ranks)


@pytest.mark.slow
@pytest.mark.parametrize(
    "layout",
    [selection("microbatch"), SHARDED | selection("global"), STAGES, SEQUENCE],
    ids=["one", "replicas", "stages", "tensors"],
)
def test_a_version_is_made_as_on_the_cpu_and_goes_on_bit_for_bit(tmp_path, layout):
    version, ranks = prepared(tmp_path / "cpu", RUN | layout)
    outcome = start_ranks(version, ranks)
    assert outcome.returncode == 0, outcome.stderr
    pretended, _ = prepared(tmp_path / "gpu", RUN | layout)
    seen = on_gpu(pretended, ranks)
    assert first_stall([rank["calls"] for rank in seen]) is None
    # Once for each of two checkpoints, when they are whole.
    assert [rank["emptied"] for rank in seen] == [{"pipeline.model.device.empty_host_cache": 2}] * ranks
    for one, other in zip(metrics(version), metrics(pretended), strict=True):
        assert other["loss"] == pytest.approx(one["loss"], rel=2e-3)
    expected, found = (
        json.loads((path / "eval.json").read_text())["domains"] for path in (version, pretended)
    )
    assert expected.keys() == found.keys() == {"a", "b"}
    for name, domain in expected.items():
        assert found[name]["tokens"] == domain["tokens"]
        assert found[name]["loss"] == pytest.approx(domain["loss"], rel=2e-3)
    record = json.loads((pretended / "version.json").read_text())
    assert record["device"] == "NVIDIA H100 80GB HBM3"
    exported, whole = weights(version), weights(pretended)
    assert exported.keys() == whole.keys() and len(whole) > 10
    for name, tensor in exported.items():
        # Two steps at a learning rate of 0.01: AdamW moves a weight by at most about that, whatever its gradient.
        assert (whole[name].float() - tensor.float()).abs().max() < 0.03, name

    cut_back(pretended, 1)
    on_gpu(pretended, ranks)
    again = weights(pretended)
    assert all(torch.equal(tensor, again[name]) for name, tensor in whole.items())
