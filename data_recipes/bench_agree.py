"""Losses of a few training steps on the GPU beside the same on the CPU; `python -m perdure.data_recipes.bench_agree ROWS`.

Weights and batches are drawn on the CPU, so both start from the same numbers; the losses then differ by rounding alone.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

STEPS = 5
MODEL = "small"
TOLERANCES = {"fp32": 1e-4, "bf16": 2e-2}
"""Nats that a loss may differ by. bf16 has 8 bits, and what is rounded otherwise in one step is trained on in the next."""


def losses(dtype: str, model: str) -> list[float]:
    """Mean losses, in nats, of the first steps on the device that is there."""
    from perdure.data_recipes.bench_models import make_step

    step = make_step("perdure", model, dtype, on_cpu=True)
    return [step(1.0)[0] for _ in range(STEPS)]


def agreement(found: list[list[float] | str], tolerance: float) -> dict[str, Any]:
    """Largest difference of the losses of two devices, and whether it is small enough; NaN is not, nor is an error's text."""
    if not all(isinstance(one, list) for one in found):
        return {"exact": False}
    if len(found) < 2:
        return {}
    difference = torch.tensor(found, dtype=torch.float64).diff(dim=0).abs().max()
    return {"difference": float(difference), "exact": bool(difference < tolerance)}


def main(arguments: list[str]) -> int:
    """Writes a row for each precision: losses on both devices, and whether they agree."""
    parser = argparse.ArgumentParser(prog="python -m perdure.data_recipes.bench_agree")
    parser.add_argument("rows", type=Path)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--losses", choices=TOLERANCES, help="print those of one device, for the other calls")
    options = parser.parse_args(arguments)
    model = "tiny" if options.tiny else MODEL
    if options.losses:
        print("LOSSES", json.dumps(losses(options.losses, model)), flush=True)
        return 0
    command = [sys.executable, "-m", "perdure.data_recipes.bench_agree", str(options.rows)]
    command += ["--tiny"] if options.tiny else []
    without = {"CUDA_VISIBLE_DEVICES": ""}
    devices = {"cpu": without, "gpu": {}} if torch.cuda.is_available() else {"cpu": without}
    running = {  # all at the same time: most of it is loading
        (dtype, name): subprocess.Popen(
            [*command, "--losses", dtype],
            env=os.environ | changes,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for dtype in TOLERANCES
        for name, changes in devices.items()
    }
    for dtype, tolerance in TOLERANCES.items():
        row: dict[str, Any] = {"dtype": dtype}
        for name in devices:
            out, errors = running[dtype, name].communicate()
            told = [line for line in out.splitlines() if line.startswith("LOSSES")]
            row[name] = json.loads(told[0].removeprefix("LOSSES")) if told else errors.strip()[-300:]
        row |= agreement([row[name] for name in devices], tolerance)
        with options.rows.open("a") as file:
            file.write(json.dumps(row) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
