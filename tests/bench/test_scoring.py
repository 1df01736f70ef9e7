"""Scoring beside the plain way, in one run."""

import pytest
from support import on_rank


@pytest.mark.bench
def test_scoring_takes_less_memory_and_time_than_the_plain_way():
    found = {way: on_rank("measure", way, script="bench/scoring.py") for way in ("plain", "ours")}
    print(f"\nSmolLM2-135M's shape, {found['ours']['tokens']:,} tokens, one thread")
    print("| way | tokens per second of CPU | memory beyond the model's |\n|---|---|---|")
    for way, entry in found.items():
        print(f"| {way} | {entry['tokens'] / entry['seconds']:,.0f} | {entry['bytes'] / 1e6:,.0f} MB |")
    assert found["ours"]["tokens"] == found["plain"]["tokens"]
    assert found["ours"]["loss"] == pytest.approx(found["plain"]["loss"], abs=1e-4)
    assert found["ours"]["bytes"] < found["plain"]["bytes"] / 4
    assert found["plain"]["seconds"] > 1.3 * found["ours"]["seconds"]
