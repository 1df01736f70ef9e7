"""The model: Megatron-core's GPTModel with Llama parts, our core attention, and the loss at its end."""

import math
from datetime import timedelta
from functools import lru_cache

import megatron.core.parallel_state as mpu
import torch
import torch.nn.functional as F
from megatron.core.distributed import (
    DistributedDataParallel,
    DistributedDataParallelConfig,
    finalize_model_grads,
)
from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec
from megatron.core.models.gpt.gpt_model import GPTModel
from megatron.core.tensor_parallel import model_parallel_cuda_manual_seed
from megatron.core.transformer.mlp import MLP
from megatron.core.transformer.module import Float16Module
from megatron.core.transformer.spec_utils import ModuleSpec
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor

from perdure.kernels import rotary, selective_linear_cross_entropy, swiglu
from perdure.pipeline.convert.weights import mark_tensor_parallel
from perdure.pipeline.recipe import Recipe, Selection
from perdure.pipeline.shape import Llama3Scaling, model_shape, padded_vocab_size
from perdure.pipeline.shards import REF_MISSING, REF_NATS_PER_UNIT
from perdure.pipeline.train.device import timeout


class CoreAttention(torch.nn.Module):
    """Rotary embedding and torch's scaled_dot_product_attention, in place of Megatron's own.

    Megatron's local attention builds s x s scores, and its unfused rotary embedding computes the angles anew in every
    layer, for queries and for keys.
    """

    def __init__(
        self,
        config: TransformerConfig,
        layer_number,
        attn_mask_type,
        attention_type,
        rotary_base: float,
        rotary_scaling: Llama3Scaling | None,
        **_kwargs,
    ):
        super().__init__()
        self.rotary = rotary_base, rotary_scaling

    def forward(
        self,
        query,
        key,
        value,
        attention_mask=None,
        attn_mask_type=None,
        attention_bias=None,
        packed_seq_params=None,
    ):
        """Causal attention.

        Args:
            query: [sequence, batch, heads / tp, head_dim].
            key: [sequence, batch, groups / tp, head_dim].
            value: As `key`.
            attention_mask: bool [batch, 1, sequence, sequence], True where attention is allowed; None is causal.
            attn_mask_type: Unused; the mask says it all.
            attention_bias: Must be None.
            packed_seq_params: Must be None; packed documents are kept apart by `attention_mask`.

        Returns:
            [sequence, batch, heads / tp * head_dim].
        """
        assert attention_bias is None and packed_seq_params is None
        cosine, sine = rotary_angles(query.shape[0], query.shape[-1], *self.rotary, query.device, query.dtype)
        query, key = rotary(query, cosine, sine), rotary(key, cosine, sine)
        query, key, value = (x.permute(1, 2, 0, 3) for x in (query, key, value))
        context = F.scaled_dot_product_attention(
            query, key, value, attn_mask=attention_mask, is_causal=attention_mask is None, enable_gqa=True
        )
        return context.permute(2, 0, 1, 3).flatten(2)


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


class GatedMLP(MLP):
    """Megatron's MLP with a SwiGLU that writes its two gradients in place, instead of joining them afterwards."""

    def forward(self, hidden_states, **_kwargs):
        """[sequence, batch, hidden] -> the same, and a bias that is None."""
        return self.linear_fc2(swiglu(self.linear_fc1(hidden_states)[0]))


