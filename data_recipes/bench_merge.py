"""Merges two exports of random weights of many gigabytes and measures the memory and time that it takes.

    python data_recipes/bench_merge.py DIRECTORY --gigabytes 10

Writes `DIRECTORY/first` and `DIRECTORY/second`, Llama-like models in bf16 with an index, and merges them in a process of its
own, whose peak memory it tells. Single tensors of the result are compared with sums of their own. DIRECTORY needs three times
the gigabytes; delete it afterwards.
"""

import argparse
import json
import multiprocessing
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from perdure.pipeline.model.huggingface import join_shards, tensor_files, weights_reader, write_shards
from perdure.pipeline.model.merging import Merging, merge

HIDDEN, FFN, VOCABULARY = 4096, 14_336, 128_256
"""Sizes of a Llama 3 of 8B; the number of layers follows from the gigabytes."""
SHARES = {"first": 0.2, "second": 0.8}
FINITE = 0xBFFF
"""Bits of a bf16 number without its largest exponents: random ones are below 2."""


def tensors(gigabytes: float, seed: int, width: int = HIDDEN) -> Iterator[tuple[str, torch.Tensor]]:
    """Random bf16 tensors of a Llama-like model, as many layers as fit."""
    generator, scale = np.random.default_rng(seed), width / HIDDEN

    def made(*size: int) -> torch.Tensor:
        bits = generator.integers(0, 1 << 16, [int(length * scale) for length in size], np.uint16) & FINITE
        return torch.from_numpy(bits.view(np.int16)).view(torch.bfloat16)

    projections = {"self_attn.q_proj": (HIDDEN, HIDDEN), "self_attn.o_proj": (HIDDEN, HIDDEN)}
    projections |= {
        "mlp.gate_proj": (FFN, HIDDEN),
        "mlp.up_proj": (FFN, HIDDEN),
        "mlp.down_proj": (HIDDEN, FFN),
    }
    layer = sum(int(rows * scale) * int(columns * scale) for rows, columns in projections.values())
    embedding = int(VOCABULARY * scale) * int(HIDDEN * scale)
    yield "model.embed_tokens.weight", made(VOCABULARY, HIDDEN)
    for number in range(max(1, round((gigabytes * 5e8 - embedding) / layer))):
        for name, size in projections.items():
            yield f"model.layers.{number}.{name}.weight", made(*size)


def write_model(
    directory: Path, gigabytes: float, seed: int, width: int = HIDDEN, shard: int = 2 * 10**9
) -> None:
    """Writes a model of random weights as an export has it: files of a bounded size, and an index."""
    directory.mkdir(parents=True)
    write_shards(tensors(gigabytes, seed, width), directory, 0, shard)
    dtype = join_shards(directory)
    (directory / "config.json").write_text(json.dumps({"model_type": "llama", "dtype": dtype}))


def merge_measured(directory: Path, method: str) -> dict[str, float]:
    """Merges the two models; seconds, and the process's peak memory in bytes with and without Python and its packages."""
    before = _peak()
    exports = {name: directory / name for name in SHARES}
    base = "first" if method == "ties" else None
    merging = Merging(exports, {name: name for name in SHARES}, SHARES, method, base, density=0.2)
    begun = time.perf_counter()
    merge(merging, directory / "merged")
    return {"seconds": time.perf_counter() - begun, "peak": _peak(), "before": before}


def _peak() -> int:
    """Peak resident memory of this process in bytes, on Linux; getrusage() would count that of who forked it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM:")).split()[1]) * 1024


def compare(directory: Path, count: int = 8) -> int:
    """Compares tensors of a linear merge with sums of their own in fp64; returns how many numbers were compared."""
    reads = [weights_reader(directory / name) for name in (*SHARES, "merged")]
    names, compared = list(tensor_files(directory / "merged")), 0
    for name in names[:: max(1, len(names) // count)]:
        one, other, found = (read(name)[:64] for read in reads)
        exact = SHARES["first"] * one.double() + SHARES["second"] * other.double()
        # torch goes to bf16 by way of fp32: its error is as small, or larger where it rounds twice.
        errors = [(rounded.double() - exact).abs() for rounded in (found, exact.to(torch.bfloat16))]
        assert (errors[0] <= errors[1]).all() and (errors[0] <= exact.abs() * 2**-8 + 2**-134).all()
        compared += one.numel()
    return compared


def main(directory: Path, gigabytes: float, method: str) -> dict[str, float]:
    """Writes, merges and compares; returns what was measured."""
    for seed, name in enumerate(SHARES):
        if not (directory / name).exists():
            write_model(directory / name, gigabytes, seed)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        found = pool.apply(merge_measured, (directory, method))
    files = sorted({path.stat().st_size for path in tensor_files(directory / "merged").values()})
    size = sum(path.stat().st_size for path in (directory / "merged").glob("*.safetensors"))
    if method == "linear":
        found["compared"] = compare(directory)
    return found | {"bytes": size, "largest_shard": files[-1]}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("directory", type=Path)
    parser.add_argument("--gigabytes", type=float, default=10.0)
    parser.add_argument("--method", choices=("linear", "ties"), default="linear")
    given = parser.parse_args()
    result = main(given.directory, given.gigabytes, given.method)
    json.dump(result, sys.stdout, indent=1)
    print()
