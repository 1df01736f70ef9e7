"""A rank of the preflight's devices: `python -m launch.device_ranks JSON`, with what is to go wrong on which rank.

Keys: `seconds`; `slow`, `hangs`, `fails`, `wrong`, `breaks` (or `all`): the rank of which that is true.
"""

import json
import os
import sys
import time
from datetime import timedelta

import torch.distributed as dist

from perdure.launch import preflight_devices as devices
from perdure.pipeline.core import logs


def main() -> None:
    asked, rank = json.loads(sys.argv[1]), int(os.environ["RANK"])
    logs.configure(plain=True)
    multiply, reduce = devices.product_rate, devices.reduce_all

    def product_rate() -> float:
        if asked.get("fails") == rank:
            raise RuntimeError("CUDA error: uncorrectable ECC error encountered\nmore")
        if asked.get("hangs") == rank:
            time.sleep(600)
        return 0.1 * multiply() if asked.get("slow") == rank else multiply()

    def reduce_all() -> dict:
        if asked.get("stuck"):
            time.sleep(600)
        if asked.get("breaks") in (rank, "all"):
            raise RuntimeError("NCCL error: unhandled system error\nLast error: no socket interface found")
        return reduce() | ({"sum": 2.0} if asked.get("wrong") == rank else {})

    devices.product_rate, devices.reduce_all = product_rate, reduce_all
    seconds = asked["seconds"]
    store, missing = devices.meet(f"n{rank // 2}", timedelta(seconds=seconds))
    if missing:
        print(*filter(None, missing), sep="\n", file=sys.stderr, flush=True)
        time.sleep(devices.LAST_WORDS)
        sys.exit(1)
    world_size = int(os.environ["WORLD_SIZE"])
    dist.init_process_group(
        "gloo", store=store, rank=rank, world_size=world_size, timeout=timedelta(seconds=60)
    )
    lines = devices.check_devices(store, f"n{rank // 2}", seconds)
    dist.barrier()
    if rank == 0:
        print(json.dumps(lines), flush=True)
    sys.exit(len(lines) > 0)


if __name__ == "__main__":
    main()
