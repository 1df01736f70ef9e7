"""Core attention: rotary embedding, causal attention, and attention inside packed documents."""

import inspect
import math
from functools import lru_cache

import torch
import torch.nn.functional as F
from megatron.core.extensions.transformer_engine import TEDotProductAttention
from megatron.core.packed_seq_params import PackedSeqParams
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor
from torch.nn.attention.varlen import varlen_attn

from perdure.kernels import rotary
from perdure.pipeline.model.documents import Documents
from perdure.pipeline.model.shape import Llama3Scaling

_GROUPS = {"enable_gqa": True} if "enable_gqa" in inspect.signature(varlen_attn).parameters else {}
"""Says that several heads may share a key. torch 2.11 does not ask: its kernel takes them as they are (`mha_varlen_fwd` and
`mha_varlen_bwd` in flash_api.cpp), and the argument of later releases permits in Python what is passed on unchanged."""


class CoreAttention(torch.nn.Module):
    """Rotary embedding and torch's scaled_dot_product_attention, in place of Megatron's own.

    Megatron's local attention builds s x s scores, and its unfused rotary embedding computes the angles anew in every
    layer, for queries and for keys.
    """

    def __init__(self, rotary_base: float, rotary_scaling: Llama3Scaling | None, **_of_megatron):
        super().__init__()
        self.rotary = rotary_base, rotary_scaling

    def forward(
        self,
        query,
        key,
        value,
        attention_mask: Documents | None = None,
        attn_mask_type=None,
        attention_bias=None,
        packed_seq_params=None,
    ):
        """Causal attention.

        Args:
            query: [sequence, batch, heads / tp, head_dim].
            key: [sequence, batch, groups / tp, head_dim].
            value: As `key`.
            attention_mask: No mask, but documents: attention stays inside them. None: all that came before.
            attn_mask_type: Unused; always causal.
            attention_bias: Must be None.
            packed_seq_params: Must be None.

        Returns:
            [sequence, batch, heads / tp * head_dim].
        """
        assert attention_bias is None and packed_seq_params is None
        cosine, sine = rotary_angles(query.shape[0], query.shape[-1], *self.rotary, query.device, query.dtype)
        query, key = rotary(query, cosine, sine), rotary(key, cosine, sine)
        if attention_mask is None:
            return self.causal(query, key, value)
        length, batch = query.shape[:2]
        query, key, value = (x.transpose(0, 1).flatten(0, 1) for x in (query, key, value))
        context = self.inside_documents(query, key, value, attention_mask)
        return context.view(batch, length, -1).transpose(0, 1)

    def causal(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Attention to all that came before: rotated, and shaped as for `forward`."""
        query, key, value = (x.permute(1, 2, 0, 3) for x in (query, key, value))
        context = F.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)
        return context.permute(2, 0, 1, 3).flatten(2)

    def inside_documents(self, query: Tensor, key: Tensor, value: Tensor, documents: Documents) -> Tensor:
        """The same inside of documents: rotated, sequences one after another, [tokens, heads, head_dim]."""
        return document_attention(query, key, value, documents)


class TransformerEngineAttention(CoreAttention):
    """`CoreAttention` by Transformer Engine's DotProductAttention, through Megatron's wrapper; it chooses among its own
    backends."""

    def __init__(self, config: TransformerConfig, layer_number: int, attention_type: str, **kwargs):
        super().__init__(kwargs.pop("rotary_base"), kwargs.pop("rotary_scaling"))
        kwargs["attn_mask_type"] = AttnMaskType.causal
        self.core = TEDotProductAttention(config, layer_number, attention_type=attention_type, **kwargs)

    def causal(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """As `CoreAttention.causal`."""
        return self.core(query, key, value, None, AttnMaskType.causal)

    def inside_documents(self, query: Tensor, key: Tensor, value: Tensor, documents: Documents) -> Tensor:
        """As `CoreAttention.inside_documents`; they are told as the lengths of one packed sequence (`thd`)."""
        ends, longest = documents.ends, max(documents.lengths)
        packed = PackedSeqParams(
            qkv_format="thd",
            cu_seqlens_q=ends,
            cu_seqlens_kv=ends,
            max_seqlen_q=longest,
            max_seqlen_kv=longest,
        )
        return self.core(query, key, value, None, AttnMaskType.causal, packed_seq_params=packed)


def document_attention(query: Tensor, key: Tensor, value: Tensor, documents: Documents) -> Tensor:
    """Causal attention inside each of several documents, without a mask.

    Flash attention for sequences of different lengths under bf16 on CUDA; elsewhere a call a document, which on CPUs
    took 0.1 to 0.9 times as long as a mask over the whole sequence, at 256 to 4096 tokens.

    Args:
        query: [tokens, heads, head_dim].
        key: [tokens, groups, head_dim].
        value: As `key`.
        documents: All tokens belong to one.

    Returns:
        As `query`.
    """
    if query.is_cuda and query.dtype == torch.bfloat16:
        ends, longest = documents.ends, max(documents.lengths)
        return varlen_attn(query, key, value, ends, ends, longest, longest, window_size=(-1, 0), **_GROUPS)
    parts = zip(*(x.transpose(0, 1)[None].split(documents.lengths, dim=2) for x in (query, key, value)))
    contexts = [F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True) for q, k, v in parts]
    return torch.cat([context[0].transpose(0, 1) for context in contexts])


@lru_cache(maxsize=4)
def rotary_angles(
    length: int,
    head_dim: int,
    base: float,
    scaling: Llama3Scaling | None,
    device: torch.device,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """Cosine and sine of position times frequency, each [length, 1, 1, head_dim / 2].

    Source: Su et al. 2021 (arXiv 2104.09864), equation 15, in the half-split layout of Llama in transformers.
    """
    frequencies = base ** (-torch.arange(0, head_dim, 2, device=device, dtype=torch.float32) / head_dim)
    if scaling is not None:
        frequencies = _stretch(frequencies, scaling)
    angles = torch.outer(torch.arange(length, device=device, dtype=torch.float32), frequencies)[:, None, None]
    return angles.cos().to(dtype), angles.sin().to(dtype)


def _stretch(frequencies: Tensor, scaling: Llama3Scaling) -> Tensor:
    """Llama 3.1's frequencies (as in Meta's reference code): slow ones divided, fast ones kept, a ramp between."""
    turns = (
        scaling.original_length * frequencies / (2 * math.pi)
    )  # of a frequency, within the original length
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    kept = ((turns - low) / (high - low)).clamp(0, 1)
    return frequencies * (kept + (1 - kept) / scaling.factor)
