"""Which tensors a Hugging Face directory holds, and which of them make up the model, as transformers 5 finds them.

No import of torch: headers are read, and at most the two embeddings.
"""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from perdure.pipeline.core.errors import PerdureError
from perdure.pipeline.core.files import read_json
from perdure.pipeline.model.parameters import EMBEDDING, HEAD

FILE, INDEX = "model.safetensors", "model.safetensors.index.json"
RECOMPUTED = "rotary_emb.inv_freq"
"""End of the names of tensors that old models were saved with, and that everyone computes anew."""
BLOCK = 1 << 22
"""Numbers that are compared at a time."""
NUMPY = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "BF16": "<u2",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "i1",
    "U8": "u1",
}


@dataclass(frozen=True)
class Stored:
    """A tensor in a file.

    Attributes:
        file: The safetensors file.
        name: Its name there.
        dtype: Its type, as safetensors names it (`BF16`).
        size: Its dimensions.
    """

    file: Path
    name: str
    dtype: str
    size: tuple[int, ...]


def weight_files(directory: Path) -> list[Path]:
    """The files that hold a model's tensors: `model.safetensors` if it is there, else those that the index names.

    Raises:
        PerdureError: If the directory holds no safetensors, or an index of files that are not in it.
    """
    config = directory / "config.json"
    written = read_json(config) if config.is_file() else {}
    chosen = written.get("transformers_weights") if isinstance(written, dict) else None
    if (directory / "adapter_config.json").is_file():
        raise PerdureError(
            f"{directory}/adapter_config.json: the directory holds an adapter, which is not read; merge it into the model"
        )
    if parts := sorted(directory.glob("shard-?????-model-?????-of-?????.safetensors")):
        raise PerdureError(
            f"{parts[0]}: a part of a distributed checkpoint; save the model with save_pretrained()"
        )
    path, index = directory / (chosen or FILE), directory / (chosen or INDEX)
    if path.is_file() and path.suffix == ".safetensors":
        return [path]
    if not index.is_file() or not index.name.endswith(".index.json"):
        if pickles := sorted(directory.glob("pytorch_model*.bin")):
            raise PerdureError(
                f"{pickles[0]}: a pickle can run code when it is read, so it is not; convert the model to "
                "safetensors (save_pretrained() on a machine that trusts it)"
            )
        raise PerdureError(f"{directory}: no {chosen or FILE}; save the model with save_pretrained()")
    found = read_json(index)
    if (
        not isinstance(found, dict)
        or not isinstance(found.get("weight_map"), dict)
        or "metadata" not in found
    ):
        raise PerdureError(f"{index}: should hold `metadata` and `weight_map`; copy it again")
    files = [directory / name for name in sorted(set(found["weight_map"].values()))]
    for file in files:
        if ".." in file.relative_to(directory).parts or not file.is_file():
            raise PerdureError(f"{index}: names {file.name}, which is not in the directory; copy it again")
    return files


def stored_tensors(directory: Path) -> dict[str, Stored]:
    """All tensors of a directory's files by their names there; of those in several files, the last.

    An index only says which files there are: transformers reads all that is in them.

    Raises:
        PerdureError: As for `weight_files`, or if a file is broken.
    """
    files = weight_files(directory)
    return dict(_headers(tuple((file, *_state(file)) for file in files)))


def model_tensors(directory: Path, sizes: dict[str, tuple[int, ...]]) -> tuple[dict[str, Stored], list[str]]:
    """The tensors that make up a model.

    Names may lack a `model.`, as those of a model without head do. A tied embedding may stand as either of its two names.

    Args:
        directory: The model's directory.
        sizes: Names and dimensions that its config asks for (`tensor_sizes`).

    Returns:
        The tensors, by the names of `sizes`, and the names of those that nothing reads.

    Raises:
        PerdureError: If one is missing (transformers would make up random numbers), of another size, or there twice.
    """
    tensors = stored_tensors(directory)
    found = _by_full_name(tensors, {*sizes, HEAD})
    read = {stored.name for stored in found.values()}
    unread = [name for name in tensors if name not in read and not name.endswith(RECOMPUTED)]
    if HEAD in found and HEAD not in sizes:  # tied: one of two that are the same
        head = found.pop(HEAD)
        found.setdefault(EMBEDDING, head)
    for name, size in sizes.items():
        if name not in found:
            raise PerdureError(f"{directory}: has no tensor {name}, which `config.json` asks for")
        if found[name].size != size:
            raise PerdureError(
                f"{directory}: {name} is {list(found[name].size)}; `config.json` asks for {list(size)}"
            )
    return found, unread


