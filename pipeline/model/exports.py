"""Weights of exports and initial models, compared with what was recorded of them."""

from pathlib import Path

from perdure.pipeline.core.errors import PerdureError
from perdure.pipeline.core.hashes import hash_file
from perdure.pipeline.core.integrity import require_whole
from perdure.pipeline.core.paths import VersionPaths
from perdure.pipeline.core.records import read_record
from perdure.pipeline.core.remedies import readable, remedy
from perdure.pipeline.core.remembered_hashes import VERIFIED, remembered_hash
from perdure.pipeline.model.files import INDEX, model_tensors, stored_tensors, weight_files
from perdure.pipeline.model.parameters import HEAD
from perdure.pipeline.model.shape import config_vocab_size, model_shape, tensor_sizes
from perdure.pipeline.recipe import Recipe

VERSION_FILES = (
    "recipe.yaml",
    "inputs.json",
    "version.json",
    "metrics.jsonl",
    "passage.json",
    "chosen.json",
    "eval*.json",
    "eval_*.parquet",
    "hf/*",
    "adapter/*",
)
"""Files of a version that its manifest has hashes of; its plan and checkpoints have their own, and an export's weights
another."""


def version_files(directory: Path) -> list[str]:
    """The files of a version that is about to be declared whole, by path in it."""
    found = (path for pattern in VERSION_FILES for path in directory.glob(pattern) if path.is_file())
    names = [path.relative_to(directory).as_posix() for path in found]
    return [name for name in names if not (name.startswith("hf/") and name.endswith(".safetensors"))]


def export_hash(version: Path, remember: bool = True) -> str:
    """Hash over the weights of a version's export, see `huggingface.weights_hash`; remembered as hashes of files are."""
    from perdure.pipeline.model.huggingface import INDEX, tensor_files, weights_hash

    export = VersionPaths(version).export
    if not remember:
        return weights_hash(export)
    files = sorted({*tensor_files(export).values(), *export.glob(INDEX)})
    return remembered_hash(version / VERIFIED, "weights", files, lambda: weights_hash(export))


def compare_weights(version: Path, remember: bool = True) -> None:
    """Raises PerdureError if the weights of a finished version's export are not those that it was finished with."""
    recorded = read_record(VersionPaths(version))["weights_hash"]
    try:
        found = export_hash(version, remember)
    except PerdureError as error:
        raise PerdureError(f"{str(error).partition(';')[0]}; {remedy(version)}") from None
    except OSError as error:
        raise readable(error, VersionPaths(version).export) from error
    if found != recorded:
        raise PerdureError(
            f"{version / 'hf'}: weights damaged or swapped: hash {found}, recorded {recorded}; {remedy(version)}"
        )


def export_of(version: Path) -> Path:
    """A finished version's export, once its weights and files are found to be what was recorded.

    Args:
        version: The version's directory.

    Raises:
        PerdureError: If they are not, naming what to delete.
    """
    require_whole(version)
    compare_weights(version)
    return VersionPaths(version).export


def unlike(first: Path, other: Path) -> str | None:
    """Why two models' tensors cannot be summed, in words; None if they can. Headers and tokenizers are read alone.

    Raises:
        PerdureError: If a directory holds no tensors that can be read.
    """
    tokenizers = [path / "tokenizer.json" for path in (first, other)]
    if all(path.is_file() for path in tokenizers):
        hashes = [hash_file(path)[:8] for path in tokenizers]
        if hashes[0] != hashes[1]:
            return f"its tokenizer is another one ({hashes[1]}, not {hashes[0]})"
    ours, theirs = stored_tensors(first), stored_tensors(other)
    if (HEAD in ours) != (HEAD in theirs):
        tied = "ties its head to its embedding" if HEAD in ours else "has a head of its own"
        return f"it {tied}, and the other one does not"
    for name in dict.fromkeys([*ours, *theirs]):
        if name not in ours or name not in theirs:
            return f"{name} is in one of them alone"
        if ours[name].size != theirs[name].size:
            return f"{name} is {list(theirs[name].size)}, not {list(ours[name].size)}"
        if ours[name].dtype != theirs[name].dtype:
            return f"{name} is {theirs[name].dtype}, not {ours[name].dtype}"
    return None


def initial_weights_hash(recipe: Recipe, path: Path) -> str:
    """Hash over the weights of the Hugging Face model that a run starts from; remembered in its `hashes.json`.

    Raises:
        PerdureError: If a tensor is missing or of another size.
    """
    from perdure.pipeline.model.huggingface import weights_hash

    model_tensors(path, tensor_sizes(model_shape(recipe), config_vocab_size(path)))
    files = sorted({*weight_files(path), *path.glob(INDEX)})
    store = recipe.paths.model_hashes
    return remembered_hash(store, f"weights of {path}", files, lambda: weights_hash(path))
