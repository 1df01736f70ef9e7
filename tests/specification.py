"""Reference implementations, written from docs/specification.md alone: they use nothing of the program's own code."""

import hashlib
import json
import math
import struct
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
import xxhash

MASK = (1 << 64) - 1


def number(text: str) -> int:
    return int(hashlib.sha256(json.dumps(text).encode()).hexdigest()[:16], 16)


def finish(x: int) -> int:
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 & MASK
    x = (x ^ x >> 27) * 0x94D049BB133111EB & MASK
    return x ^ x >> 31


def mix(a: int, b: int) -> int:
    return finish(a * 0x9E3779B97F4A7C15 + b + 0xD1B54A32D192ED03 & MASK)


def draw(seed: int, i: int) -> int:
    return finish((i + 1) * 0x9E3779B97F4A7C15 + seed & MASK)


def permute(i: int, n: int, key: int) -> int:
    h = max(1, math.ceil((n - 1).bit_length() / 2))
    while True:
        left, right = i >> h, i % (1 << h)
        for r in range(4):
            left, right = right, left ^ mix(key + r & MASK, right) % (1 << h)
        i = (left << h) + right
        if i < n:
            return i


def held_out(text: str, fraction: float) -> bool:
    """Of a text as `clean/` holds it."""
    return xxhash.xxh3_64(text.encode()).intdigest() < fraction * 2**64


# -------------------------------------------------------------------------------------------- shards


def read_shard(prefix: Path) -> list[np.ndarray]:
    """The documents of a `.bin` and `.idx`."""
    index = Path(f"{prefix}.idx").read_bytes()
    assert index[:9] == b"MMIDIDX\0\0" and struct.unpack("<Q", index[9:17]) == (1,)
    dtype = {8: "<u2", 4: "<i4"}[index[17]]
    count, borders = struct.unpack("<QQ", index[18:34])
    assert borders == count + 1 and len(index) == 34 + count * 12 + borders * 8
    lengths = np.frombuffer(index, "<i4", count, 34)
    offsets = np.frombuffer(index, "<i8", count, 34 + 4 * count)
    content = Path(f"{prefix}.bin").read_bytes()
    assert len(content) == lengths.sum() * np.dtype(dtype).itemsize
    return [np.frombuffer(content, dtype, n, o) for n, o in zip(lengths, offsets, strict=True)]


def documents_of(directory: Path, kind: str = "") -> list[np.ndarray]:
    """The documents of a source, or what a sidecar says of them, numbered through the shards."""
    names = sorted(
        path.name.split(".")[0] for path in directory.glob(f"0*{kind}.idx") if "heldout" not in path.name
    )
    return [document for name in sorted(set(names)) for document in read_shard(directory / f"{name}{kind}")]


def shuffled(count: int, seed: int, key: str) -> list[int]:
    return sorted(range(count), key=lambda document: (draw(mix(seed, number(key)), document), document))


# ---------------------------------------------------------------------------------------------- plan


def read_share(share: str, k: str, share_of: str = "trained") -> Fraction:
    s, k = Fraction(share), Fraction(k)
    return s * k / (1 - s + s * k) if share_of == "trained" else s


def block_counts(shares: list[Fraction]) -> list[int]:
    length = math.lcm(*(share.denominator for share in shares))
    if length <= 65_536:
        return [int(share * length) for share in shares]
    length = 65_536
    counts = [max(1, math.floor(share * length)) for share in shares]
    remainders = sorted(range(len(shares)), key=lambda i: shares[i] * length - counts[i], reverse=True)
    for i in remainders[: max(0, length - sum(counts))]:
        counts[i] += 1
    while sum(counts) > length:
        counts[counts.index(max(counts))] -= 1
    return counts


def largest_remainder(ratios: list[float], parts: int) -> list[int]:
    """Whole parts of ratios that sum to 1."""
    counts = [max(1, math.floor(ratio * parts)) for ratio in ratios]
    remainders = sorted(range(len(ratios)), key=lambda i: ratios[i] * parts - counts[i], reverse=True)
    for i in remainders[: max(0, parts - sum(counts))]:
        counts[i] += 1
    while sum(counts) > parts:
        counts[counts.index(max(counts))] -= 1
    return counts


def block(counts: list[int]) -> list[int]:
    """Places of a block, by exact fractions and a look at every source."""
    m, length = len(counts), sum(counts)
    if m == 1:
        return [0] * length
    slack, taken, last, places = 2 * m - 2, [0] * m, [-1] * m, []
    for place in range(length):
        ready = []
        for source, (j, c) in enumerate(zip(taken, counts)):
            release = max(math.ceil(Fraction((j * slack + 1) * length, c * slack)) - 1, last[source] + 1)
            if j < c and release <= place:
                due = math.floor(Fraction(((j + 1) * slack - 1) * length << 33, c))
                ready.append((due, source))
        source = min(ready)[1]
        taken[source] += 1
        last[source] = place
        places.append(source)
    return places


