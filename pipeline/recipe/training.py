"""Fields of the model, its layout over ranks, and the training that all versions share."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from perdure.pipeline.recipe.section import Epsilon, Fraction, Positive, Section, Single, Size


class LlamaModel(Section):
    """A Llama-family transformer with random weights: RMSNorm, RoPE, SwiGLU, grouped-query attention."""

    type: Literal["llama"]
    num_layers: Annotated[Positive, Field(le=10_000)]
    """Number of transformer layers."""
    hidden_size: Size
    """Width of the residual stream."""
    ffn_hidden_size: Size
    """Width of the SwiGLU block."""
    num_attention_heads: Size
    """Number of query heads."""
    num_query_groups: Size
    """Number of key-value heads (grouped-query attention); equal to `num_attention_heads` for plain attention."""
    tie_embeddings: bool = True
    """Share the input embedding and the output projection."""
    rope_theta: Single = 10_000.0
    """Base of the rotary position embedding."""
    norm_epsilon: Epsilon = 1e-5
    """Epsilon of RMSNorm."""
    init_std: Single = 0.02
    """Standard deviation of the initial weights; output projections are scaled by 1/sqrt(2 num_layers)."""


class StatedShape(Section):
    """A model's sizes, as its `config.json` has them (the names there in brackets)."""

    num_layers: Annotated[Positive, Field(le=10_000)]
    """Transformer layers (`num_hidden_layers`)."""
    hidden_size: Size
    """Width of the residual stream."""
    ffn_hidden_size: Size
    """Width of the SwiGLU block (`intermediate_size`)."""
    num_attention_heads: Size
    """Query heads."""
    num_query_groups: Size
    """Key-value heads (`num_key_value_heads`)."""
    head_dim: Size | None = None
    """Width of one head; default: `hidden_size` / `num_attention_heads`."""
    vocab_size: Size
    """Rows of the embedding."""
    tie_embeddings: bool = False
    """Whether input embedding and output projection are one matrix (`tie_word_embeddings`)."""


class HuggingFaceModel(Section):
    """An existing model of the Llama family: its shape, and its weights as the start of `init` versions."""

    type: Literal["huggingface"]
    path: Path
    """A directory with `config.json` and safetensors."""
    shape: StatedShape | None = None
    """What is in its `config.json`, for `perdure check --nodes` on a machine that does not have the directory."""


Ranks = Annotated[Positive, Field(le=65_536)]
Model = Annotated[LlamaModel | HuggingFaceModel, Field(discriminator="type")]


class Parallel(Section):
    """How training is spread over ranks; world size = tensor x pipeline x data."""

    tensor_parallel: Ranks = 1
    """Ranks that share every matrix; divides heads, query groups and the FFN."""
    pipeline_parallel: Ranks = 1
    """Ranks that share the layers; divides `num_layers`."""
    data_parallel: Ranks = 1
    """Replicas that share the batch."""
    sequence_parallel: bool = False
    """Split what stands between the matrices (norms, residuals) along the sequence over the tensor-parallel ranks, to
    save memory (Korthikanti et al. 2022); `tensor_parallel` above 1 divides `seq_length`."""
    distributed_optimizer: bool = False
    """Shard optimizer states over the data-parallel ranks (ZeRO-1)."""
    overlap_grad_reduce: bool = False
    """Reduce gradients over the replicas a bucket at a time, while the backward pass of the last micro-batch goes on. With
    several buckets (of 40 million parameters, or more) and a gradient that is clipped, `distributed_optimizer` adds the norm in
    another order: results are then equal to rounding to those without overlap, else bit for bit. Not yet measured on GPUs."""
    overlap_param_gather: bool = False
    """Gather updated weights a bucket at a time, while the layers before it compute; needs `distributed_optimizer` and
    `overlap_grad_reduce`. The few weights of an adapter are gathered at once all the same. Not yet measured on GPUs."""
    recompute: Literal["none", "selective", "full"] = "none"
    """What the backward pass computes again instead of keeping it. `full`: layers keep their inputs alone, for a third more
    computation. `selective`: outputs of norms and of the SwiGLU, which take no matrix product. `none`. Results are the same
    bits, but for `selective` in fp32 on CPUs, which is equal to rounding. `true` and `false` are old words for `full` and
    `none`."""

    @model_validator(mode="before")
    @classmethod
    def _old_words(cls, tree: Any) -> Any:
        """`recompute` was true or false once."""
        if not isinstance(tree, dict) or not isinstance(whole := tree.get("recompute"), bool):
            return tree
        return tree | {"recompute": "full" if whole else "none"}


