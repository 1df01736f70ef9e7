"""Machine code of recorded launches, by `compile_launches.py` in processes of their own: there Triton does not interpret."""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

SCRIPT = Path(__file__).with_name("compile_launches.py")
PROCESSES = 2
"""That compile at a time."""


def reports(launches: list[dict], triton: Path | None = None) -> list[dict]:
    """Of each launch what its machine code needs and does.

    Args:
        launches: As recorded, each with a `capability`.
        triton: Where another Triton is than the one that is installed.
    """
    environment = os.environ | {"TRITON_INTERPRET": "0"} | ({"PYTHONPATH": str(triton)} if triton else {})

    def found(own: list[dict]) -> list[dict]:
        command, given = [sys.executable, str(SCRIPT)], json.dumps(own)
        outcome = subprocess.run(command, input=given, capture_output=True, text=True, env=environment)
        assert outcome.returncode == 0, outcome.stderr
        return json.loads(outcome.stdout)

    number = min(PROCESSES, len(launches))
    with ThreadPoolExecutor(number) as threads:
        parts = list(threads.map(found, [launches[first::number] for first in range(number)]))
    return [parts[place % number][place // number] for place in range(len(launches))]
