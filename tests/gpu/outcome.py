"""What a training came to, and how it is left as if it had been killed."""

import shutil
from pathlib import Path

from safetensors.torch import load_file


def mean_loss(counts: dict) -> float:
    """Of a step's counts."""
    return sum(counts["loss"]) / sum(counts["tokens"])


def weights(version: Path) -> dict:
    """All tensors of a version's export."""
    return {name: x for path in (version / "hf").glob("*.safetensors") for name, x in load_file(path).items()}


def cut_back(version: Path, step: int) -> None:
    """Leaves a finished version as one that was killed after a step."""
    for path in (version / "checkpoints").glob("step_*"):
        if int(path.name.removeprefix("step_")) > step:
            shutil.rmtree(path)
    shutil.rmtree(version / "hf")
    for name in ("_SUCCESS", "version.json", "eval.json"):
        (version / name).unlink()
