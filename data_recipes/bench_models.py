"""The training steps that `bench_step` times: Perdure's, Megatron-core's own, and a plain loop around transformers' Llama."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import megatron.core.parallel_state as mpu
import torch
from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig
from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec
from megatron.core.models.gpt.gpt_model import GPTModel
from megatron.core.optimizer import get_megatron_optimizer
from megatron.core.tensor_parallel import model_parallel_cuda_manual_seed
from megatron.core.transformer.module import Float16Module
from torch import Tensor

from perdure.data_recipes.bench_shapes import BATCHES, SHAPES, VOCABULARIES
from perdure.kernels import SelectiveLoss
from perdure.pipeline.checks.measured import kind_of
from perdure.pipeline.model.device import initialise
from perdure.pipeline.model.documents import documents_of
from perdure.pipeline.model.gradients import squared_norm
from perdure.pipeline.model.language_model import build_model, model_config
from perdure.pipeline.model.optimizer import make_optimizer, optimizer_config, set_learning_rate, update
from perdure.pipeline.model.shape import flops_per_token, model_shape, padded_vocab_size
from perdure.pipeline.recipe import Recipe, Selection
from perdure.pipeline.train.batch import Batch
from perdure.pipeline.train.counts import read_counts, sum_counts
from perdure.pipeline.train.microbatches import run_batches
from perdure.pipeline.train.objectives.lm import LanguageModeling

Step = Callable[[float], tuple[float, float]]
"""Trains on a share of the tokens; returns the mean loss of all, in nats, and the gradient's norm before clipping."""


def bench_recipe(name: str, dtype: str) -> Recipe:
    """A recipe for a model of `SHAPES` and its training; its data is never read."""
    length, samples, micro = BATCHES[name]
    version = {
        "start": {"type": "init"},
        "tokens": length * samples,
        "mixture": {"sources": {"made": {}}},
        "schedule": {"type": "constant", "max_lr": 1e-4},
    }
    training = {"seq_length": length, "micro_batch_size": micro, "global_batch_size": samples}
    return Recipe.model_validate(
        {
            "name": "bench",
            "sources": {"made": {"reader": {"type": "text", "path": "unused"}}},
            "tokenizer": {"type": "train", "vocab_size": VOCABULARIES[name], "sources": ["made"]},
            "model": {"type": "llama", **SHAPES[name]},
            "training": training | {"precision": dtype},
            "versions": {"v1": version},
        }
    )


def setting(name: str, dtype: str) -> dict[str, Any]:
    """What a timed step is of, so that `perdure check` can tell whether a recipe is like it."""
    recipe = bench_recipe(name, dtype)
    rows, training = VOCABULARIES[name], recipe.training
    return kind_of(recipe, rows) | {
        "tokens": training.global_batch_size * training.seq_length,
        "flops_per_token": flops_per_token(model_shape(recipe), rows, training.seq_length),
    }


