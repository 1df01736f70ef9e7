"""What selection took, for the report: a passage of training text, and the counts of many samples."""

from functools import partial
from pathlib import Path

import megatron.core.parallel_state as mpu
import numpy as np
import pyarrow.compute as pc
import torch
from pyarrow import parquet
from tokenizers import Tokenizer

from perdure.kernels import select_tokens
from perdure.pipeline.core.files import write_json
from perdure.pipeline.core.shards import REF_MISSING, REF_NATS_PER_UNIT
from perdure.pipeline.core.token_texts import token_texts
from perdure.pipeline.model.language_model import reference_nats, unwrap
from perdure.pipeline.plan.domains import source_of
from perdure.pipeline.plan.mixture import is_replayed
from perdure.pipeline.plan.plan import locate
from perdure.pipeline.recipe import Recipe
from perdure.pipeline.train.dataset import Batch, Dataset, Stream, read_batch
from perdure.pipeline.train.step import token_losses

COUNTED_TOKENS = 32_768
"""Tokens of the last samples that `write_chosen` counts, rounded up to whole micro-batches."""
EXCESS_EDGES = [round(0.25 * i, 2) for i in range(-16, 33)]
"""Borders in nats between the bins of excess losses; the outermost bins hold what lies beyond, too."""


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
    nll = found[0][0]
    selected = _selected(model, nll, batch)
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
            "tokens": token_texts(
                partial(vocabulary.decode, skip_special_tokens=False), batch.labels[row, :length].tolist()
            ),
            "loss": [round(value, 4) for value in nll[row, :length].tolist()],
            "reference_loss": [
                None if units == REF_MISSING else units * REF_NATS_PER_UNIT for units in reference
            ],
            "selected": selected[row, :length].tolist(),
        },
    )


def write_chosen(
    path: Path,
    model: torch.nn.Module,
    recipe: Recipe,
    dataset: Dataset,
    data: dict[str, Path],
    device: torch.device,
) -> None:
    """Counts what the finished model would select of the new data in the last samples of the run.

    Tokens compete as in `write_passage`. All ranks call this; the last pipeline stage writes: `tokens` that competed,
    `selected`; `excess_edges` in nats and, by bin of excess loss, `excess_selected` and `excess_other` (null where the
    score is another one); `topics`: by source and topic `scored` and `selected` tokens, where documents have topics.

    Args:
        path: The file.
        model: The wrapped model.
        recipe: Batch sizes.
        dataset: The version's data.
        data: Data directory per source.
        device: This rank's device.
    """
    plan, micro = dataset.plan, recipe.training.micro_batch_size
    batches = max(1, -(-COUNTED_TOKENS // (micro * plan.seq_length)))
    first = max(plan.first_sample, plan.end - batches * micro)
    ranges = [range(start, start + micro) for start in range(first, plan.end, micro)]
    members = [(indices, read_batch(dataset, indices, device)) for indices in ranges]
    eos_id = next(iter(dataset.streams.values())).eos_id
    losses = token_losses(model, recipe, members, eos_id, len(plan.keys))
    if not losses or mpu.get_tensor_model_parallel_rank() or mpu.get_data_parallel_rank():
        return
    documents: dict[str, dict[int, np.ndarray]] = {}
    for index in (index for indices in ranges for index in indices):
        key, _epoch, sample = locate(plan, index)
        if not is_replayed(key):
            read = _label_documents(dataset.streams[key], sample, plan.seq_length)
            documents.setdefault(key, {})[sample] = read
    topics = {
        key: _topics(
            data[source_of(plan.sources[key]["source"])],
            dataset.streams[key].shard_starts,
            np.unique(np.concatenate(list(samples.values()))),
        )
        for key, samples in documents.items()
    }
    bins = np.zeros((2, len(EXCESS_EDGES) - 1), np.int64)
    counts: dict[str, dict[str, np.ndarray]] = {}
    total = np.zeros(2, np.int64)
    for indices, (nll, batch) in zip(ranges, losses, strict=True):
        chosen = _selected(model, nll, batch).cpu().numpy()
        competing = (batch.valid & ~batch.replayed[:, None]).cpu().numpy()
        excess = (nll - reference_nats(batch.reference)).float().cpu().numpy()
        for row, index in enumerate(indices):
            key, _epoch, sample = locate(plan, index)
            taken, own = chosen[row], competing[row]
            total += own.sum(), (own & taken).sum()
            for number, part in enumerate((own & taken, own & ~taken)):
                values = excess[row][part & ~np.isnan(excess[row])]
                bins[number] += np.histogram(values.clip(EXCESS_EDGES[0], EXCESS_EDGES[-1]), EXCESS_EDGES)[0]
            if not topics.get(key):
                continue
            source = plan.sources[key]["source"]
            names = [topics[key].get(number) for number in documents[key][sample].tolist()]
            labels = np.array(names + [None] * (plan.seq_length - len(names)), object)
            for topic in {label for label in labels[own] if label is not None}:
                here = own & (labels == topic)
                entry = counts.setdefault(source, {}).setdefault(topic, np.zeros(2, np.int64))
                entry += here.sum(), (here & taken).sum()
    known = dataset.selection is not None and dataset.selection.score == "excess"
    write_json(
        path,
        {
            "tokens": int(total[0]),
            "selected": int(total[1]),
            "excess_edges": EXCESS_EDGES if known else None,
            "excess_selected": bins[0].tolist() if known else None,
            "excess_other": bins[1].tolist() if known else None,
            "topics": {
                source: {
                    topic: {"scored": int(scored), "selected": int(selected)}
                    for topic, (scored, selected) in sorted(found.items())
                }
                for source, found in counts.items()
            },
        },
    )


def _selected(model: torch.nn.Module, nll: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Which tokens of a micro-batch are selected, bool [batch, sequence]; they compete in it, or in their sequence."""
    selection = unwrap(model).selection
    return select_tokens(
        nll,
        reference_nats(batch.reference),
        batch.valid,
        k=selection.k,
        scope="sequence" if selection.scope == "sequence" else "microbatch",
        always=batch.replayed[:, None],
        use_nll=selection.use_nll,
    )


def _label_documents(stream: Stream, sample: int, seq_length: int) -> np.ndarray:
    """The documents that a sample's labels come from, int64 [labels], at most `seq_length`; as `read_sample` counts."""
    end = min((sample + 1) * seq_length, int(stream.ends[-1]))
    places = np.searchsorted(stream.ends, np.arange(sample * seq_length, end), side="right")
    return stream.documents[places]


def _topics(data: Path, shard_starts: np.ndarray, documents: np.ndarray) -> dict[int, str]:
    """The topics of some training documents, out of a table that may be too large to hold.

    Args:
        data: The source's data directory.
        shard_starts: int64 [shards], number of each shard's first document.
        documents: int64, numbers of documents, counted over all shards, ascending.

    Returns:
        Topic by number, of those that have one.
    """
    table = parquet.ParquetFile(data / "docs.parquet")
    if "topic" not in table.schema_arrow.names:
        return {}
    found: dict[int, str] = {}
    for batch in table.iter_batches(columns=["split", "shard", "sequence", "topic"]):
        batch = batch.filter(pc.equal(batch["split"], "train"))
        numbers = shard_starts[batch["shard"].to_numpy()] + batch["sequence"].to_numpy()
        wanted = np.isin(numbers, documents)
        names = batch["topic"].filter(wanted).to_pylist()
        found |= {
            number: name
            for number, name in zip(numbers[wanted].tolist(), names, strict=True)
            if name is not None
        }
    return found
