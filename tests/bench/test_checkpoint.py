"""What a save costs training: asynchronous and synchronous side by side, for a model of 135 million parameters.

Two costs are told apart: how long training waits, and how long the next update of all weights and moments takes, which
after an asynchronous save shares the cores with the writers and copies the memory that it changes.
"""

import statistics
from pathlib import Path

import pytest
from support import on_rank, prepare_version, tiny_recipe

ROUNDS = 3
SHAPE = {
    "type": "llama",
    "num_layers": 30,
    "hidden_size": 576,
    "ffn_hidden_size": 1536,
    "num_attention_heads": 9,
    "num_query_groups": 3,
}
VOCAB = 49_152


@pytest.mark.bench
def test_an_asynchronous_save_blocks_training_less_than_a_third_as_long(tmp_path: Path):
    version = prepare_version(tiny_recipe(tmp_path, model=SHAPE), vocab_size=VOCAB)
    found = on_rank("save_stalls", version, ROUNDS, threads=2)
    print(f"\n| save | blocks training for (median of {ROUNDS}) | the first update after it | whole after |")
    print("|---|---|---|---|")
    for name, stalls in found.items():
        blocked, update, whole = (statistics.median(part) for part in zip(*stalls))
        print(f"| {name} | {blocked:.2f} s | {update:.2f} s | {whole:.2f} s |")
    synchronous, asynchronous = (
        statistics.median(blocked for blocked, _, _ in found[name])
        for name in ("synchronous", "asynchronous")
    )
    assert asynchronous < synchronous / 3
