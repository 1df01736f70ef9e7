"""A plan over a trillion tokens, in a process of its own: `python trillion.py FUNCTION JSON_ARGUMENTS ANSWER`.

All sources share one source's files by hard links, so that a billion documents take 180 MB; tokens are holes.
"""

import json
import mmap
import os
import sys
import time
from pathlib import Path
from unittest.mock import patch

import numpy as np
import psutil
import torch

from perdure.pipeline.core.manifest import finish
from perdure.pipeline.plan import planning
from perdure.pipeline.plan.order import Order, write_order
from perdure.pipeline.plan.plan import locate
from perdure.pipeline.recipe import Recipe
from perdure.pipeline.train.dataset import Dataset, open_dataset, read_batch
from perdure.pipeline.train.streams import read_sample

sys.path.insert(0, str(Path(__file__).parents[1]))
from tiny import EOS, tiny_recipe

TASKS = 16
SEQ_LENGTH = 4096


def recipe(root: Path, sources: int, documents: int) -> Recipe:
    """One epoch of `sources` sources of about 1,000 tokens a document, with weights that have no common divisor."""
    weights = np.random.default_rng(1).uniform(0.5, 1.5, sources)
    named = {f"s{number:03d}": {"weight": float(weight)} for number, weight in enumerate(weights)}
    return tiny_recipe(
        root,
        sources={name: {"reader": {"type": "text", "path": "unused"}} for name in named},
        training__seq_length=SEQ_LENGTH,
        training__global_batch_size=1024,
        versions__v1__tokens=sources * documents * 1000,
        versions__v1__mixture={"sources": named},
    )


def write(root: str, sources: int, documents: int) -> dict:
    """Writes indices, orders and the plan; returns the data directories."""
    directory = Path(root)
    made = recipe(directory, sources, documents)
    first, *others = [directory / "data" / name for name in made.sources]
    _write_source(first, documents)
    for other in others:
        other.mkdir()
        for file in first.iterdir():
            os.link(file, other / file.name)
    order = [directory / "documents.npy", directory / "ends.npy"]
    write_order(Order(first, "shuffled", None, None, 1), *order)

    def link(_order: Order, *files: Path) -> None:
        for source, target in zip(order, files, strict=True):
            os.link(source, target)

    data = {path.name: path for path in (first, *others)}
    with patch.object(planning, "write_order", link):
        planning.build_plan(directory / "plan", made, "v1", data, {})
    return {name: str(path) for name, path in data.items()}


def _write_source(directory: Path, documents: int) -> None:
    directory.mkdir(parents=True)
    rng, tokens = np.random.default_rng(0), 0
    for task, part in enumerate(np.array_split(np.arange(documents), TASKS)):
        lengths = rng.integers(200, 1801, len(part), dtype=np.int32)
        ends = np.cumsum(lengths, dtype=np.int64) * 4
        with (directory / f"{task:05d}.idx").open("wb") as file:
            file.write(b"MMIDIDX\x00\x00" + np.array([1], np.uint64).tobytes() + bytes([4]))
            file.write(np.array([len(part), len(part) + 1], np.uint64).tobytes())
            file.write(lengths.tobytes() + (ends - lengths * 4).tobytes())
            file.write(np.arange(len(part) + 1, dtype=np.int64).tobytes())
        with (directory / f"{task:05d}.bin").open("wb") as file:
            file.truncate(int(ends[-1]))
        tokens += int(ends[-1]) // 4
    counts = {"train": {"documents": documents, "tokens": tokens}}
    facts = {"tasks": TASKS, "eos_id": EOS, "tokenizer_hash": "x", "data_hash": "x", "files": {}}
    finish(directory, facts | {"counts": counts})


def start_and_seek(root: str, sources: int, documents: int, data: dict, seeks: int) -> dict:
    """Seconds (and of these, on the CPU) of starting, of seeking with a warm and an emptied page cache; bytes of memory."""
    directory = Path(root)
    paths = {name: Path(path) for name, path in data.items()}
    made, before = recipe(directory, sources, documents), _own_memory()
    opened = []
    for _ in range(2):  # its files are compared with their hashes the first time, and then only looked at
        begun = _clocks()
        planning.build_plan(directory / "plan", made, "v1", paths, {})
        opened.append(_since(begun))
    begun = _clocks()
    dataset = open_dataset(directory / "plan", paths, {})
    read_batch(dataset, range(1), torch.device("cpu"))
    started = _since(begun)
    memory = _own_memory() - before
    last = dataset.plan.num_samples - 1
    rng = np.random.default_rng(2)
    found = {
        "compared": opened[0],
        "launcher": opened[1],
        "rank": started,
        "memory": memory,
        "samples": last + 1,
    }
    for name, high in (("first", min(1000, last)), ("anywhere", last)):
        found[f"warm_{name}"] = _seeks(dataset, rng.integers(0, high, seeks), cold=False)
    found["cold_anywhere"] = _seeks(dataset, rng.integers(0, last, max(seeks // 16, 1)), cold=True)
    return found


def _seeks(dataset: Dataset, indices: np.ndarray, cold: bool) -> dict:
    times = []
    for index in indices:
        if cold:
            _empty_page_cache(dataset)
        begun = _clocks()
        key, _epoch, sample = locate(dataset.plan, int(index))
        read_sample(dataset.streams[key], sample, SEQ_LENGTH)
        times.append(_since(begun))
    wall, cpu = zip(*times, strict=True)
    return {"median": float(np.median(wall)), "most": max(wall), "cpu": float(np.median(cpu))}


def _own_memory() -> int:
    """Bytes that are the process's own: not the pages of mapped files, which the system takes back when it wants to."""
    found = psutil.Process().memory_info()
    return found.rss - found.shared


def _clocks() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


def _since(begun: tuple[float, float]) -> tuple[float, float]:
    wall, cpu = _clocks()
    return wall - begun[0], cpu - begun[1]


def _empty_page_cache(dataset: Dataset) -> None:
    """Forgets all that was read: the maps' pages, then the files'."""
    files = {}
    for stream in dataset.streams.values():
        maps = [stream.documents, stream.ends]
        for shard in stream.shards:
            maps += [shard.lengths, shard.pointers, shard.values]
        for array in maps:
            array._mmap.madvise(mmap.MADV_DONTNEED)
            files[array.filename] = True
    for file in files:
        descriptor = os.open(file, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


if __name__ == "__main__":
    function, arguments, answer = sys.argv[1:]
    Path(answer).write_text(json.dumps(globals()[function](*json.loads(arguments))))