class LanguageModel(GPTModel):
    """GPTModel whose last stage returns per-token losses and the selection instead of logits."""

    def __init__(self, *args, selection: Selection | None, true_vocab_size: int, **kwargs):
        super().__init__(*args, **kwargs)
        self.selection = selection
        self.true_vocab_size = true_vocab_size

    def _postprocess(self, hidden_states, *_args, **_kwargs):
        return hidden_states

    def forward(
        self,
        tokens: Tensor,
        labels: Tensor,
        valid: Tensor,
        reference: Tensor,
        replayed: Tensor,
        attention_mask: Tensor | None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """One micro-batch through this pipeline stage.

        Args:
            tokens: int64 [batch, sequence].
            labels: int64 [batch, sequence].
            valid: bool [batch, sequence], labels that count.
            reference: int32 [batch, sequence], the reference's loss in milli-nats (`REF_MISSING` where it has
                none). Whole numbers, because Megatron's bf16 wrapper casts every float input.
            replayed: bool [batch], samples of old data, which are trained on whole: the reference knows the new.
            attention_mask: bool [batch, 1, sequence, sequence], True where attention is allowed; None is causal.

        Returns:
            The last stage: nll, float32 [batch, sequence], and selected, bool [batch, sequence]. Other stages:
            hidden states, [sequence, batch, hidden].
        """
        positions = torch.arange(tokens.shape[1], device=tokens.device).expand_as(tokens)
        hidden = super().forward(tokens, positions, attention_mask)
        if not self.post_process:
            return hidden
        weight = (
            self.shared_embedding_or_output_weight()
            if self.share_embeddings_and_output_weights
            else self.output_layer.weight
        )
        selection = self.selection if self.training else None
        reference_nll = None
        if selection is not None:
            reference_nll = (reference * REF_NATS_PER_UNIT).masked_fill(reference == REF_MISSING, torch.nan)
        result = selective_linear_cross_entropy(
            hidden.transpose(0, 1),
            weight,
            labels,
            valid=valid,
            reference_nll=reference_nll,
            k=selection.k if selection else 1.0,
            scope=selection.scope if selection else "microbatch",
            use_nll=selection is None or selection.use_nll,
            always=replayed[:, None],
            vocab_size=self.true_vocab_size,
            tp_group=mpu.get_tensor_model_parallel_group()
            if mpu.get_tensor_model_parallel_world_size() > 1
            else None,
        )
        return result.loss, result.selected


def build_model(
    recipe: Recipe, vocab_size: int, selection: Selection | None, device: torch.device
) -> torch.nn.Module:
    """This rank's part of the model, wrapped for its precision and for data parallelism; weights are not set.

    Args:
        recipe: Shape, precision and layout. `initialize_model_parallel` is called here.
        vocab_size: True size of the vocabulary.
        selection: Tokens to train on; None trains on all.
        device: Where the parameters live.
    """
    parallel, training, shape = recipe.parallel, recipe.training, model_shape(recipe)
    mpu.initialize_model_parallel(
        parallel.tensor_parallel,
        parallel.pipeline_parallel,
        distributed_timeout_minutes=timeout() / timedelta(minutes=1),
    )
    model_parallel_cuda_manual_seed(recipe.seed)
    bf16 = training.precision == "bf16"
    dtype = torch.bfloat16 if bf16 else torch.float32
    config = TransformerConfig(
        num_layers=shape.num_layers,
        hidden_size=shape.hidden_size,
        ffn_hidden_size=shape.ffn_hidden_size,
        num_attention_heads=shape.num_attention_heads,
        num_query_groups=shape.num_query_groups,
        kv_channels=shape.head_dim,
        tensor_model_parallel_size=parallel.tensor_parallel,
        pipeline_model_parallel_size=parallel.pipeline_parallel,
        pipeline_dtype=dtype,
        params_dtype=dtype,
        bf16=bf16,
        normalization="RMSNorm",
        layernorm_epsilon=shape.norm_epsilon,
        gated_linear_unit=True,
        activation_func=F.silu,
        add_bias_linear=False,
        add_qkv_bias=shape.qkv_bias,
        qk_layernorm=shape.qk_norm,
        hidden_dropout=0.0,
        attention_dropout=0.0,
        perform_initialization=False,
        use_cpu_initialization=True,
        # Fusions that need Apex or Transformer Engine.
        masked_softmax_fusion=False,
        apply_rope_fusion=False,
        gradient_accumulation_fusion=False,
        bias_activation_fusion=False,
        bias_dropout_fusion=False,
        calculate_per_token_loss=True,
        deterministic_mode=True,
        finalize_model_grads_func=finalize_model_grads,
    )
    spec = get_gpt_layer_local_spec(normalization="RMSNorm", qk_layernorm=shape.qk_norm)
    spec.submodules.self_attention.submodules.core_attention = ModuleSpec(
        CoreAttention, params={"rotary_base": shape.rope_theta, "rotary_scaling": shape.rope_scaling}
    )
    model: torch.nn.Module = LanguageModel(
        config=config,
        transformer_layer_spec=spec,
        vocab_size=padded_vocab_size(vocab_size),
        max_sequence_length=training.seq_length,
        position_embedding_type="none",  # rotary, in CoreAttention
        pre_process=mpu.is_pipeline_first_stage(),
        post_process=mpu.is_pipeline_last_stage(),
        share_embeddings_and_output_weights=shape.tie_embeddings,
        selection=selection,
        true_vocab_size=vocab_size,
    ).to(device)
    for layer in model.decoder.layers:
        layer.mlp.__class__ = GatedMLP  # Megatron's layer spec knows its own class only
    mark_tensor_parallel(model)
    if bf16:
        model = Float16Module(config, model)
    return DistributedDataParallel(
        config,
        DistributedDataParallelConfig(
            grad_reduce_in_fp32=True, use_distributed_optimizer=parallel.distributed_optimizer
        ),
        model,
    )


def unwrap(model: torch.nn.Module) -> LanguageModel:
    """The model below Megatron's wrappers."""
    while not isinstance(model, LanguageModel):
        model = model.module
    return model


def document_mask(tokens: Tensor, eos_id: int) -> Tensor:
    """Keeps attention inside documents: an end-of-sequence token opens the document that follows it.

    Args:
        tokens: int64 [batch, sequence].
        eos_id: The separator.

    Returns:
        bool [batch, 1, sequence, sequence], True where attention is allowed.
    """
    document = (tokens == eos_id).cumsum(1)
    same = document[:, :, None] == document[:, None, :]
    return (same & torch.ones_like(same[0]).tril())[:, None]
