"""Times whole training steps of a Llama: Perdure's trainer, and Megatron-core's own layers, loss and AdamW.

Both are Megatron-core on one device, without Transformer Engine or Apex, with the same shapes, batches, precision and
deterministic algorithms: forward, backward, clipping and update. The only file of this folder that knows the trainer.
"""

from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context

import torch

from perdure.kernels import SelectiveLoss
from perdure.kernels.bench_measure import measure, peak_memory
from perdure.pipeline.model.device import initialise

SHAPES: dict[str, dict[str, int | float]] = {
    "Llama-3.2-1B": {
        "num_layers": 16,
        "hidden_size": 2048,
        "ffn_hidden_size": 8192,
        "num_attention_heads": 32,
        "num_query_groups": 8,
        "rope_theta": 500_000.0,
    },
    "SmolLM2-135M": {
        "num_layers": 30,
        "hidden_size": 576,
        "ffn_hidden_size": 1536,
        "num_attention_heads": 9,
        "num_query_groups": 3,
    },
    "tiny": {
        "num_layers": 2,
        "hidden_size": 32,
        "ffn_hidden_size": 64,
        "num_attention_heads": 4,
        "num_query_groups": 2,
    },
}
"""Models as a recipe describes them; their embeddings are tied."""
BATCHES = {"Llama-3.2-1B": (2048, 4, 2), "SmolLM2-135M": (512, 2, 1), "tiny": (16, 4, 2)}
"""Per model: tokens per sample, samples per step, samples per micro-batch."""
VOCABULARIES = {"Llama-3.2-1B": 128_256, "SmolLM2-135M": 49_152, "tiny": 384}
"""Multiples of 128, to which Megatron pads: its own loss would give padding probability."""
PARTS = ("perdure", "megatron")
SHARES = {"perdure": (1.0, 0.6), "megatron": (1.0,)}
"""Shares of tokens that are trained on (selection's k)."""


def training_steps(model: str, dtype: str, repeats: int) -> Iterator[dict]:
    """Times the training steps of Perdure and of Megatron-core, each in its own process.

    Args:
        model: Name in `SHAPES`.
        dtype: `fp32` or `bf16`.
        repeats: Steps at most, three at least.

    Yields:
        `model`, `parts`, `k`, `ms` of a step, `tokens_per_second`, `mfu` (None where the device's peak is unknown), `mb`,
        the peak of memory with weights, gradients and moments in it, and `loss`, of the first step: both start with
        the same weights.
    """
    for parts in PARTS:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            yield from pool.submit(_steps, model, parts, dtype, repeats).result()


def _steps(name: str, parts: str, dtype: str, repeats: int) -> list[dict]:
    from perdure.pipeline.model.gradients import squared_norm
    from perdure.pipeline.model.optimizer import set_learning_rate, update
    from perdure.pipeline.model.shape import flops_per_token, model_shape
    from perdure.pipeline.recipe import Selection
    from perdure.pipeline.train.counts import read_counts, sum_counts
    from perdure.pipeline.train.microbatches import run_batches
    from perdure.pipeline.train.objectives.lm import LanguageModeling
    from perdure.pipeline.train.progress import model_flop_utilisation

    recipe, device, rows = _recipe(name, dtype), initialise(), []
    peak = peak_memory(device)
    before = next(peak)
    try:
        model, optimizer = (_ours if parts == "perdure" else _megatrons)(recipe, VOCABULARIES[name], device)
        set_learning_rate(optimizer, 1e-4, 0.1)
        batches = _batches(recipe, VOCABULARIES[name], device)

        def step() -> float:
            model.zero_grad_buffer()
            optimizer.zero_grad()
            counted = run_batches(
                model, objective, iter(batches), len(batches), recipe.training, 1, forward_only=False
            )
            counts, (squares,) = read_counts(sum_counts(counted, 1), squared_norm(optimizer))
            update(optimizer, squares**0.5)
            return counts.loss[0] / counts.tokens[0]

        objective = LanguageModeling()
        loss = step()  # makes the moments
        for share in SHARES[parts]:
            if parts == "perdure":
                objective = LanguageModeling(Selection(k=share, score="highest_loss"))
            step()
            memory = next(peak) - before
            found = measure(step, device, repeats)
            rate = 1e3 * recipe.training.global_batch_size * recipe.training.seq_length / found.milliseconds
            flops = flops_per_token(model_shape(recipe), VOCABULARIES[name], recipe.training.seq_length)
            mfu = model_flop_utilisation(rate, flops, 1, dtype)
            measured = {"ms": found.milliseconds, "tokens_per_second": rate, "mfu": mfu, "mb": memory / 1e6}
            rows.append({"model": name, "parts": parts, "k": share} | measured | {"loss": loss})
            peak = peak_memory(device)
            next(peak)
    except torch.OutOfMemoryError:
        missing = {"ms": "out of memory", "tokens_per_second": None, "mfu": None, "mb": None, "loss": None}
        rows.append({"model": name, "parts": parts, "k": SHARES[parts][len(rows)]} | missing)
    return rows