def locate(plan: dict, index: int) -> tuple[str, int, int]:
    """Key, epoch and place in the stream of a sample, by counting from the plan's first."""
    taken = {key: entry["start"] for key, entry in plan["sources"].items()}
    phases = plan["phases"]
    for phase, after in zip(phases, [*phases[1:], None]):
        first = phase["first_sample"]
        keys = [key for key in plan["sources"] if phase["counts"].get(key)]
        places = block([phase["counts"][key] for key in keys])
        here = after is None or index < after["first_sample"]
        until = index if here else after["first_sample"]
        for position in range(until - first):
            taken[keys[places[position % len(places)]]] += 1
        if here:
            key = keys[places[(index - first) % len(places)]]
            break
    entry, seed = plan["sources"][key], plan["seed"]
    epoch, place = divmod(taken[key], entry["samples_per_epoch"])
    if entry["order"] == "shuffled":
        place = permute(place, entry["samples_per_epoch"], mix(mix(seed, number(key)), epoch))
    pool = entry["pool"]
    if pool and pool["order"] == "shuffled":
        place = permute(place, pool["samples_per_epoch"], mix(mix(seed, number(pool["key"])), 0))
    return key, epoch, place


def sample(values: np.ndarray, place: int, length: int, fill: int) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and labels of a sample of a stream of tokens; labels are as many as there are."""
    labels = values[place * length : (place + 1) * length].astype(np.int64)
    before = values[place * length - 1] if place else fill
    inputs = np.full(length, fill, np.int64)
    inputs[: len(labels)] = [before, *labels[:-1]]
    if len(labels) < length:
        inputs[len(labels)] = labels[-1]
    return inputs, labels


# ------------------------------------------------------------------------------- selection and rates


def select(scores: np.ndarray, k: str) -> np.ndarray:
    """Of tokens in order, float with -inf for those that cannot be, which are selected."""
    wanted = min(math.floor(Fraction(k) * len(scores) + Fraction(1, 2)), int(np.isfinite(scores).sum()))
    best = sorted(range(len(scores)), key=lambda i: (-scores[i], i))[:wanted]
    return np.isin(np.arange(len(scores)), best)


def random_reference(seed: int, sample_number: int, length: int) -> list[int]:
    return [(draw(seed, sample_number * length + place) >> 41) + 65_536 for place in range(length)]


def cosine(step: int, steps: int, high: float, low: float, warmup: float) -> float:
    w = round(warmup * steps)
    if step < w:
        return high * step / w
    return low + (high - low) / 2 * (1 + math.cos(math.pi * (step - w) / (steps - w)))


def random_tensor(name: str, shape: tuple[int, ...], seed: int, std: float, layers: int) -> torch.Tensor:
    part = name.split(".")[-2]
    if part.endswith("norm"):
        return torch.ones(shape)
    start = int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:7], "little")
    numbers = torch.randn(shape, generator=torch.Generator().manual_seed(start))
    return numbers * (std / math.sqrt(2 * layers) if part in ("o_proj", "down_proj") else std)


def bootstrap(losses: np.ndarray, tokens: np.ndarray, seed: int, strata: list[int]) -> list[float]:
    """The interval of a mean loss over documents, in strata that are numbered in the order of their names."""
    random = np.random.default_rng([seed, len(tokens)])
    groups = sorted(
        ([i for i, own in enumerate(strata) if own == name] for name in sorted(set(strata))), key=len
    )
    small = [group for group in groups if len(group) < 5]
    together, groups = [i for group in small for i in group], groups[len(small) :]
    while 0 < len(together) < 5 and groups:
        together += groups.pop(0)
    means = np.zeros(1000)
    for group in ([together] if together else []) + groups:
        m = len(group)
        times = random.multinomial(max(1, m - 1), np.full(m, 1 / m), 1000)
        share = tokens[group].sum() / tokens.sum()
        means += share * (times * losses[group]).sum(1) / (times * tokens[group]).sum(1)
    return np.quantile(means, [0.025, 0.975]).tolist()


def heldout_sample(documents: list[tuple[int, int, int]], budget: int) -> list[tuple[int, int, int]]:
    """Pieces (hash, begin, stop) of documents (tokens, hash, stratum) that are measured, one by one."""
    placed = []
    for stratum in {own for _, _, own in documents}:
        pieces = []
        for n, h, own in documents:
            if own == stratum:
                m = -(-n // max(1, budget // 20))
                pieces += [(draw(0, h ^ draw(1, j)), h, j * n // m, (j + 1) * n // m) for j in range(m)]
        pieces.sort()
        whole, before = sum(stop - begin for _, _, begin, stop in pieces), 0
        for _, h, begin, stop in pieces:
            middle = (before + (stop - begin) / 2) / whole
            placed.append(((middle - draw(2, pieces[0][0]) / 2**64) % 1, stratum, h, begin, stop))
            before += stop - begin
    taken, left = [], budget
    for _, _, h, begin, stop in sorted(placed):
        left -= stop - begin
        if left < 0 and taken:
            break
        taken.append((h, begin, stop))
    return sorted(taken)
