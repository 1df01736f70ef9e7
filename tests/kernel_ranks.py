"""What tests of kernels ask of process groups: `python kernel_ranks.py FUNCTION WORLD_SIZE DIRECTORY`, over gloo."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import torch.distributed as dist

from perdure.kernels import select_tokens


def on_ranks(function: str, world_size: int, *arguments) -> list:
    """Calls a function of this file on every rank of a new group; returns what each returned."""
    with tempfile.TemporaryDirectory() as directory:
        command = [sys.executable, __file__, function, str(world_size), directory, json.dumps(arguments)]
        outcome = subprocess.run(command, capture_output=True, text=True)
        assert outcome.returncode == 0, outcome.stderr
        return [json.loads((Path(directory) / str(rank)).read_text()) for rank in range(world_size)]


def selection(rank: int) -> int:
    """Compares data-parallel selection with that of one rank; returns how many problems were tried."""
    pairs = [dist.new_group([0, 1]), dist.new_group([2, 3])]
    for seed in range(40):
        _compare_selections(seed, 4, rank, dist.group.WORLD)
        _compare_selections(seed, 2, rank % 2, pairs[rank // 2])
    return 40


def _compare_selections(seed: int, ranks: int, rank: int, group: dist.ProcessGroup) -> None:
    generator = torch.Generator().manual_seed(seed)
    runs, batch, length = (int(torch.randint(1, 5, (), generator=generator)) for _ in range(3))
    shape = (runs * ranks, batch, length)
    nll = torch.randint(0, 4, shape, generator=generator).float() / 2
    reference = torch.randint(0, 3, shape, generator=generator).float() / 2
    reference[torch.rand(shape, generator=generator) < 0.1] = torch.nan
    valid = torch.rand(shape, generator=generator) > 0.2
    always = torch.rand(runs * ranks, batch, 1, generator=generator) < 0.2
    k = [0.1, 0.5, 0.6, 0.95][seed % 4]

    def select(places, scope, group=None):
        own = [x[places] for x in (nll, reference, valid)]
        return select_tokens(*own, k=k, scope=scope, always=always[places], group=group)

    whole = select(slice(None), "global")
    assert torch.equal(select(slice(rank, None, ranks), "global", group), whole[rank::ranks])
    # The ranks' first micro-batches are one wide micro-batch.
    wide = select(slice(0, ranks), "microbatch")
    assert torch.equal(select(slice(rank, rank + 1), "dp_microbatch", group)[0], wide[rank])


def _rank(function: str, rank: int, world_size: int, directory: str, arguments: list) -> None:
    store = dist.FileStore(f"{directory}/store", world_size)
    dist.init_process_group("gloo", rank=rank, world_size=world_size, store=store)
    (Path(directory) / str(rank)).write_text(json.dumps(globals()[function](rank, *arguments)))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    import torch.multiprocessing as mp

    os.environ["OMP_NUM_THREADS"] = "1"
    function, world_size, directory, arguments = sys.argv[1:]
    torch.set_num_threads(1)
    # Forked, so that torch is imported once.
    context = mp.get_context("fork")
    ranks = [
        context.Process(
            target=_rank, args=(function, rank, int(world_size), directory, json.loads(arguments))
        )
        for rank in range(int(world_size))
    ]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join()
    sys.exit(max(abs(process.exitcode) for process in ranks))
