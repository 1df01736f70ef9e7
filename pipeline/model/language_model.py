"""The model: Megatron-core's GPTModel with our layers, and the loss in its output layer."""

import os
from datetime import timedelta
from importlib.util import find_spec
from typing import Any

import megatron.core.parallel_state as mpu
import torch
import torch.nn.functional as F
from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig
from megatron.core.models.gpt.gpt_model import GPTModel
from megatron.core.tensor_parallel import ColumnParallelLinear, model_parallel_cuda_manual_seed
from megatron.core.transformer.module import Float16Module
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor

from perdure.kernels import SelectiveLoss, selective_linear_cross_entropy
from perdure.pipeline.core.errors import PerdureError
from perdure.pipeline.core.shards import REF_MISSING, REF_NATS_PER_UNIT
from perdure.pipeline.model.adapters import add_adapters
from perdure.pipeline.model.choices import choose, install
from perdure.pipeline.model.device import timeout
from perdure.pipeline.model.documents import Documents
from perdure.pipeline.model.gradients import finish_gradients
from perdure.pipeline.model.layers import GatedMLP, block_spec, install_weight_gradient, recompute
from perdure.pipeline.model.shape import model_shape, padded_vocab_size
from perdure.pipeline.model.weights import mark_tensor_parallel
from perdure.pipeline.recipe import FP8, LoRA, Parallel, Recipe, Training


class OutputLayer(ColumnParallelLinear):
    """Megatron's output layer, whose forward pass returns losses instead of logits.

    The loss is computed inside the module's call, because that is where data parallelism waits for the parameters.
    """

    def forward(self, hidden: Tensor, weight: Tensor | None, labels: Tensor, **options) -> SelectiveLoss:
        """Losses and the selection.

        Args:
            hidden: [sequence, batch, hidden], under sequence parallelism this rank's part of the sequence.
            weight: [vocabulary / tp, hidden], the embedding if the two are tied; None: this layer's own.
            labels: int64 [batch, sequence].
            **options: Further arguments of `selective_linear_cross_entropy`.
        """
        weight = self.weight if weight is None else weight
        into_main_grad = (
            self.gradient_accumulation_fusion and weight.requires_grad and torch.is_grad_enabled()
        )
        return selective_linear_cross_entropy(
            hidden.transpose(0, 1),
            weight,
            labels,
            tp_group=self.tp_group if self.tp_group.size() > 1 else None,
            sequence_parallel=self.sequence_parallel,
            main_grad=weight.main_grad if into_main_grad else None,
            **options,
        )


class LanguageModel(GPTModel):
    """GPTModel whose last stage returns per-token losses and the selection instead of logits."""

    def __init__(self, *args, true_vocab_size: int, training: Training, **kwargs):
        super().__init__(*args, **kwargs)
        if self.post_process:
            self.output_layer.__class__ = OutputLayer  # GPTModel knows its own class only
        self.loss_options = {
            "vocab_size": true_vocab_size,
            "z_loss": training.z_loss,
            "impl": training.loss_implementation,
        }

    def _postprocess(self, hidden_states, *_args, **_kwargs):
        return hidden_states

    def forward(
        self,
        tokens: Tensor,
        positions: Tensor,
        labels: Tensor | None,
        documents: Documents | None = None,
        **loss_options,
    ) -> Tensor | SelectiveLoss:
        """One micro-batch through this pipeline stage.

        Args:
            tokens: int64 [batch, sequence].
            positions: int64 [batch, sequence], place of each token in its sample.
            labels: int64 [batch, sequence]; None: no losses are wanted.
            documents: What attention stays inside; None: attention to all that came before.
            **loss_options: Arguments of `selective_linear_cross_entropy`, for the last stage: `valid` at least. Given by
                name, because Megatron's bf16 wrapper casts positional floats.

        Returns:
            The last stage: losses and the selection, each [batch, sequence]. Other stages, and all without labels: hidden
            states, [sequence, batch, hidden], under sequence parallelism this rank's part of the sequence.
        """
        hidden = super().forward(tokens, positions, documents)
        if not self.post_process or labels is None:
            return hidden
        weight = (
            self.shared_embedding_or_output_weight() if self.share_embeddings_and_output_weights else None
        )
        return self.output_layer(hidden, weight, labels, **loss_options, **self.loss_options)


def build_model(
    recipe: Recipe, vocab_size: int, device: torch.device, adapter: LoRA | None = None
) -> torch.nn.Module:
    """This rank's part of the model, wrapped for its precision and for data parallelism, with room for gradients; weights are
    not set.

    Args:
        recipe: Shape, precision and layout. `initialize_model_parallel` is called here.
        vocab_size: True size of the vocabulary.
        device: Where the parameters live.
        adapter: What to train instead of the weights, which are frozen; it is where it starts.

    Raises:
        PerdureError: If the recipe asks for kernels that cannot run here.
    """
    if recipe.training.loss_implementation == "triton":
        _require_triton(device)
    return replicated(build_weights(recipe, vocab_size, device, adapter), recipe.parallel, adapter)


def replicated(
    model: torch.nn.Module, parallel: Parallel, adapter: LoRA | None = None
) -> DistributedDataParallel:
    """A model, wrapped for data parallelism, with room for gradients."""
    config = DistributedDataParallelConfig(
        grad_reduce_in_fp32=True,
        use_distributed_optimizer=parallel.distributed_optimizer,
        overlap_grad_reduce=parallel.overlap_grad_reduce,
        # Megatron gathers the weights of a module before its call; an adapter's matrices are in no module that is called.
        overlap_param_gather=parallel.overlap_param_gather and adapter is None,
    )
    wrapped = DistributedDataParallel(model.config, config, model)
    if parallel.overlap_grad_reduce:
        model.config.no_sync_func = wrapped.no_sync  # until the last micro-batch
    return wrapped


