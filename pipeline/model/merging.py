"""Merging of Hugging Face directories: weighted sums of their tensors, a block at a time, so that no model is in memory.

Sums are made in fp64, in an order that does not depend on the models' order, and rounded once to the models' own type. Where
all summands are the same bits, these are the result: shares that sum to 1 keep them, whatever fp64 makes of the products.
"""

import math
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from perdure.pipeline.core.errors import PerdureError
from perdure.pipeline.core.files import move_whole
from perdure.pipeline.model.exports import unlike
from perdure.pipeline.model.files import Stored, data_range, file_header, stored_tensors, weight_files

BLOCK = 1 << 22
"""Numbers of a tensor that are in memory at a time."""
TYPES = {
    "F64": (torch.float64, torch.int64),
    "F32": (torch.float32, torch.int32),
    "F16": (torch.float16, torch.int16),
    "BF16": (torch.bfloat16, torch.int16),
}
"""Types that are merged, as safetensors names them: torch's, and that of their bits."""
COPIED = (".json", ".jinja", ".txt", ".model")
"""Kinds of files that a merged directory takes from the first one."""
LAYERS = "model.layers."


@dataclass(frozen=True)
class Merging:
    """What is merged, and how; the fields of `start: {type: merge}` in a recipe.

    Attributes:
        exports: Directory by model; the first one lends its configuration and tokenizer.
        hashes: By model the hash of its weights, which decides its place in sums.
        weights: Share by model.
        method: `linear`, `task_arithmetic` or `ties`.
        base: The model that differences are taken from.
        scale: Factor of the summed differences.
        density: Share of a tensor's differences that `ties` keeps.
        parent_share: The first model's share in each run of layers; empty: `weights` everywhere.
        num_layers: Layers of the model.
    """

    exports: dict[str, Path]
    hashes: dict[str, str]
    weights: dict[str, float]
    method: str = "linear"
    base: str | None = None
    scale: float = 1.0
    density: float = 1.0
    parent_share: tuple[float, ...] = ()
    num_layers: int = 0

    def shares(self, name: str) -> list[tuple[str, float]]:
        """The models that a tensor is summed of, each with its share, in the order of the sum."""
        shares = self.weights
        if self.parent_share and name.startswith(LAYERS):
            layer = int(name.split(".")[2])
            own = self.parent_share[layer * len(self.parent_share) // self.num_layers]
            first, second = self.weights
            shares = {first: own, second: 1 - own}
        counting = [(model, share) for model, share in shares.items() if share]
        return sorted(counting, key=lambda entry: (self.hashes[entry[0]], entry[1]))


def merge(merging: Merging, to: Path) -> None:
    """Writes a merged model as a Hugging Face directory, in files like the first model's.

    The directory is written under a temporary name and renamed. Memory: some blocks in fp64.

    Args:
        merging: What is merged.
        to: The directory; replaced if it exists.

    Raises:
        PerdureError: If the models differ in tokenizer, tensors, shapes or types, or one is of whole numbers.
    """
    first, *others = merging.exports.values()
    for other in others:
        if difference := unlike(first, other):
            raise PerdureError(f"{other}: cannot be merged with {first}: {difference}")
    made = to.with_name(f".{to.name}")
    shutil.rmtree(made, ignore_errors=True)
    made.mkdir(parents=True)
    tensors = _tensors(merging)
    for file in weight_files(first):
        own = [stored for stored in stored_tensors(first).values() if stored.file == file]
        with (made / file.name).open("wb") as written:
            written.write(file_header(file)[0])  # the same tensors in the same places
            for stored in sorted(own, key=lambda stored: data_range(stored)[0]):
                for block in _blocks(merging, tensors, stored.name):
                    written.write(_bytes(block))
    for file in first.iterdir():
        if file.suffix in COPIED:
            shutil.copyfile(file, made / file.name)
    shutil.rmtree(to, ignore_errors=True)
    move_whole(made, to)


def merged_reader(merging: Merging) -> Callable[[str], Tensor]:
    """A reader of single tensors of a merged model by name, without files."""
    tensors = _tensors(merging)

    def read(name: str) -> Tensor:
        whole = torch.cat(list(_blocks(merging, tensors, name)))
        return whole.view(next(iter(tensors.values()))[name].size)

    return read


Tensors = dict[str, dict[str, Stored]]


def _tensors(merging: Merging) -> Tensors:
    return {model: stored_tensors(directory) for model, directory in merging.exports.items()}


def _blocks(merging: Merging, tensors: Tensors, name: str) -> Iterator[Tensor]:
    """Yields a merged tensor, flat, in blocks."""
    stored = next(iter(tensors.values()))[name]
    if stored.dtype not in TYPES:
        raise PerdureError(
            f"{stored.file}: {name} is {stored.dtype}; models of floating-point numbers can be merged"
        )
    size, shares = math.prod(stored.size), merging.shares(name)
    ranges = [(start, min(start + BLOCK, size)) for start in range(0, size, BLOCK)]
    read = {model: partial(_read, own[name]) for model, own in tensors.items()}

    def differences(model: str) -> Iterator[Tensor]:
        assert merging.base is not None
        for start, stop in ranges:
            yield read[model](start, stop).double() - read[merging.base](start, stop).double()

    cuts = []
    if merging.method == "ties":
        keep = max(1, int(merging.density * size))
        cuts = [find_cut(partial(differences, model), keep) for model, _ in shares]
    for start, stop in ranges:
        parts, factors = [read[model](start, stop) for model, _ in shares], [share for _, share in shares]
        if merging.base is None:
            yield linear(parts, factors)
        elif merging.method == "ties":
            yield ties(read[merging.base](start, stop), parts, factors, merging.scale, cuts)
        else:
            yield task_arithmetic(read[merging.base](start, stop), parts, factors, merging.scale)


def linear(parts: list[Tensor], shares: list[float]) -> Tensor:
    """The weighted sum of tensors of one type, rounded once; shares sum to 1, and none is 0."""
    if len(parts) == 1:
        return parts[0]
    total = torch.zeros(parts[0].shape, dtype=torch.float64)
    for part, share in zip(parts, shares):
        total += share * part.double()
    return _kept(parts, rounded(total, parts[0].dtype))


def task_arithmetic(base: Tensor, parts: list[Tensor], shares: list[float], scale: float) -> Tensor:
    """base + scale x sum of share x (part - base), rounded once (Ilharco et al. 2023, equation 1 and section 2)."""
    origin = base.double()
    total = torch.zeros_like(origin)
    for part, share in zip(parts, shares):
        total += share * (part.double() - origin)
    return _kept([base, *parts], rounded(origin + scale * total, base.dtype))


@dataclass
class Cut:
    """Which numbers of a tensor are kept: those above a threshold in absolute value, and the first ones of its size.

    Attributes:
        threshold: The smallest absolute value that is kept.
        equal: How many of that value are still to be kept.
    """

    threshold: float
    equal: int


def find_cut(blocks: Callable[[], Iterable[Tensor]], keep: int) -> Cut:
    """The cut that keeps so many numbers of a tensor, the largest ones by absolute value.

    Absolute values in fp64 are in the order of their bits: 16 of these are counted at a time, from the highest on.

    Args:
        blocks: Yields the tensor in fp64, block by block; it is gone through four times.
        keep: How many numbers are kept, at least 1 and at most all.
    """
    found, left = 0, keep
    for shift in (48, 32, 16, 0):
        counts = torch.zeros(1 << 16, dtype=torch.int64)
        for block in blocks():
            bits = block.abs().view(torch.int64)
            own = bits[bits >> shift >> 16 == found]
            counts += torch.bincount(own >> shift & 0xFFFF, minlength=1 << 16)
        above = counts.flip(0).cumsum(0).flip(0)  # in this bin and all higher ones
        last = int((above >= left).nonzero()[-1])
        left -= int(above[last] - counts[last])
        found = found << 16 | last
    return Cut(torch.tensor(found).view(torch.float64).item(), left)


def ties(base: Tensor, parts: list[Tensor], shares: list[float], scale: float, cuts: list[Cut]) -> Tensor:
    """base + scale x the mean of trimmed differences that have the sign of their sum (Yadav et al. 2023, algorithm 1).

    A sum of 0 counts as positive. The mean is weighted by the shares, which are positive.

    Args:
        base: Numbers of the base, flat.
        parts: Those of the models.
        shares: Share by model.
        scale: Factor of the mean.
        cuts: By model which differences are kept; they remember what of equal ones earlier blocks have kept.
    """
    origin = base.double()
    trimmed = [_trimmed(part.double() - origin, cut) for part, cut in zip(parts, cuts)]
    total = torch.zeros_like(origin)
    for difference, share in zip(trimmed, shares):
        total += share * difference
    positive = total >= 0
    mean, weight = torch.zeros_like(origin), torch.zeros_like(origin)
    for difference, share in zip(trimmed, shares):
        agrees = torch.where(positive, difference > 0, difference < 0)
        mean += share * difference * agrees
        weight += share * agrees
    changed = weight > 0
    mean = torch.where(changed, mean / weight.clamp(min=torch.finfo(torch.float64).tiny), 0.0)
    return torch.where(changed, rounded(origin + scale * mean, base.dtype), base)


def _trimmed(difference: Tensor, cut: Cut) -> Tensor:
    """What a cut keeps of a flat tensor, and 0 in place of the rest."""
    magnitude = difference.abs()
    kept = magnitude > cut.threshold
    equal = (magnitude == cut.threshold).nonzero().flatten()[: cut.equal]
    kept[equal] = True
    cut.equal -= len(equal)
    return difference * kept


def rounded(values: Tensor, dtype: torch.dtype) -> Tensor:
    """fp64 numbers rounded once, to the nearest of a type, ties to even.

    torch goes to half precision by way of fp32, which rounds twice. That fp32 is rounded to odd here (towards 0, and the last
    bit set where it is not exact), after which the second rounding is right (Boldo and Melquiond 2008).
    """
    if dtype in (torch.float64, torch.float32):
        return values.to(dtype)
    single = values.float()
    beyond = single.double().abs() > values.abs()
    single = torch.where(beyond, torch.nextafter(single, torch.zeros_like(single)), single)
    inexact = single.double() != values
    bits = single.view(torch.int32)
    return torch.where(inexact, bits | 1, bits).view(torch.float32).to(dtype)


def _kept(parts: list[Tensor], merged: Tensor) -> Tensor:
    """A result, with the parts' own bits where all of them are the same."""
    bits = next(own for kind, own in TYPES.values() if kind == merged.dtype)
    first = parts[0].view(bits)
    same = torch.ones(first.shape, dtype=torch.bool)
    for part in parts[1:]:
        same &= part.view(bits) == first
    return torch.where(same, first, merged.view(bits)).view(merged.dtype)


def _read(stored: Stored, start: int, stop: int) -> Tensor:
    """Numbers of a tensor in its file, flat, as torch has them."""
    kind, bits = TYPES[stored.dtype]
    numbers = torch.empty(stop - start, dtype=bits)
    first, _ = data_range(stored)
    with stored.file.open("rb", buffering=0) as file:
        file.seek(first + start * numbers.element_size())
        wanted = memoryview(numbers.numpy()).cast("B")
        while wanted:
            if not (read := file.readinto(wanted)):
                raise PerdureError(f"{stored.file}: ends before {stored.name} does; copy it again")
            wanted = wanted[read:]
    return numbers.view(kind)


def _bytes(block: Tensor) -> memoryview:
    bits = next(own for kind, own in TYPES.values() if kind == block.dtype)
    return memoryview(block.view(bits).numpy()).cast("B")
