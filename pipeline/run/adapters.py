"""What a version with an adapter is made from: the adapters that it is to be orthogonal to, and rows that it could not
train."""

from pathlib import Path

from perdure.pipeline.core.errors import PerdureError
from perdure.pipeline.core.remembered_hashes import hash_files
from perdure.pipeline.model.adapter_sizes import ADAPTER_WEIGHTS
from perdure.pipeline.model.vocabulary import extension_between
from perdure.pipeline.recipe import Recipe
from perdure.pipeline.run.scoring import finished_export


def earlier_adapters(recipe: Recipe, name: str) -> tuple[dict[str, str], dict[str, str]]:
    """PEFT directories by version of the adapters that a version's own is to be orthogonal to, and SHA-256 of their matrices.

    Raises:
        PerdureError: If one of these versions is not finished or has none, or it is damaged.
    """
    adapter, directories, hashes = recipe.versions[name].adapter, {}, {}
    file = f"adapter/{ADAPTER_WEIGHTS}"
    for other in adapter.orthogonal_to if adapter else ():
        finished_export(recipe, other)  # compares the adapter's files with their hashes, too
        paths = recipe.paths.version(other)
        if not (paths.directory / file).is_file():
            raise PerdureError(
                f"version {name}: {other} was made without an adapter, which `orthogonal_to` asks for ({paths.adapter})"
            )
        directories[other] = str(paths.adapter)
        hashes[other] = hash_files(paths.directory, [file])[file]["sha256"]
    return directories, hashes


def refuse_new_rows(recipe: Recipe, name: str, weights: Path | None, tokenizer: Path) -> None:
    """Refuses a version with an adapter whose vocabulary is extended: embeddings are frozen, the new tokens' rows among them.

    Raises:
        PerdureError: If the run's tokenizer has tokens that the weights it starts from have no rows for.
    """
    if recipe.versions[name].adapter is None or weights is None:
        return
    if extension := extension_between(weights, tokenizer):
        raise PerdureError(
            f"version {name}: the rows of {len(extension.pieces):,} new tokens would stay frozen beside an adapter; train all "
            "weights in the version that extends the vocabulary, and an adapter on that one"
        )
