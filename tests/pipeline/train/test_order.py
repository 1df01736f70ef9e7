"""A curriculum reaches the trainer: what two ranks consumed, killed and resumed in the middle, gets harder by buckets."""

import signal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from pyarrow import parquet
from support import metrics, start_ranks, stopped_at
from tiny import prepare_version, random_data, tiny_recipe

from perdure.kernels import select_tokens
from perdure.pipeline.core.files import read_json
from perdure.pipeline.core.shards import REF_NATS_PER_UNIT, open_shard
from perdure.pipeline.plan.plan import locate
from perdure.pipeline.train.counts import fingerprints
from perdure.pipeline.train.dataset import open_dataset, read_batch
from perdure.pipeline.train.objectives.lm import LanguageModeling

BUCKETS, BATCH, MICRO, SEQ = 5, 8, 2, 32


def perplexities(data: Path, scores: Path) -> np.ndarray:
    """Writes a perplexity for every document, in the order of the shards."""
    rows = []
    rng = np.random.default_rng(3)
    for task in range(read_json(data / "manifest.json")["tasks"]):
        number = len(open_shard(data / f"{task:05d}").lengths)
        rows += [(task, sequence, float(rng.lognormal(3))) for sequence in range(number)]
    columns = zip(("shard", "sequence", "perplexity"), zip(*rows, strict=True), strict=True)
    parquet.write_table(pa.table(dict(columns)), scores / "docs.parquet")
    return np.array([row[2] for row in rows])


@pytest.mark.slow
def test_buckets_get_harder_along_what_two_ranks_consumed_over_a_resume(tmp_path):
    data, scores, _ = random_data(tmp_path, True, 300)
    perplexity = perplexities(data["a"], scores["a"])
    tokens = sum(len(open_shard(path.with_suffix("")).values) for path in data["a"].glob("0*.idx"))
    recipe = tiny_recipe(
        tmp_path,
        parallel={"data_parallel": 2},
        training__checkpoint_interval=2,
        training__async_checkpoint=False,  # step 4 is whole before step 6 begins
        versions__v1__tokens=tokens // (BATCH * SEQ) * BATCH * SEQ,  # within one epoch
        versions__v1__mixture={"sources": {"a": {"order": "easy_to_hard", "buckets": BUCKETS}}},
        versions__v1__selection={"k": 0.5, "score": "reference_loss", "reference": "/unused"},
    )
    directory = prepare_version(recipe, scored=True, ranked=scores)
    assert stopped_at(directory, 2, "trainer:train_step:6", signal.SIGKILL).returncode == -signal.SIGKILL
    outcome = start_ranks(directory, 2)
    assert outcome.returncode == 0, outcome.stderr
    assert "resume at step 4" in outcome.stdout

    objective = LanguageModeling(recipe.versions["v1"].selection)
    dataset = open_dataset(directory / "plan", data, {"a": scores["a"]}, objective=objective)
    plan, stream = dataset.plan, dataset.streams["a"]
    consumed: list[int] = []
    lines = metrics(directory)
    assert len(lines) * BATCH == plan.num_samples > 6 * BATCH
    for step, line in enumerate(lines):
        prints = torch.zeros(2, dtype=torch.int64)
        for first in range(step * BATCH, (step + 1) * BATCH, MICRO):
            indices = range(first, first + MICRO)
            batch = read_batch(dataset, indices, torch.device("cpu"))
            reference = batch.reference * REF_NATS_PER_UNIT
            chosen = select_tokens(None, reference, batch.valid, k=0.5)
            prints += fingerprints(batch, chosen)
            for index in indices:
                _key, epoch, sample = locate(plan, index)
                assert epoch == 0
                ends = np.searchsorted(stream.ends, [sample * SEQ, (sample + 1) * SEQ - 1], side="right")
                consumed += stream.documents[ends[0] : ends[1] + 1].tolist()
        found = [f"{mark & (1 << 64) - 1:016x}" for mark in prints.tolist()]
        assert [line["stream"], line["selection"]] == found, (
            f"step {step + 1} read or selected something else"
        )
    order = list(dict.fromkeys(consumed))
    assert len(order) > 0.8 * len(perplexity)
    place = np.arange(len(order)) * BUCKETS // len(perplexity)
    means = [perplexity[order][place == number].mean() for number in range(BUCKETS)]
    assert (np.diff(means) > 0).all(), means
    assert (np.diff(perplexity[order]) < 0).any(), "shuffled inside buckets"
