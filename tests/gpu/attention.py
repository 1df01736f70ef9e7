"""What flash attention over sequences of different lengths computes, which torch has on CUDA alone."""

import torch
from torch import Tensor


def forward(
    query: Tensor, key: Tensor, value: Tensor, ends: Tensor, *others
) -> tuple[Tensor, Tensor, Tensor]:
    """Causal attention inside each sequence, logarithms of the sums, and a random state that nothing uses."""
    _key_ends, longest, _longest_key, _is_causal, scale, window_size, *_ = others
    require_flash(query, ends, longest, window_size)
    weights, _, values = probabilities(query, key, value, ends, scale)
    context = (weights @ values).transpose(0, 1).to(query.dtype)
    heads, tokens = query.shape[1], query.shape[0]
    return context.contiguous(), torch.zeros(heads, tokens), torch.zeros(2, dtype=torch.uint64)


def backward(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    _context: Tensor,
    _log_sums: Tensor,
    ends: Tensor,
    *others,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of query, key and value, all probabilities computed again."""
    _key_ends, longest, _longest_key, _is_causal, _random_state, scale, window_size = others
    require_flash(query, ends, longest, window_size)
    weights, keys, values = probabilities(query, key, value, ends, scale)
    grad = grad.float().transpose(0, 1)
    own = query.float().transpose(0, 1)
    slope = grad @ values.mT
    slope = weights * (slope - (slope * weights).sum(-1, keepdim=True))
    slope = slope * (scale or query.shape[-1] ** -0.5)

    def by_group(of_heads: Tensor) -> Tensor:
        return of_heads.unflatten(0, (key.shape[1], -1)).sum(1)

    parts = slope @ keys, by_group(slope.mT @ own), by_group(weights.mT @ grad)
    return tuple(part.transpose(0, 1).to(query.dtype).contiguous() for part in parts)  # type: ignore[return-value]


def probabilities(
    query: Tensor, key: Tensor, value: Tensor, ends: Tensor, scale: float | None
) -> tuple[Tensor, Tensor, Tensor]:
    """float32 [heads, tokens, tokens], and keys and values of every head."""
    groups = query.shape[1] // key.shape[1]
    keys, values = (x.float().transpose(0, 1).repeat_interleave(groups, 0) for x in (key, value))
    place = torch.arange(len(query))
    document = torch.searchsorted(ends[1:].long(), place, right=True)
    seen = (document[:, None] == document) & (place[:, None] >= place)
    scores = query.float().transpose(0, 1) @ keys.mT * (scale or query.shape[-1] ** -0.5)
    return scores.masked_fill(~seen, -torch.inf).softmax(-1), keys, values


def require_flash(query: Tensor, ends: Tensor, longest: int, window_size: list[int] | None) -> None:
    """Raises RuntimeError where the kernel of CUDA would, or for a window that is not the causal one."""
    if query.dtype not in (torch.bfloat16, torch.float16):
        raise RuntimeError(f"FlashAttention only supports fp16 and bf16, not {query.dtype}")
    if ends.dtype != torch.int32:
        raise RuntimeError(f"cu_seqlens must be int32, not {ends.dtype}")
    if list(window_size or ()) != [-1, 0]:
        raise RuntimeError(f"the pretended kernel is causal, not {window_size}")
    if int(ends.diff().max()) > longest or int(ends[-1]) != len(query):
        raise RuntimeError(f"ends {ends.tolist()} do not fit {len(query)} tokens and a longest of {longest}")