def make_step(parts: str, name: str, dtype: str, on_cpu: bool = False) -> Step:
    """A model with random weights, its optimizer, and a step of them on the device that is there.

    Args:
        parts: Whose: `perdure`, `megatron` or `transformers`.
        name: Model in `SHAPES`.
        dtype: `fp32` or `bf16`.
        on_cpu: Whether the weights are drawn on the CPU, the same for every device; that takes long for large models.
    """
    recipe, vocab_size = bench_recipe(name, dtype), VOCABULARIES[name]
    if parts == "transformers":
        return _plain(recipe, vocab_size, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    device = initialise()
    if parts == "perdure":
        model = build_model(recipe, vocab_size, device)
        _randomise(model, on_cpu)
        optimizer = make_optimizer(recipe.training, model, False)
    else:
        model, optimizer = _megatrons(recipe, vocab_size, device)
    set_learning_rate(optimizer, 1e-4, 0.1)
    batches = _batches(recipe, vocab_size, device)

    def step(share: float) -> tuple[float, float]:
        selects = share < 1 and parts == "perdure"
        objective = LanguageModeling(Selection(k=share, score="highest_loss") if selects else None)
        model.zero_grad_buffer()
        optimizer.zero_grad()
        counted = run_batches(
            model, objective, iter(batches), len(batches), recipe.training, 1, forward_only=False
        )
        counts, (squares,) = read_counts(sum_counts(counted, 1), squared_norm(optimizer))
        update(optimizer, squares**0.5)
        return counts.loss[0] / counts.tokens[0], squares**0.5

    return step


def _tokens(recipe: Recipe, vocab_size: int) -> list[Tensor]:
    """Random tokens of each micro-batch, int64 [samples, length + 1], on the CPU; the same on every machine."""
    generator = torch.Generator().manual_seed(0)
    length, micro = recipe.training.seq_length, recipe.training.micro_batch_size
    count = recipe.training.global_batch_size // micro
    return [torch.randint(1, vocab_size, (micro, length + 1), generator=generator) for _ in range(count)]


def _batches(recipe: Recipe, vocab_size: int, device: torch.device) -> list[Batch]:
    length, micro = recipe.training.seq_length, recipe.training.micro_batch_size
    made = []
    for number, ids in enumerate(_tokens(recipe, vocab_size)):
        ids = ids.to(device)
        shape, of = (micro, length), {"device": device}
        batch = Batch(
            indices=range(number * micro, (number + 1) * micro),
            tokens=ids[:, :-1].contiguous(),
            labels=ids[:, 1:].contiguous(),
            valid=torch.ones(shape, dtype=torch.bool, **of),
            positions=torch.arange(length, **of).expand(shape),
            documents=documents_of((length,) * micro, device),
            reference=torch.zeros(shape, dtype=torch.int32, **of),
            source=torch.zeros(micro, dtype=torch.int64, **of),
            replayed=torch.zeros(micro, dtype=torch.bool, **of),
        )
        made.append(batch)
    return made


def _megatrons(recipe: Recipe, vocab_size: int, device: torch.device) -> tuple[Any, Any]:
    """What Megatron-core has for a machine without Transformer Engine or Apex: its local layers, logits and their cross
    entropy, torch's AdamW."""

    class PlainModel(GPTModel):
        """Megatron's model with the arguments and results of `LanguageModel`."""

        def forward(self, tokens, positions, labels, _documents, *, valid, **_options):
            nll = super().forward(tokens, positions, None, labels=labels)
            return SelectiveLoss(nll, valid, nll.detach())

    mpu.initialize_model_parallel()
    model_parallel_cuda_manual_seed(recipe.seed)
    # It would need Apex.
    config = replace(model_config(recipe, device), gradient_accumulation_fusion=False)
    model: torch.nn.Module = PlainModel(
        config=config,
        transformer_layer_spec=get_gpt_layer_local_spec(normalization="RMSNorm"),
        vocab_size=padded_vocab_size(vocab_size),
        max_sequence_length=recipe.training.seq_length,
        position_embedding_type="rope",
        rotary_base=model_shape(recipe).rope_theta,
        share_embeddings_and_output_weights=True,
    ).to(device)
    if config.bf16:
        model = Float16Module(config, model)
    model = DistributedDataParallel(config, DistributedDataParallelConfig(grad_reduce_in_fp32=True), model)
    _randomise(model)
    return model, get_megatron_optimizer(optimizer_config(recipe.training, False), [model])


def _plain(recipe: Recipe, vocab_size: int, device: torch.device) -> Step:
    """What one writes without a trainer: fp32 weights, autocast to bf16, transformers' own loss, torch's fused AdamW.

    Nothing is asked to be deterministic, so that attention and sums may take the fastest way.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = model_shape(recipe)
    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=shape.hidden_size,
        intermediate_size=shape.ffn_hidden_size,
        num_hidden_layers=shape.num_layers,
        num_attention_heads=shape.num_attention_heads,
        num_key_value_heads=shape.num_query_groups,
        max_position_embeddings=recipe.training.seq_length,
        tie_word_embeddings=True,
        attn_implementation="sdpa",
    )
    model = LlamaForCausalLM(config).to(device)
    _randomise(model)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=device.type == "cuda"
    )
    batches = [ids[:, :-1].to(device) for ids in _tokens(recipe, vocab_size)]
    mixed = torch.autocast(device.type, torch.bfloat16, enabled=recipe.training.precision == "bf16")

    def step(share: float) -> tuple[float, float]:
        assert share == 1
        losses = []
        for tokens in batches:
            with mixed:
                loss = model(input_ids=tokens, labels=tokens, use_cache=False).loss / len(batches)
            loss.backward()
            losses.append(loss.detach())
        grad_norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return float(sum(losses)), float(grad_norm)

    return step


def _randomise(model: torch.nn.Module, on_cpu: bool = False) -> None:
    torch.manual_seed(0)
    for parameter in model.parameters():
        if parameter.dim() == 1:
            parameter.data.fill_(1)
        elif on_cpu:
            parameter.data.copy_(
                torch.empty(parameter.shape, dtype=parameter.dtype, device="cpu").normal_(0, 0.02)
            )
        else:
            parameter.data.normal_(0, 0.02)
