"""A version's run in Weights & Biases."""

import os
import uuid
from pathlib import Path
from typing import Any

from perdure.pipeline.core.errors import PerdureError
from perdure.pipeline.core.files import read_json, write_json
from perdure.pipeline.recipe import Recipe

STEP = "step"
"""The key that scalars are drawn over. Wandb's own count could only grow, but a resume tells the steps since its checkpoint
again."""


def open_run(recipe: Recipe, name: str, directory: Path) -> Any:
    """Begins a version's run, or goes on in it; None without `logging.wandb`.

    Args:
        recipe: The recipe.
        name: The version.
        directory: Its directory; `wandb.json` there keeps the run's id.

    Raises:
        PerdureError: If the run cannot be begun: no key, no network, no such entity.
    """
    section = recipe.logging.wandb
    if section is None:
        return None
    import wandb

    # A background service of a process above this one would outlive a killed rank, and still hold its run at the restart.
    os.environ.pop("WANDB_SERVICE", None)
    record = directory / "wandb.json"
    if not record.exists():
        write_json(record, {"id": uuid.uuid4().hex[:12]})
    sections = recipe.model_dump(mode="json", include={"seed", "model", "parallel", "kernels", "training"})
    try:
        run = wandb.init(
            project=section.project,
            entity=section.entity,
            mode=section.mode,
            id=read_json(record)["id"],
            resume="allow",
            name=f"{recipe.name}: {name}",
            group=recipe.name,
            dir=str(directory),
            config={"version": name, **recipe.versions[name].model_dump(mode="json"), **sections},
            # What ranks print stays theirs.
            settings=wandb.Settings(console="off", quiet=True),
        )
    except wandb.errors.Error as error:
        raise PerdureError(
            f"logging.wandb: {' '.join(str(error).split())}; `mode: offline` needs neither a key nor a network"
        ) from None
    run.define_metric("*", step_metric=STEP)
    return run
