"""A plan over a trillion tokens of 200 sources: it starts in seconds, and any sample is found in milliseconds."""

from pathlib import Path

import pytest
from support import on_rank

SOURCES, DOCUMENTS = 200, 5_000_000


@pytest.mark.bench
def test_a_trillion_tokens_start_in_seconds_and_seek_in_milliseconds(tmp_path: Path):
    script = "bench/trillion.py"
    data = on_rank("write", tmp_path, SOURCES, DOCUMENTS, script=script)
    found = on_rank("start_and_seek", tmp_path, SOURCES, DOCUMENTS, data, script=script)
    print(f"\n{found['samples']:,} samples of {SOURCES} sources, {SOURCES * DOCUMENTS:,} documents\n")
    print("| measure | found | on the CPU | required |\n|---|---|---|---|")
    starts = {"the launching process opens the plan": "launcher", "a rank opens all, first sample": "rank"}
    for label, name in starts.items():
        print(f"| {label} | {found[name][0]:.2f} s | {found[name][1]:.2f} s | 10 s together |")
    print(f"| memory that this took | {found['memory'] / 1e6:,.0f} MB | | |")
    seeks = ("warm_first", "warm_anywhere", "cold_anywhere")
    for name in seeks:
        median, most, cpu = (found[name][key] * 1e3 for key in ("median", "most", "cpu"))
        label = f"seek, {name.replace('_', ', ')}: median (longest)"
        print(f"| {label} | {median:.2f} ({most:.0f}) ms | {cpu:.2f} ms | 10 ms |")
    assert found["launcher"][0] + found["rank"][0] < 10
    assert max(found[name]["median"] for name in seeks) < 0.01