def gather_weights(model: torch.nn.Module) -> None:
    """Makes a wrapped model's weights those of the last update on every replica; all ranks call this.

    Under `overlap_param_gather` the next forward pass does so, a bucket at a time: who reads weights before must call this.
    """
    if model.ddp_config.overlap_param_gather:
        model.start_param_sync(force_sync=True)


def build_weights(
    recipe: Recipe, vocab_size: int, device: torch.device, adapter: LoRA | None = None
) -> torch.nn.Module:
    """`build_model` without DDP or gradient buffers."""
    install(choose(recipe, device), device)
    mpu.initialize_model_parallel(
        recipe.parallel.tensor_parallel,
        recipe.parallel.pipeline_parallel,
        distributed_timeout_minutes=timeout() / timedelta(minutes=1),
    )
    model_parallel_cuda_manual_seed(recipe.seed)
    return build_stage(recipe, vocab_size, device, adapter)


def build_stage(
    recipe: Recipe, vocab_size: int, device: torch.device, adapter: LoRA | None = None
) -> torch.nn.Module:
    """`build_weights` in the process groups that stand already, for one more model on the same ranks."""
    training, shape = recipe.training, model_shape(recipe)
    config = model_config(recipe, device)
    model: torch.nn.Module = LanguageModel(
        config=config,
        transformer_layer_spec=block_spec(config, shape, choose(recipe, device)),
        vocab_size=padded_vocab_size(vocab_size),
        max_sequence_length=training.seq_length,
        position_embedding_type="none",  # rotary, in CoreAttention
        pre_process=mpu.is_pipeline_first_stage(),
        post_process=mpu.is_pipeline_last_stage(),
        share_embeddings_and_output_weights=shape.tie_embeddings,
        true_vocab_size=vocab_size,
        training=training,
    ).to(device)
    for layer in model.decoder.layers:
        layer.mlp.__class__ = GatedMLP  # Megatron's layer spec knows its own class only
        recompute(layer, recipe.parallel.recompute)
    mark_tensor_parallel(model, shape)
    if adapter:
        add_adapters(model, shape, adapter, recipe.seed)
    return Float16Module(config, model) if config.bf16 else model


def model_config(recipe: Recipe, device: torch.device) -> TransformerConfig:
    """Megatron's description of the model and its layout."""
    parallel, shape = recipe.parallel, model_shape(recipe)
    bf16 = recipe.training.precision == "bf16"
    dtype = torch.bfloat16 if bf16 else torch.float32
    return TransformerConfig(
        num_layers=shape.num_layers,
        hidden_size=shape.hidden_size,
        ffn_hidden_size=shape.ffn_hidden_size,
        num_attention_heads=shape.num_attention_heads,
        num_query_groups=shape.num_query_groups,
        kv_channels=shape.head_dim,
        tensor_model_parallel_size=parallel.tensor_parallel,
        pipeline_model_parallel_size=parallel.pipeline_parallel,
        sequence_parallel=parallel.sequence_parallel,
        pipeline_dtype=dtype,
        # Each transfer's `wait` orders the stream that computes behind NCCL's; Megatron would stop the host as well, for a race
        # of `batch_isend_irecv` that torch 1.13 mended (pytorch #82450). In a batch, ranks that both send first cannot block
        # each other.
        batch_p2p_comm=True,
        batch_p2p_sync=False,
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
        use_cpu_initialization=False,  # made on the device, where `weights` fills them: the host never holds the model
        gradient_accumulation_fusion=install_weight_gradient(device),
        # Fusions that need Apex or Transformer Engine.
        masked_softmax_fusion=False,
        apply_rope_fusion=False,
        bias_activation_fusion=False,
        bias_dropout_fusion=False,
        calculate_per_token_loss=True,
        deterministic_mode=recipe.kernels.deterministic,
        finalize_model_grads_func=finish_gradients,
        **_fp8_options(recipe.kernels.fp8),
    )


def _fp8_options(fp8: FP8 | None) -> dict[str, Any]:
    """Megatron's options; formats and history of `delayed` as in Megatron-Bridge's recipes. Weights stay in bf16."""
    if fp8 is None:
        return {}
    return {
        "fp8": "e4m3" if fp8.recipe == "mxfp8" else "hybrid",
        "fp8_recipe": "tensorwise" if fp8.recipe == "current" else fp8.recipe,
        "fp8_amax_history_len": 1024,
        "fp8_amax_compute_algo": "max",
        "first_last_layers_bf16": fp8.first_last_layers_bf16,
        "num_layers_at_start_in_bf16": fp8.num_layers_at_start_in_bf16,
        "num_layers_at_end_in_bf16": fp8.num_layers_at_end_in_bf16,
    }


def unwrap(model: torch.nn.Module) -> LanguageModel:
    """The model below Megatron's wrappers."""
    while not isinstance(model, LanguageModel):
        model = model.module
    return model


def _require_triton(device: torch.device) -> None:
    if find_spec("triton") is None:
        raise PerdureError(
            "training.loss_implementation: triton is not installed; pip install triton, or auto"
        )
    if device.type == "cpu" and os.environ.get("TRITON_INTERPRET") != "1":
        raise PerdureError(
            "training.loss_implementation: triton needs a GPU; set it to auto, or, to try it on a CPU, slowly, set the "
            "environment variable TRITON_INTERPRET=1"
        )


def reference_nats(units: Tensor) -> Tensor:
    """What scores subtract, stored in milli-nats, as float32 nats; NaN where there is nothing."""
    return (units * REF_NATS_PER_UNIT).masked_fill(units == REF_MISSING, torch.nan)
