"""A plan over a trillion tokens of 200 sources: it starts in seconds, and any sample is found in milliseconds."""

from pathlib import Path

from support import on_rank

FULL = {"sources": 200, "documents": 5_000_000, "seeks": 500}
TINY = {"sources": 3, "documents": 2_000, "seeks": 5}


def measure(directory: Path, sources: int, documents: int, seeks: int) -> dict:
    """Seconds of starting and of seeking, in a process of its own."""
    script = "bench/trillion.py"
    data = on_rank("write", directory, sources, documents, script=script)
    found = on_rank("start_and_seek", directory, sources, documents, data, seeks, script=script)
    return found | {"sources": sources, "documents": documents}


def required(found: dict) -> dict[str, bool]:
    seeks = ("warm_first", "warm_anywhere", "cold_anywhere")
    return {
        "launcher and rank start within 10 s": found["launcher"][0] + found["rank"][0] < 10,
        "the median seek takes less than 10 ms": max(found[name]["median"] for name in seeks) < 0.01,
    }