def _recipe(name: str, dtype: str):
    """A recipe for the model and the training; its data is never read."""
    from perdure.pipeline.recipe import Recipe

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


def _batches(recipe, vocab_size: int, device: torch.device) -> list:
    """Micro-batches of random tokens."""
    from perdure.pipeline.train.batch import Batch

    generator = torch.Generator().manual_seed(0)
    length, micro = recipe.training.seq_length, recipe.training.micro_batch_size
    made = []
    for number in range(recipe.training.global_batch_size // micro):
        ids = torch.randint(1, vocab_size, (micro, length + 1), generator=generator).to(device)
        shape, of = (micro, length), {"device": device}
        batch = Batch(
            indices=range(number * micro, (number + 1) * micro),
            tokens=ids[:, :-1].contiguous(),
            labels=ids[:, 1:].contiguous(),
            valid=torch.ones(shape, dtype=torch.bool, **of),
            positions=torch.arange(length, **of).expand(shape),
            documents=(length,) * micro,
            reference=torch.zeros(shape, dtype=torch.int32, **of),
            source=torch.zeros(micro, dtype=torch.int64, **of),
            replayed=torch.zeros(micro, dtype=torch.bool, **of),
        )
        made.append(batch)
    return made


def _ours(recipe, vocab_size: int, device: torch.device):
    """The trainer's model and optimizer."""
    from perdure.pipeline.model.language_model import build_model
    from perdure.pipeline.model.optimizer import make_optimizer

    model = build_model(recipe, vocab_size, device)
    _randomise(model)
    return model, make_optimizer(recipe.training, model, False)


def _megatrons(recipe, vocab_size: int, device: torch.device):
    """What Megatron-core has for a machine without Transformer Engine or Apex: its local layers, logits and their cross
    entropy, torch's AdamW."""
    import megatron.core.parallel_state as mpu
    from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig
    from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec
    from megatron.core.models.gpt.gpt_model import GPTModel
    from megatron.core.optimizer import get_megatron_optimizer
    from megatron.core.tensor_parallel import model_parallel_cuda_manual_seed
    from megatron.core.transformer.module import Float16Module

    from perdure.pipeline.model.language_model import model_config
    from perdure.pipeline.model.optimizer import optimizer_config
    from perdure.pipeline.model.shape import padded_vocab_size

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
        rotary_base=recipe.model.rope_theta,
        share_embeddings_and_output_weights=True,
    ).to(device)
    if config.bf16:
        model = Float16Module(config, model)
    model = DistributedDataParallel(config, DistributedDataParallelConfig(grad_reduce_in_fp32=True), model)
    _randomise(model)
    return model, get_megatron_optimizer(optimizer_config(recipe.training, False), [model])


def _randomise(model: torch.nn.Module) -> None:
    torch.manual_seed(0)
    for parameter in model.parameters():
        parameter.data.normal_(0, 0.02) if parameter.dim() > 1 else parameter.data.fill_(1)
