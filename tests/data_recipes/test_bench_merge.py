"""The measurement of large merges, at a small size."""

import torch

from perdure.data_recipes.bench_merge import SHARES, compare, merge_measured, write_model
from perdure.pipeline.model.huggingface import tensor_files, weights_reader


def test_a_small_merge_is_measured_and_compared(tmp_path):
    for seed, name in enumerate(SHARES):
        write_model(tmp_path / name, 0.002, seed, width=128, shard=500_000)
    found = merge_measured(tmp_path, "linear")
    assert 0 < found["before"] <= found["peak"] and found["seconds"] > 0
    assert len(set(tensor_files(tmp_path / "merged").values())) > 1
    assert compare(tmp_path) > 1_000
    read = weights_reader(tmp_path / "first")
    assert torch.isfinite(read("model.embed_tokens.weight")).all()
