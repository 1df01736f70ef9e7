"""What a version reads of its parent to estimate the Fisher information for its anchor."""

from pathlib import Path

from perdure.pipeline.core.errors import PerdureError
from perdure.pipeline.core.manifest import is_finished
from perdure.pipeline.core.records import read_record
from perdure.pipeline.recipe import FisherAnchor, Recipe, Update

SAMPLES = "use anchor.estimate: {examples: N, source: NAME}, which needs weights alone"


def fisher_checkpoint(recipe: Recipe, name: str, tokenizer_hash: str) -> Path | None:
    """The checkpoint whose moments a version's anchor asks for, if the version itself does not start from that one.

    Args:
        recipe: The whole recipe.
        name: The version.
        tokenizer_hash: Of its tokenizer.

    Raises:
        PerdureError: If the checkpoint is gone and the version is not finished, or is of another tokenizer.
    """
    start, anchor = recipe.versions[name].start, recipe.versions[name].anchor
    if not isinstance(anchor, FisherAnchor) or anchor.estimate != "moments":
        return None
    if not isinstance(start, Update) or start.moments == "keep":
        return None
    parent = recipe.paths.version(start.parent)
    record = read_record(parent)
    if (theirs := record["tokenizer_hash"]) != tokenizer_hash:
        raise PerdureError(
            f"version {name}: {start.parent}, whose moments its anchor asks for, was trained with another tokenizer "
            f"({theirs[:8]} -> {tokenizer_hash[:8]}); {SAMPLES}"
        )
    done = is_finished(recipe.paths.version(name).directory)
    if not done and record["steps"] not in parent.finished_checkpoints():
        raise PerdureError(
            f"version {name}: the last checkpoint of {start.parent}, whose moments its anchor asks for, is gone from "
            f"{parent.checkpoints}; {SAMPLES}"
        )
    return parent.checkpoint(record["steps"])
