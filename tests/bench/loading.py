"""What the loading benchmark measures, in a process that imports no more than loading needs."""

import json
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import torch

from perdure.pipeline.plan.plan import locate
from perdure.pipeline.train.dataset import open_dataset, read_batch
from perdure.pipeline.train.streams import read_sample


def loading(plan: str, data: str, batches: int, micro: int, seeks: int) -> dict:
    """Start-up, memory, throughput and seek time of reading samples; the process imports no more than it needs."""
    before = psutil.Process().memory_info().rss
    begun = time.perf_counter()
    dataset = open_dataset(Path(plan), {"a": Path(data)}, {})
    read_batch(dataset, range(1), torch.device("cpu"))
    start_up = time.perf_counter() - begun
    memory = psutil.Process().memory_info().rss
    begun = time.perf_counter()
    for number in range(batches):
        read_batch(dataset, range(number * micro, (number + 1) * micro), torch.device("cpu"))
    rate = batches * micro * dataset.plan.seq_length / (time.perf_counter() - begun)

    def seek(index: int) -> float:
        times = []
        for offset in range(seeks):
            begun = time.perf_counter()
            key, _epoch, sample = locate(dataset.plan, index + offset)
            read_sample(dataset.streams[key], sample, dataset.plan.seq_length)
            times.append(time.perf_counter() - begun)
        return float(np.median(times))

    last = dataset.plan.num_samples - seeks
    seek(last // 3)  # both start with a warm cache
    return {
        "start_up": start_up,
        "memory": memory,
        "memory_taken": memory - before,
        "rate": rate,
        "near": 10,
        "seek_near": seek(10),
        "far": last * 4 // 5,
        "seek_far": seek(last * 4 // 5),
    }


if __name__ == "__main__":
    function, arguments, answer = sys.argv[1:]
    Path(answer).write_text(json.dumps(globals()[function](*json.loads(arguments))))
