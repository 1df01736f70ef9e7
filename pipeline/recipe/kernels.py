"""Fields that choose by which libraries a model is computed; a change between starts is recorded, as one of the layout is."""

from typing import Annotated, Literal

from pydantic import Field

from perdure.pipeline.recipe.section import Section

Layers = Annotated[int, Field(ge=0, le=10_000)]


class FP8(Section):
    """Matrix products of the layers in 8-bit floating point, in training steps alone, by Transformer Engine.

    The output layer and the loss, held-out losses, probes, selection over a whole batch and the teacher of a `kl` anchor stay
    in bf16; master weights, gradients and moments in fp32. Weights are kept in bf16 beside their FP8 copies (Megatron without
    `--fp8-param-gather`).
    """

    recipe: Literal["delayed", "current", "mxfp8"]
    """Where scales come from. `delayed`: one a tensor, from the largest values of the last 1024 steps (E4M3 forward, E5M2
    backward; Micikevicius et al. 2022, arXiv 2209.05433); no checkpoint holds those, so it takes `deterministic: false`, and a
    start from a checkpoint warns that they begin anew.
    `current`: one a tensor, of the tensor itself (Megatron's `tensorwise`). `mxfp8`: one for every 32 values (E4M3; the OCP's
    microscaling formats), on GPUs of compute capability 10."""
    first_last_layers_bf16: bool = True
    """Keep the first and the last layers in bf16; not with `delayed`, whose scales Megatron updates for all layers at once."""
    num_layers_at_start_in_bf16: Layers = 1
    """Layers at the start that stay in bf16, with `first_last_layers_bf16`."""
    num_layers_at_end_in_bf16: Layers = 1
    """Layers at the end that stay in bf16, with `first_last_layers_bf16`."""


class Kernels(Section):
    """The libraries that compute attention and matrix products.

    They change a version's result by rounding (`fp8`: by that of 8 bits), so they may change between starts: each start says
    what it computes with, and `version.json` keeps every change.
    """

    attention: Literal["auto", "flash2", "flash3", "cudnn", "transformer_engine"] = "auto"
    """Causal attention under bf16 on GPUs. `flash2`: FlashAttention-2, which torch contains. `flash3`: FlashAttention-3, on
    GPUs of compute capability 9.0 where its package `flash_attn_interface` is installed. `cudnn`: cuDNN's by torch, which has
    no deterministic backward pass. `transformer_engine`: whichever Transformer Engine chooses. `auto`: `flash3` where it is
    installed, can be deterministic if that is asked for, and the GPU has it; else `flash2`; torch's own choice on CPUs and
    under fp32."""
    linears: Literal["local", "transformer_engine"] = "local"
    """Matrix products of the layers. `local`: Megatron's own linears. `transformer_engine`: Transformer Engine's, which compute
    the norm before them, too. Checkpoints and exports are the same under both."""
    fp8: FP8 | None = None
    """Compute them in 8 bits, with `linears: transformer_engine` and `precision: bf16`. Default: in the training's
    precision."""
    deterministic: bool = True
    """Use deterministic algorithms alone, so that what was interrupted and resumed is bit for bit what was not. `false` gives
    that up for speed: FlashAttention's backward pass is faster then, and `cudnn` is possible."""