class Guard(Section):
    """What a step leads to whose loss or gradient is broken, or whose loss leaps.

    `skip` does not apply the step's update. `rollback` also takes back the steps before it, to the last checkpoint of
    `checkpoint_interval` (or the start), and goes on after the step (as Chowdhery et al. 2022, section 5.1, did by
    hand). Either way the schedule and the place in the plan move on, and the samples are recorded as skipped.
    """

    on_nan: Literal["stop", "skip", "rollback"] = "stop"
    """At a loss or gradient norm that is NaN or infinite; `stop` ends the run with an error."""
    on_spike: Literal["ignore", "stop", "skip", "rollback"] = "ignore"
    """At a loss above `spike_factor` times the median of the last `spike_window` steps."""
    spike_factor: Annotated[float, Field(gt=1)] = 2.0
    """How far above the median a loss is a spike."""
    spike_window: Size = 50
    """Steps whose losses are compared with; before as many have been accepted, none is a spike."""
    max_skips: Positive = 10
    """Steps of one version that may be skipped or rolled back from; one more stops the run."""


class Training(Section):
    """What all versions share; a change starts a new experiment."""

    seq_length: Size
    """Tokens per sample; documents are packed, separated by the end-of-sequence token."""
    micro_batch_size: Size = 1
    """Samples per forward pass and rank."""
    global_batch_size: Size
    """Samples per optimizer step, over all ranks; gradient accumulation follows from it."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Arithmetic of the forward and backward pass; bf16 keeps fp32 master weights and gradients."""
    document_mask: bool = False
    """Keep attention inside each packed document. Under bf16 on GPUs it is one kernel for all documents (flash attention);
    under fp32, and on CPUs, one call for each, which for many short documents on a GPU is slow."""
    loss_implementation: Literal["auto", "triton", "chunked", "torch"] = "auto"
    """How the loss is computed; all agree to rounding. `triton`: fused kernels, on GPUs. `chunked`: plain torch, a
    block of the vocabulary at a time. `torch`: all logits in memory. `auto`: `triton` on GPUs; on CPUs `torch` while the
    logits are few, else `chunked`."""
    z_loss: Annotated[float, Field(ge=0, le=1e30)] = 0.0
    """Coefficient of log^2 Z, added to every trained token's loss to keep logits from drifting (PaLM: 1e-4); reported
    losses leave it out."""
    adam_beta1: Fraction = 0.9
    """AdamW's first-moment decay."""
    adam_beta2: Fraction = 0.95
    """AdamW's second-moment decay."""
    adam_eps: Epsilon = 1e-8
    """AdamW's epsilon."""
    weight_decay: Annotated[float, Field(ge=0, le=1e30)] = 0.1
    """Decoupled weight decay; norms and biases are exempt."""
    clip_grad: Annotated[float, Field(ge=0, le=1e30)] = 1.0
    """Maximum global gradient norm; 0 turns clipping off."""
    ema: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Decay d of a running average of every version's fp32 weights: average = d average + (1 - d) weights, after every update,
    begun as the weights that the version starts from. It changes nothing of the run, costs 4 bytes a parameter, and is in the
    checkpoints. A version with `start: {type: average, of: V, shape: ema}` takes that of V's last one. Default: none."""
    checkpoint_interval: Positive = 500
    """Steps between checkpoints."""
    async_checkpoint: bool = True
    """Let helper processes write checkpoints while training goes on; the memory that training changes meanwhile is
    held twice. The last checkpoint is waited for."""
    guard: Guard = Guard()
    """What a broken step leads to."""
    log_interval: Positive = 10
    """Steps between console lines; TensorBoard gets every step."""
