"""What selection took, for the report: one sample token by token, and the counts of many samples."""

from functools import partial
from pathlib import Path

import megatron.core.parallel_state as mpu
import numpy as np
import pyarrow.compute as pc
import torch
from pyarrow import parquet
from tokenizers import Tokenizer

from perdure.pipeline.core.files import write_json
from perdure.pipeline.core.shards import REF_MISSING, REF_NATS_PER_UNIT
from perdure.pipeline.core.token_texts import token_texts
from perdure.pipeline.model.language_model import reference_nats
from perdure.pipeline.plan.domains import source_of
from perdure.pipeline.plan.mixture import is_replayed
from perdure.pipeline.plan.packing import PADDING
from perdure.pipeline.plan.plan import Plan, locate, place_of
from perdure.pipeline.recipe import Selection, Training
from perdure.pipeline.train.batch import Batch
from perdure.pipeline.train.dataset import Dataset, read_batch
from perdure.pipeline.train.forward import token_losses
from perdure.pipeline.train.selection import select_microbatch
from perdure.pipeline.train.streams import Stream

COUNTED_TOKENS = 32_768
"""Tokens of the last samples that `write_selection_counts` counts, rounded up to whole micro-batches."""
EXCESS_EDGES = [round(0.25 * i, 2) for i in range(-16, 33)]
"""Borders in nats between the bins of excess losses; the outermost bins hold what lies beyond, too."""


def write_annotated_sample(
    path: Path,
    model: torch.nn.Module,
    training: Training,
    selection: Selection,
    dataset: Dataset,
    tokenizer: Path,
    device: torch.device,
) -> None:
    """Writes the last new (not replayed) sample of the run with every token's loss, reference loss and selection.

    Its tokens compete within their micro-batch, or their sequence, whatever the scope: no batch is left to compete with.
    All ranks call this; the last pipeline stage writes.
    """
    plan, micro = dataset.plan, training.micro_batch_size
    first = plan.end - micro
    while not (fresh := [i for i in range(first, first + micro) if not is_replayed(locate(plan, i)[0])]):
        first -= micro
    batch = read_batch(dataset, range(first, first + micro), device)
    losses = token_losses(model, training, [batch])
    if not _writes(losses):
        return
    nll = losses[0]
    selected = select_microbatch(nll, batch, selection)
    row = fresh[-1] - first
    length = int(batch.valid[row].sum())
    vocabulary = Tokenizer.from_file(str(tokenizer / "tokenizer.json"))
    # Other scores subtract something else than the reference's loss.
    known = selection.sidecars == ("ref",) and not selection.smoothing
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


