"""What the loading benchmark measures, in a process that imports no more than loading needs."""

import json
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import torch

from perdure.pipeline.plan import locate
from perdure.pipeline.train.dataset import open_dataset, read_batch, read_sample


def loading(plan: str, data: str) -> dict:
    """Start-up, memory, throughput and seek time of reading samples; the process imports no more than it needs."""
    before = psutil.Process().memory_info().rss
    begun = time.perf_counter()
    dataset = open_dataset(Path(plan), {"a": Path(data)}, {})
    read_batch(dataset, range(1), torch.device("cpu"))
    start_up = time.perf_counter() - begun
    memory = psutil.Process().memory_info().rss
    micro, batches = 8, 1250
    begun = time.perf_counter()
    for number in range(batches):
        read_batch(dataset, range(number * micro, (number + 1) * micro), torch.device("cpu"))
    rate = batches * micro * dataset.plan.seq_length / (time.perf_counter() - begun)

    def seek(index: int) -> float:
        times = []
        for offset in range(200):
            begun = time.perf_counter()
            key, _epoch, sample = locate(dataset.plan, index + offset)
            read_sample(dataset.streams[key], sample, dataset.plan.seq_length)
            times.append(time.perf_counter() - begun)
        return float(np.median(times))

    seek(5_000_000)  # both start with a warm cache
    return {
        "start_up": start_up,
        "memory": memory,
        "memory_taken": memory - before,
        "rate": rate,
        "seek_10": seek(10),
        "seek_10m": seek(10_000_000),
    }


if __name__ == "__main__":
    function, arguments, answer = sys.argv[1:]
    Path(answer).write_text(json.dumps(globals()[function](*json.loads(arguments))))
