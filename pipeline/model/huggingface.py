"""Hugging Face model directories: reading their tensors, writing and hashing them.

Tensors stream: one is in memory at a time when reading, one shard when writing. Nothing is ever unpickled.
"""

import hashlib
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from safetensors.torch import save_file

from perdure.pipeline.core.errors import PerdureError
from perdure.pipeline.core.files import move_whole, read_json, write_json
from perdure.pipeline.model.files import INDEX, Stored, opened, stored_tensors

MAX_SHARD_BYTES = 5_000_000_000
"""Size of a safetensors file beyond which the next one begins."""


def tensor_files(directory: Path) -> dict[str, Path]:
    """The file of every tensor in a model directory; errors as for `stored_tensors`."""
    return {name: stored.file for name, stored in stored_tensors(directory).items()}


def weights_reader(
    directory: Path, tensors: dict[str, Stored] | None = None
) -> Callable[[str], torch.Tensor]:
    """A reader of single tensors by name; a tensor is a view of its file, which is mapped as long as the view lives.

    Args:
        directory: A model directory.
        tensors: Its tensors by the names that are asked for; default: as they are in the files.
    """
    known = stored_tensors(directory) if tensors is None else tensors

    def read(name: str) -> torch.Tensor:
        if name not in known:
            raise PerdureError(f"{directory}: has no tensor {name}, which `config.json` asks for")
        with opened(known[name].file, "pt") as file:
            return file.get_tensor(known[name].name)

    return read


def weights_hash(directory: Path) -> str:
    """Hash over all tensors by name; how they are spread over files does not matter."""
    tensors = stored_tensors(directory)
    digest, read = hashlib.sha256(), weights_reader(directory, tensors)
    for name in sorted(tensors):
        tensor = read(name).contiguous()
        digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)}".encode())
        digest.update(tensor.view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def write_shards(
    tensors: Iterable[tuple[str, torch.Tensor]], directory: Path, part: int, max_shard_bytes: int
) -> list[str]:
    """Writes tensors as they come, a file whenever the next one would exceed `max_shard_bytes`.

    `join_shards` gives the files of all parts their names.

    Args:
        tensors: Names and tensors.
        directory: Where to.
        part: Number of this writer among several.
        max_shard_bytes: Bound of a file, unless a single tensor is larger.

    Returns:
        The files' names.
    """
    shard: dict[str, torch.Tensor] = {}
    written: list[str] = []
    size = 0

    def flush() -> None:
        nonlocal size
        stem = f".part-{part:05d}-{len(written) // 2:05d}"
        file = directory / f"{stem}.safetensors"
        file.touch()
        mode = file.stat().st_mode  # by the umask; safetensors' own is the owner's alone
        save_file(shard, file, metadata={"format": "pt"})
        file.chmod(mode)
        dtype = str(next(iter(shard.values())).dtype).removeprefix("torch.")
        write_json(directory / f"{stem}.json", {"names": list(shard), "bytes": size, "dtype": dtype})
        shard.clear()
        written.extend((f"{stem}.safetensors", f"{stem}.json"))
        size = 0

    for name, tensor in tensors:
        if shard and size + tensor.nbytes > max_shard_bytes:
            flush()
        shard[name] = tensor.cpu()
        size += tensor.nbytes
        del tensor
    if shard:
        flush()
    return written


def join_shards(directory: Path) -> str:
    """Names the files of all parts as Hugging Face does, with an index if there are several.

    Returns:
        The tensors' type, as in `config.json`.
    """
    parts = sorted(directory.glob(".part-*.json"))
    weight_map: dict[str, str] = {}
    facts: dict = {}
    total_size = 0
    for number, part in enumerate(parts, 1):
        facts = read_json(part)
        name = (
            f"model-{number:05d}-of-{len(parts):05d}.safetensors" if len(parts) > 1 else "model.safetensors"
        )
        part.with_suffix(".safetensors").rename(directory / name)
        weight_map |= dict.fromkeys(facts["names"], name)
        total_size += facts["bytes"]
        part.unlink()
    if len(parts) > 1:
        index = {"metadata": {"total_size": total_size}, "weight_map": weight_map}
        write_json(directory / INDEX, index, checksum=False)
    return facts["dtype"]


def copy_model(source: Path, to: Path, max_shard_bytes: int) -> None:
    """Copies a Hugging Face directory, its tensors spread anew over files of a bounded size."""
    partial = to.with_name(f".{to.name}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    tensors = stored_tensors(source)
    read = weights_reader(source, tensors)
    write_shards(((name, read(name)) for name in tensors), partial, 0, max_shard_bytes)
    join_shards(partial)
    for file in source.iterdir():
        if file.suffix in (".json", ".jinja", ".txt", ".model") and file.name != INDEX:
            shutil.copyfile(file, partial / file.name)
    move_whole(partial, to)