def _by_full_name(tensors: dict[str, Stored], names: set[str]) -> dict[str, Stored]:
    """Those of some tensors that a model has by these names; theirs may have one `model.` less or more."""
    found: dict[str, Stored] = {}
    for name, stored in tensors.items():
        shorter, longer = name.removeprefix("model."), f"model.{name}"
        full = shorter if shorter in names else longer if longer in names else name
        if full in found:
            raise PerdureError(
                f"{stored.file}: {full} is there twice, also as {found[full].name}; remove one"
            )
        if full in names:
            found[full] = stored
    return found


def listed(names: list[str]) -> str:
    """Names of tensors in words: one by one, or, of many, layers taken together."""
    if len(names) <= 12:
        return ", ".join(names)
    kinds: dict[str, int] = {}
    for name in names:
        kind = re.sub(r"\.\d+\.", ".*.", name)
        kinds[kind] = kinds.get(kind, 0) + 1
    return ", ".join(kind if count == 1 else f"{kind} ({count})" for kind, count in kinds.items())


def heads_differ(directory: Path) -> bool:
    """Whether a directory has both an embedding and another output projection: transformers 5 then ties neither to the other,
    whatever `tie_word_embeddings` says.

    Raises:
        PerdureError: If a file is broken.
    """
    try:
        tensors = stored_tensors(directory)
    except PerdureError:
        if any(directory.glob("*.safetensors")):
            raise
        return False  # sizes can be told without weights; who needs them says that there are none
    found = _by_full_name(tensors, {EMBEDDING, HEAD})
    return len(found) == 2 and not _equal(*((stored, *_state(stored.file)) for stored in found.values()))


@contextmanager
def opened(path: Path, framework: str) -> Iterator[Any]:
    """An open safetensors file; one line if it cannot be read."""
    try:
        with safe_open(path, framework) as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise PerdureError(f"{path}: not readable as safetensors ({error}); copy it again") from None


def _state(path: Path) -> tuple[int, int, int]:
    found = path.stat()
    return found.st_ino, found.st_size, found.st_mtime_ns


@lru_cache(maxsize=32)
def _headers(files: tuple[tuple[Any, ...], ...]) -> dict[str, Stored]:
    found = {}
    for path, *_ in files:
        with opened(path, "numpy") as file:
            for name in file.keys():  # noqa: SIM118  (no dict)
                part = file.get_slice(name)
                found[name] = Stored(path, name, part.get_dtype(), tuple(part.get_shape()))
    return found


@lru_cache(maxsize=32)
def _equal(tensor: tuple[Stored, int, int, int], another: tuple[Stored, int, int, int]) -> bool:
    """Whether two tensors hold the same numbers in fp32; each is given with the state of its file (`_state`)."""
    one, other = tensor[0], another[0]
    if one.size != other.size:
        return False
    if one.dtype not in NUMPY or other.dtype not in NUMPY:
        raise PerdureError(
            f"{one.file}: {one.name} and {other.name} are {one.dtype} and {other.dtype}, which cannot be compared"
        )
    a, b = _numbers(one), _numbers(other)
    return all(
        np.array_equal(
            _decoded(a[start : start + BLOCK], one.dtype), _decoded(b[start : start + BLOCK], other.dtype)
        )
        for start in range(0, len(a), BLOCK)
    )


def _numbers(stored: Stored) -> np.ndarray:
    """A tensor's numbers as they are in its file (https://huggingface.co/docs/safetensors), flat and mapped."""
    first, last = data_range(stored)
    dtype = np.dtype(NUMPY[stored.dtype])
    return np.memmap(stored.file, dtype, "r", first, ((last - first) // dtype.itemsize,))


def file_header(path: Path) -> tuple[bytes, dict[str, Any]]:
    """What stands before a safetensors file's data: its bytes, and what they say by tensor; remembered while it is
    unchanged."""
    return _file_header(path, _state(path))


@lru_cache(maxsize=1024)
def _file_header(path: Path, _unchanged: tuple[int, int, int]) -> tuple[bytes, dict[str, Any]]:
    with path.open("rb") as file:
        size = file.read(8)
        header = file.read(int.from_bytes(size, "little"))
    return size + header, json.loads(header)


def data_range(stored: Stored) -> tuple[int, int]:
    """Where a tensor's bytes begin and end in its file."""
    header, entries = file_header(stored.file)
    first, last = entries[stored.name]["data_offsets"]
    return len(header) + first, len(header) + last


def _decoded(numbers: np.ndarray, dtype: str) -> np.ndarray:
    if dtype == "BF16":
        return (numbers.astype(np.uint32) << 16).view(np.float32)
    return numbers.astype(np.float32)