def write_selection_counts(
    path: Path,
    model: torch.nn.Module,
    training: Training,
    selection: Selection,
    dataset: Dataset,
    data: dict[str, Path],
    device: torch.device,
) -> None:
    """Counts what the finished model would select of the new data in the last samples of the run.

    Tokens compete as in `write_annotated_sample`. All ranks call this; the last pipeline stage writes: `tokens` that competed,
    `selected`; `excess_edges` in nats and, by bin of excess loss, `excess_selected` and `excess_other` (null where the
    score is another one); `topics`: by source and topic `scored` and `selected` tokens, where documents have topics.

    Args:
        path: The file.
        model: The wrapped model.
        training: Shape of a micro-batch.
        selection: What the version is trained by.
        dataset: The version's data.
        data: Data directory per source.
        device: This rank's device.
    """
    plan, micro = dataset.plan, training.micro_batch_size
    number = max(1, -(-COUNTED_TOKENS // (micro * plan.seq_length)))
    first = max(plan.first_sample, plan.end - number * micro)
    batches = [
        read_batch(dataset, range(start, start + micro), device) for start in range(first, plan.end, micro)
    ]
    losses = token_losses(model, training, batches)
    if not _writes(losses):
        return
    found = SelectionCounts()
    topics = label_topics(dataset, data, first)
    for nll, batch in zip(losses, batches, strict=True):
        selected = select_microbatch(nll, batch, selection)
        found.add(nll, selected, batch, plan, topics)
    write_json(path, found.as_json(selection.score == "excess"))


def _writes(losses: list[torch.Tensor]) -> bool:
    """Whether this rank is the one that writes: the first of the last pipeline stage."""
    return bool(losses) and not mpu.get_tensor_model_parallel_rank() and not mpu.get_data_parallel_rank()


class SelectionCounts:
    """Selected and other tokens of new data, by excess loss and by topic.

    Attributes:
        total: int64 [2], tokens that competed and those selected.
        bins: int64 [2, bins], selected and other tokens by excess loss.
        topics: By source and topic int64 [2], as `total`.
    """

    def __init__(self) -> None:
        self.total = np.zeros(2, np.int64)
        self.bins = np.zeros((2, len(EXCESS_EDGES) - 1), np.int64)
        self.topics: dict[str, dict[str, np.ndarray]] = {}

    def add(
        self,
        nll: torch.Tensor,
        selected: torch.Tensor,
        batch: Batch,
        plan: Plan,
        topics: dict[int, np.ndarray],
    ) -> None:
        """Counts a micro-batch.

        Args:
            nll: float32 [batch, sequence] in nats.
            selected: bool [batch, sequence].
            batch: What they are of.
            plan: Names the sources.
            topics: By global index the topic of each label, object [sequence], of samples that have some.
        """
        chosen = selected.cpu().numpy()
        competing = (batch.valid & ~batch.replayed[:, None]).cpu().numpy()
        excess = (nll - reference_nats(batch.reference)).float().cpu().numpy()
        for row, index in enumerate(batch.indices):
            own = competing[row]
            self.total += own.sum(), (own & chosen[row]).sum()
            for number, part in enumerate((own & chosen[row], own & ~chosen[row])):
                values = excess[row][part & ~np.isnan(excess[row])].clip(EXCESS_EDGES[0], EXCESS_EDGES[-1])
                self.bins[number] += np.histogram(values, EXCESS_EDGES)[0]
            if index not in topics:
                continue
            source = plan.sources[plan.keys[place_of(plan, index).source]]["source"]
            labels = topics[index]
            for topic in {label for label in labels[own] if label is not None}:
                of_topic = own & (labels == topic)
                entry = self.topics.setdefault(source, {}).setdefault(topic, np.zeros(2, np.int64))
                entry += of_topic.sum(), (of_topic & chosen[row]).sum()

    def as_json(self, by_excess: bool) -> dict:
        """What `chosen.json` holds; without `by_excess` the counts by excess loss are null."""
        selected, other = self.bins.tolist()
        return {
            "tokens": int(self.total[0]),
            "selected": int(self.total[1]),
            "excess_edges": EXCESS_EDGES if by_excess else None,
            "excess_selected": selected if by_excess else None,
            "excess_other": other if by_excess else None,
            "topics": {
                source: {
                    topic: {"scored": int(scored), "selected": int(selected)}
                    for topic, (scored, selected) in sorted(found.items())
                }
                for source, found in self.topics.items()
            },
        }


def label_topics(dataset: Dataset, data: dict[str, Path], first: int) -> dict[int, np.ndarray]:
    """The topics of the labels of a plan's last samples, where new data has topics.

    Args:
        dataset: The version's data.
        data: Data directory per source.
        first: Global index of the first of these samples.

    Returns:
        By global index object [sequence]: names, None where a label has no topic.
    """
    plan = dataset.plan
    documents: dict[str, dict[int, np.ndarray]] = {}
    for index in range(first, plan.end):
        key, _epoch, sample = locate(plan, index)
        if not is_replayed(key):
            read = label_documents(dataset.streams[key], sample, plan.seq_length)
            documents.setdefault(key, {})[index] = read
    found = {}
    for key, samples in documents.items():
        directory = data[source_of(plan.sources[key]["source"])]
        numbers = np.unique(np.concatenate(list(samples.values())))
        if topics := document_topics(directory, dataset.streams[key].shard_starts, numbers):
            for index, own in samples.items():
                names = [topics.get(number) for number in own.tolist()]
                found[index] = np.array(names + [None] * (plan.seq_length - len(names)), object)
    return found


def label_documents(stream: Stream, sample: int, seq_length: int) -> np.ndarray:
    """The documents that a sample's labels come from, int64 [labels], at most `seq_length`; as `read_sample` counts."""
    end = min((sample + 1) * seq_length, int(stream.ends[-1]))
    places = np.searchsorted(stream.ends, np.arange(sample * seq_length, end), side="right")
    documents = stream.documents[places]
    return documents[documents != PADDING]  # padding comes last, and nothing stands for what is withdrawn


def document_topics(data: Path, shard_starts: np.ndarray, documents: np.ndarray) -> dict[int, str]:
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
