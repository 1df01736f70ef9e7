"""What tests of kernels ask of process groups: `python kernel_ranks.py FUNCTION WORLD_SIZE DIRECTORY`, over gloo."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

if __name__ == "__main__":
    os.environ.setdefault("TRITON_INTERPRET", "1")

import torch
import torch.distributed as dist

from perdure.kernels import linear_nll, select_tokens, selective, selective_linear_cross_entropy


def on_ranks(function: str, world_size: int, *arguments) -> list:
    """Calls a function of this file on every rank of a new group; returns what each returned."""
    with tempfile.TemporaryDirectory() as directory:
        command = [sys.executable, __file__, function, str(world_size), directory, json.dumps(arguments)]
        outcome = subprocess.run(command, capture_output=True, text=True)
        assert outcome.returncode == 0, outcome.stderr
        return [json.loads((Path(directory) / str(rank)).read_text()) for rank in range(world_size)]


SCOPES = {
    "microbatch": None,
    "sequence": None,
    "dp_microbatch": None,
    "global": None,
    "global_lagged": torch.tensor(1.5),
}
"""Every scope, and the threshold of the step before."""


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


def vocabulary_shards(rank: int) -> list:
    """The loss over 1, 2 and 4 shards of the vocabulary, with and without sequence parallelism.

    Returns the largest relative differences from one shard: of losses, of gradients; and whether selections of every
    scope agree.
    """
    groups = {1: None, 2: [dist.new_group([0, 1]), dist.new_group([2, 3])][rank // 2], 4: dist.group.WORLD}
    worst, agree = [0.0, 0.0], True
    # Of two shards the first would be chunked for its 48 columns, and the second not for its 22.
    selective.TORCH_LOGITS = 16 * 30
    for impl in ("torch", "chunked", "triton", "auto"):
        for dtype in (torch.float32, torch.bfloat16):
            whole = _shard(impl, dtype, 0, 1, None, False)
            for ranks in (2, 4):
                place = rank % ranks
                for sequence_parallel in (False, True):
                    found = _shard(impl, dtype, place, ranks, groups[ranks], sequence_parallel)
                    agree &= torch.equal(found["selected"], whole["selected"])
                    agree &= _equal_on_all_ranks(found["nll"], groups[ranks])
                    length = found["hidden"].shape[1]
                    start = place * length if sequence_parallel else 0
                    expected = {
                        "nll": whole["nll"],
                        "scored": whole["nll"],
                        "entropy": whole["entropy"],
                        "hidden": whole["hidden"][:, start : start + length],
                        "weight": whole["weight"].chunk(ranks)[place],
                    }
                    for name, value in expected.items():
                        difference = (found[name].double() - value.double()).norm()
                        relative = float(difference / value.double().norm().clamp_min(1e-30))
                        # bf16 gradients are rounded once a rank
                        relative /= 1 if dtype == torch.float32 or name not in ("hidden", "weight") else 1000
                        kind = int(name in ("hidden", "weight"))
                        worst[kind] = max(worst[kind], relative)
    return [*worst, bool(agree)]


def _shard(impl, dtype, place, ranks, group, sequence_parallel) -> dict:
    """96 rows of weight, of which 70 count: the last of four shards is nothing but padding."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(2, 8, 20, generator=generator).to(dtype)
    weight = torch.randn(96, 20, generator=generator).to(dtype).chunk(ranks)[place].requires_grad_()
    labels = torch.randint(0, 70, (2, 8), generator=generator)
    valid = torch.rand(2, 8, generator=generator) > 0.2
    reference, upstream = torch.rand(2, 2, 8, generator=generator)
    common = {"vocab_size": 70, "tp_group": group, "softcap": 20.0, "impl": impl}
    scored, entropy = linear_nll(hidden, weight, labels, entropy=True, **common)
    if sequence_parallel:
        hidden = hidden.chunk(ranks, 1)[place]
    hidden = hidden.requires_grad_()
    loss, selected, nll, _ = selective_linear_cross_entropy(
        hidden,
        weight,
        labels,
        valid=valid,
        reference_nll=reference,
        k=0.6,
        sequence_parallel=sequence_parallel,
        z_loss=1e-3,
        **common,
    )
    gradients = torch.autograd.grad((loss * selected * upstream).sum(), (hidden, weight))
    by_scope = [
        select_tokens(nll, reference, valid, k=0.6, scope=scope, threshold=threshold)
        for scope, threshold in SCOPES.items()
    ]
    assert torch.equal(by_scope[0], selected)
    results = {"nll": nll, "selected": torch.stack(by_scope), "scored": scored, "entropy": entropy}
    results |= {"hidden": gradients[0], "weight": gradients[1]}
    return {name: tensor.detach() for name, tensor in results.items()}


