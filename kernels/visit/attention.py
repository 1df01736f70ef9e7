"""What attention costs by implementation: what determinism takes, how packed documents fare, what fp32 falls back to."""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.attention as torch_attention
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.varlen import varlen_attn

from perdure.kernels.bench_measure import measure, peak_memory
from perdure.kernels.visit.rows import Record, here, run_part, tried

SIZES = {"1B, 2048 tokens": (2048, 32, 8, 64), "8B, 8192 tokens": (8192, 32, 8, 128)}
"""Tokens, heads, groups of keys and width of a head."""
TINY = {"tiny": (32, 4, 2, 8)}
WAYS = (
    ("flash, deterministic", SDPBackend.FLASH_ATTENTION, True),
    ("flash", SDPBackend.FLASH_ATTENTION, False),
    ("cuDNN", SDPBackend.CUDNN_ATTENTION, False),
    ("cuDNN, deterministic", SDPBackend.CUDNN_ATTENTION, True),
)
"""Name, backend, and whether deterministic algorithms are asked for, as the trainer asks."""


def attention(record: Record, tiny: bool) -> None:
    """Records milliseconds and TFLOP/s of forward and backward passes, and the errors of packed documents."""
    device = here()
    for size, (tokens, heads, groups, width) in (TINY if tiny else SIZES).items():
        queries = heads_of(1, tokens, (heads, groups, groups), width, device)
        flops = 3.5 * 4 * tokens**2 * heads * width / 2  # causal; a backward pass has five products to two
        for name, backend, deterministic in WAYS:
            of = {"size": size, "way": name}
            tried(record, of, partial(timed, queries, backend, deterministic, flops))
        for name, deterministic in (("FlashAttention-3", False), ("FlashAttention-3, deterministic", True)):
            tried(record, {"size": size, "way": name}, partial(third_flash, queries, deterministic, flops))
    tried(record, {"size": "packed documents", "way": "varlen"}, lambda: packed(device, tiny))
    tried(record, {"size": "4096 tokens", "way": "fp32"}, lambda: fp32_memory(device, tiny))


def heads_of(
    batch: int, tokens: int, heads: tuple[int, ...], width: int, device: torch.device
) -> tuple[Tensor, ...]:
    """Random queries, keys and values in bf16, [batch, heads, tokens, width], which take gradients."""
    generator = torch.Generator(device).manual_seed(0)
    made = (torch.randn(batch, h, tokens, width, generator=generator, device=device) for h in heads)
    return tuple(x.bfloat16().requires_grad_() for x in made)


def timed(
    queries: tuple[Tensor, ...], backend: SDPBackend, deterministic: bool, flops: float
) -> dict[str, Any]:
    """Forward and backward by one backend of torch; an error if it does not take these."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(deterministic)
    try:
        with sdpa_kernel(backend):
            found = measure(lambda: _both(queries), queries[0].device, 12)
    finally:
        torch.use_deterministic_algorithms(before)
    return {"ms": found.milliseconds, "tflops": flops / found.milliseconds / 1e9}


def third_flash(queries: tuple[Tensor, ...], deterministic: bool, flops: float) -> dict[str, Any]:
    """FlashAttention-3 in place of torch's own, where it is installed."""
    activate: Callable[[str], None] | None = getattr(torch_attention, "activate_flash_attention_impl", None)
    if activate is None:
        return {"failed": "this torch has no activate_flash_attention_impl"}
    activate("FA3")
    try:
        return timed(queries, SDPBackend.FLASH_ATTENTION, deterministic, flops)
    finally:
        restore: Callable[[], None] | None = getattr(torch_attention, "restore_flash_attention_impl", None)
        if restore is not None:
            restore()


def _both(queries: tuple[Tensor, ...]) -> None:
    query, key, value = queries
    result = F.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)
    torch.autograd.grad(result, queries, result.detach())


def packed(device: torch.device, tiny: bool) -> dict[str, Any]:
    """Documents kept apart by one call for all, beside a call for each: milliseconds, and the largest difference."""
    lengths = (7, 9, 16) if tiny else (700, 800, 548, 1200, 848)
    ends = torch.tensor((0, *lengths)).cumsum(0).to(device, torch.int32)
    total, longest = sum(lengths), max(lengths)
    leaves = heads_of(1, total, (4, 2, 2) if tiny else (32, 8, 8), 8 if tiny else 64, device)
    query, key, value = (x[0].transpose(0, 1) for x in leaves)
    groups = {"enable_gqa": True} if "enable_gqa" in inspect.signature(varlen_attn).parameters else {}

    def one_call() -> Tensor:
        return varlen_attn(query, key, value, ends, ends, longest, longest, window_size=(-1, 0), **groups)

    def apart() -> Tensor:
        parts = zip(*(x.transpose(0, 1)[None].split(lengths, dim=2) for x in (query, key, value)))
        found = [
            F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True) for q, k, v in parts
        ]
        return torch.cat([x[0].transpose(0, 1) for x in found])

    def run(way: Callable[[], Tensor]) -> float:
        return measure(lambda: way().sum().backward(retain_graph=True), device, 12).milliseconds

    difference = float((one_call() - apart()).detach().float().abs().max())
    return {
        "documents": len(lengths),
        "difference": difference,
        "ms": run(one_call),
        "ms, a call a document": run(apart),
        "groups": "enable_gqa" if groups else "as they are",
    }


def fp32_memory(device: torch.device, tiny: bool) -> dict[str, Any]:
    """Peak memory of attention in fp32, for which there is no flash attention: scores would be tokens x tokens a head."""
    tokens = 32 if tiny else 4096
    query, key, value = (x.float() for x in heads_of(1, tokens, (32, 8, 8), 64, device))
    peak = peak_memory(device)
    before = next(peak)
    F.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)
    return {"mb": (next(peak) - before) / 1e6, "mb of scores": 32 * tokens**2 * 4 / 1e6}


if __name__ == "__main__":
    run_part(attention)
