"""Where the host truly waits for a GPU, by torch's own account: `python tests/gpu/true_waits.py ROWS.jsonl [--tiny]`.

The same turns of the training loop as on the pretended GPU (`test_waits.py`), on the GPU that is there. torch warns of each
operation that synchronises; the hook counts it at the place in the code that asked. It does not warn of `synchronize`,
which is counted here, nor of copies from memory that is not pinned, which are staged while the host waits.
"""

import json
import os
import sys
import warnings
from collections import Counter
from pathlib import Path

import torch

HERE = Path(__file__).parent
ROWS = "PERDURE_VISIT_ROWS"
"""Environment variable that names the file for rows."""
UNSEEN = "in pageable memory"
"""A wait of the pretended GPU that torch does not warn of."""


def install() -> None:
    """Counts this process's waits in the ledger, from now on."""
    from gpu.ledger import LEDGER

    def counted(message, *_arguments, **_options):
        if "synchronizing CUDA operation" in str(message):
            LEDGER.wait("waits")

    def synchronize(*arguments, run=torch.cuda.synchronize, **options):
        LEDGER.wait("waits")
        return run(*arguments, **options)

    warnings.simplefilter("always")
    warnings.showwarning = counted
    torch.cuda.synchronize = synchronize
    if torch.cuda.is_available():
        torch.cuda.set_sync_debug_mode("warn")


def by_place(waits: dict[str, int]) -> dict[str, int]:
    """Waits that torch would warn of, by place alone."""
    found: Counter[str] = Counter()
    for place, count in waits.items():
        if not place.endswith(UNSEEN):
            found[place.split(": ")[0]] += count
    return dict(found)


def record(option: str, when: str, found: dict[str, int], budget: dict[str, int]) -> None:
    """Adds a row for each place to the visit's file, if there is one."""
    if ROWS not in os.environ:
        return
    with Path(os.environ[ROWS]).open("a") as file:
        for place in sorted(found.keys() | budget.keys()):
            waits, expected = found.get(place, 0), budget.get(place, 0)
            row = {"option": option, "when": when, "place": place, "waits": waits, "pretended": expected}
            file.write(json.dumps(row | {"exact": waits == expected}) + "\n")


def main() -> int:
    """Runs the test that compares, which records what it finds."""
    import pytest

    os.environ[ROWS] = sys.argv[1]
    chosen = [str(HERE / "test_waits.py"), "-k", "real_gpu", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
    # A machine that is only visited has pytest at best, not what the whole suite's settings ask for.
    return int(pytest.main([*chosen, "--noconftest", "-o", "addopts=--import-mode=importlib"]))


if __name__ == "__main__":
    sys.exit(main())
