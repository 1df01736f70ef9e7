"""A passage of training text as the selection saw it, for the report."""

from pathlib import Path

import megatron.core.parallel_state as mpu
import torch
from tokenizers import Tokenizer

from perdure.kernels import select_tokens
from perdure.pipeline.manifest import write_json
from perdure.pipeline.mixture import is_replayed
from perdure.pipeline.plan import locate
from perdure.pipeline.recipe import Recipe
from perdure.pipeline.shards import REF_MISSING, REF_NATS_PER_UNIT
from perdure.pipeline.train.dataset import Dataset, read_batch
from perdure.pipeline.train.model import unwrap
from perdure.pipeline.train.selection import reference_nats
from perdure.pipeline.train.step import token_losses


def write_passage(
    path: Path,
    model: torch.nn.Module,
    recipe: Recipe,
    dataset: Dataset,
    tokenizer: Path,
    device: torch.device,
) -> None:
    """Writes the last new (not replayed) sample of the run with every token's loss, reference loss and selection.

    Its tokens compete within their micro-batch, or their sequence, whatever the scope: no batch is left to compete with.
    All ranks call this; the last pipeline stage writes.
    """
    plan, micro = dataset.plan, recipe.training.micro_batch_size
    first = plan.end - micro
    while not (fresh := [i for i in range(first, first + micro) if not is_replayed(locate(plan, i)[0])]):
        first -= micro
    batch = read_batch(dataset, range(first, first + micro), device)
    eos_id = next(iter(dataset.streams.values())).eos_id
    found = token_losses(model, recipe, [(range(first, first + micro), batch)], eos_id, len(plan.keys))
    if not found or mpu.get_tensor_model_parallel_rank() or mpu.get_data_parallel_rank():
        return
    nll, selection = found[0][0], unwrap(model).selection
    selected = select_tokens(
        nll,
        reference_nats(batch.reference),
        batch.valid,
        k=selection.k,
        scope="sequence" if selection.scope == "sequence" else "microbatch",
        always=batch.replayed[:, None],
        use_nll=selection.use_nll,
    )
    row = fresh[-1] - first
    length = int(batch.valid[row].sum())
    vocabulary = Tokenizer.from_file(str(tokenizer / "tokenizer.json"))
    # Other scores subtract something else than the reference's loss.
    known = dataset.selection is not None and dataset.selection.sidecars == ("ref",)
    known = known and not dataset.selection.smoothing
    reference = batch.reference[row, :length].tolist() if known else [REF_MISSING] * length
    write_json(
        path,
        {
            "source": locate(plan, fresh[-1])[0],
            "tokens": [
                vocabulary.decode([token], skip_special_tokens=False)
                for token in batch.labels[row, :length].tolist()
            ],
            "loss": [round(value, 4) for value in nll[row, :length].tolist()],
            "reference_loss": [
                None if units == REF_MISSING else units * REF_NATS_PER_UNIT for units in reference
            ],
            "selected": selected[row, :length].tolist(),
        },
    )
