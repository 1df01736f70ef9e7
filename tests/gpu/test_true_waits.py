"""The count of a real GPU's waits: torch's warnings, at the place in the product that caused them."""

import json
import subprocess
import sys
import textwrap
from pathlib import Path

from gpu.true_waits import ROWS, by_place, record

PROGRAM = """
import json, sys, types, warnings
import torch
from gpu import true_waits
from gpu.ledger import LEDGER

warnings.filterwarnings("error", module="perdure")  # as the ranks of tests have it
true_waits.install()
product = types.ModuleType("perdure.kernels.made")
source = '''
import warnings, torch
def twice():
    for _ in range(2):
        warnings.warn("called a synchronizing CUDA operation (Triggered internally at CUDAFunctions.cpp:117.)")
    warnings.warn("of another kind")
    torch.cuda.synchronize()
'''
torch.cuda.is_available = lambda: False
exec(source, product.__dict__)
try:
    product.twice()
except (AssertionError, RuntimeError):  # there is no CUDA to synchronise
    pass
print(json.dumps(LEDGER.waits))
"""


def test_torchs_warnings_and_synchronize_are_counted_where_they_come_from():
    tests = Path(__file__).parents[1]
    command = [
        sys.executable,
        "-c",
        f"import sys; sys.path.insert(0, {str(tests)!r})\n{textwrap.dedent(PROGRAM)}",
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"kernels.made.twice: waits": 3}


def test_reasons_are_added_up_by_place_but_for_what_torch_does_not_warn_of():
    waits = {"a.f: item": 2, "a.f: nonzero": 1, "b.g: copy to the GPU, non_blocking in pageable memory": 4}
    assert by_place(waits) == {"a.f": 3}


def test_rows_tell_each_place_with_both_numbers(tmp_path, monkeypatch):
    record(
        "documents", "a step besides", {"a.f": 1}, {"a.f": 1, "b.g": 2}
    )  # without a file there is nothing to do
    monkeypatch.setenv(ROWS, str(tmp_path / "rows"))
    record("documents", "a step besides", {"a.f": 1}, {"a.f": 1, "b.g": 2})
    rows = [json.loads(line) for line in (tmp_path / "rows").read_text().splitlines()]
    assert [(row["place"], row["waits"], row["pretended"], row["exact"]) for row in rows] == [
        ("a.f", 1, 1, True),
        ("b.g", 0, 2, False),
    ]