def kl_of_vocabulary_shards(rank: int) -> list:
    """KL to a teacher over 1, 2 and 4 shards of the vocabulary, with and without sequence parallelism.

    Returns the largest relative differences from one shard: of losses and KL, of gradients; whether KL has the same bits on
    all ranks; and whether it, and its gradient, are 0 where the teacher is the student.
    """
    groups = {1: None, 2: [dist.new_group([0, 1]), dist.new_group([2, 3])][rank // 2], 4: dist.group.WORLD}
    worst, agree, zero = [0.0, 0.0], True, True
    for impl in ("torch", "chunked", "triton"):
        for dtype in (torch.float32, torch.bfloat16):
            whole = _kl_shard(impl, dtype, 0, 1, None, False)
            for ranks in (2, 4):
                place = rank % ranks
                for sequence_parallel in (False, True):
                    layout = (impl, dtype, place, ranks, groups[ranks], sequence_parallel)
                    found = _kl_shard(*layout)
                    agree &= _equal_on_all_ranks(found["kl"], groups[ranks])
                    length = found["hidden"].shape[1]
                    start = place * length if sequence_parallel else 0
                    expected = dict(whole, hidden=whole["hidden"][:, start : start + length])
                    expected["weight"] = whole["weight"].chunk(ranks)[place]
                    for name, value in expected.items():
                        difference = (found[name].double() - value.double()).norm()
                        relative = float(difference / value.double().norm().clamp_min(1e-30))
                        kind = int(name in ("hidden", "weight"))
                        # bf16 gradients are rounded once a rank
                        relative /= 1000 if kind and dtype == torch.bfloat16 else 1
                        worst[kind] = max(worst[kind], relative)
                    itself = _kl_shard(*layout, itself=True)
                    zero &= all(not itself[name].any() for name in ("kl", "hidden", "weight"))
    return [*worst, bool(agree), bool(zero)]


def _kl_shard(impl, dtype, place, ranks, group, sequence_parallel, itself=False) -> dict:
    """96 rows of weight, of which 70 count; a KL at every second token, and `itself`: nothing else."""
    generator = torch.Generator().manual_seed(0)
    hidden, theirs = torch.randn(2, 2, 8, 20, generator=generator).to(dtype)
    weight, their_weight = (
        x.chunk(ranks)[place] for x in torch.randn(2, 96, 20, generator=generator).to(dtype)
    )
    labels = torch.randint(0, 70, (2, 8), generator=generator)
    if itself:
        theirs, their_weight = hidden.clone(), weight.clone()
    if sequence_parallel:
        hidden, theirs = (x.chunk(ranks, 1)[place] for x in (hidden, theirs))
    hidden, weight = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
    found = selective_linear_cross_entropy(
        hidden,
        weight,
        labels,
        valid=torch.ones_like(labels, dtype=torch.bool),
        token_weight=torch.full((2, 8), 0.0 if itself else 0.7),
        teacher_hidden=theirs,
        teacher_weight=their_weight,
        kl_weight=(torch.arange(16) % 2).view(2, 8) * 1.5,
        vocab_size=70,
        tp_group=group,
        sequence_parallel=sequence_parallel,
        softcap=20.0,
        z_loss=1e-3,
        impl=impl,
    )
    gradients = torch.autograd.grad(found.loss.sum(), (hidden, weight))
    results = {"loss": found.loss, "kl": found.kl, "hidden": gradients[0], "weight": gradients[1]}
    return {name: tensor.detach() for name, tensor in results.items()}


def _equal_on_all_ranks(tensor: torch.Tensor, group: dist.ProcessGroup) -> bool:
    parts = [torch.empty_like(tensor) for _ in range(dist.get_world_size(group))]
    dist.all_gather(parts, tensor.contiguous(), group=group)
    return all(torch.equal(part, parts[0]) for part in parts)


def _rank(function: str, rank: int, world_size: int, directory: str, arguments: list) -> None:
    store = dist.FileStore(f"{directory}/store", world_size)
    dist.init_process_group("gloo", rank=rank, world_size=world_size, store=store)
    (Path(directory) / str(rank)).write_text(json.dumps(globals()[function](rank, *arguments)))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    import torch.multiprocessing as mp

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
