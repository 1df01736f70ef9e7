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
    print("| measure | found | required |\n|---|---|---|")
    print(f"| the launching process opens the plan | {found['launcher']:.2f} s | |")
    print(f"| a rank opens plan and shards, first sample | {found['rank']:.2f} s | |")
    print(f"| both | {found['launcher'] + found['rank']:.2f} s | 10 s |")
    print(f"| memory that this took | {found['memory'] / 1e6:,.0f} MB | |")
    for name in ("warm_first", "warm_anywhere", "cold_anywhere"):
        median, most = (found[name][key] * 1e3 for key in ("median", "most"))
        print(f"| seek, {name.replace('_', ', ')}: median, longest | {median:.2f}, {most:.2f} ms | 10 ms |")
    assert found["launcher"] + found["rank"] < 10
    assert max(found[name]["median"] for name in ("warm_first", "warm_anywhere", "cold_anywhere")) < 0.01
