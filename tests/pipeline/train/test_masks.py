"""Label masks: which tokens are trained on and measured, and what they leave as it was."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from support import metrics, start_ranks
from tiny import EOS, prepare_version, random_documents, tiny_recipe, write_data, write_masks

from perdure.kernels import SelectiveLoss
from perdure.pipeline.core.files import read_json
from perdure.pipeline.evaluate.documents import heldout
from perdure.pipeline.train.counts import count_batch
from perdure.pipeline.train.dataset import open_dataset, read_batch
from perdure.pipeline.train.objectives.lm import LanguageModeling
from perdure.pipeline.train.streams import open_heldout, open_stream, read_sample

CPU = torch.device("cpu")


def array(*values: int) -> np.ndarray:
    return np.array(values, np.uint16)


def ones(documents):
    return [np.ones(len(document), np.uint8) for document in documents]


def all_ones(data: Path, number: int) -> None:
    """A mask of ones beside the random data of `tiny.random_data`."""
    tasks = [random_documents(10 * number + task, 60, 300) for task in range(2)]
    write_masks(data, [ones(task) for task in tasks], ones(random_documents(99 + number, 12, 300)))


def test_a_chat_has_its_answer_and_end_mark_as_labels(tmp_path):
    """Three tokens of a prompt, two of an answer, an end mark (exactly three labels), and the separator behind them."""
    chat, mask = array(5, 6, 7, 8, 9, 4, EOS), array(0, 0, 0, 1, 1, 1, 0)
    data = write_data(tmp_path / "data", [[chat, chat]], [], 16)
    write_masks(data, [[mask, mask]], [])
    stream = open_stream(data, None, np.arange(2), np.array([7, 14]))
    sample = read_sample(stream, 0, 16)
    labels = sample.tokens[1:]
    assert labels[sample.counted].tolist() == [8, 9, 4] * 2 and sample.num_valid == 14
    # The mask is that of the label: what precedes an answer predicts its first token.
    assert sample.tokens[:-1][sample.counted].tolist() == [7, 8, 9] * 2
    # Cut anywhere, every label counts in exactly one sample.
    found = [read_sample(stream, number, 4) for number in range(4)]
    assert [int(part.counted[: part.num_valid].sum()) for part in found] == [1, 2, 2, 1]


def test_the_last_turn_alone_can_count(tmp_path):
    chat, mask = array(5, 6, 7, 8, 9, EOS), array(0, 1, 1, 0, 2, 2)
    data = write_data(tmp_path / "data", [[chat]], [], 16)
    write_masks(data, [[mask]], [])
    for last, expected in ((False, [6, 7, 9, EOS]), (True, [9, EOS])):
        stream = open_stream(data, None, np.arange(1), np.array([6]))
        sample = read_sample(replace(stream, last_turn=last), 0, 8)
        assert sample.tokens[1:][sample.counted].tolist() == expected


def counted(batch) -> dict:
    nll = torch.rand(batch.labels.shape, generator=torch.Generator().manual_seed(0))
    output = SelectiveLoss(nll, batch.valid, nll)
    total, number, told = LanguageModeling().reduce(output, batch, 2)
    return told | {"total": total, "number": number}


def test_a_mask_decides_what_counts_and_not_what_is_read(tmp_path):
    plan = prepare_version(tiny_recipe(tmp_path)) / "plan"
    data = {name: tmp_path / "data" / name for name in ("a", "b")}
    plain = read_batch(open_dataset(plan, data, {}), range(2, 8), CPU)
    before = counted(plain)
    for number, name in enumerate(data):
        all_ones(data[name], number)
    masked = read_batch(open_dataset(plan, data, {}), range(2, 8), CPU)
    for name in ("tokens", "labels", "valid", "positions", "reference", "source", "replayed"):
        assert torch.equal(getattr(masked, name), getattr(plain, name)), name
    assert masked.documents.lengths == plain.documents.lengths
    after = counted(masked)
    assert all(torch.equal(after[name], before[name]) for name in before)

    mask = data["a"] / "00000.mask.bin"
    mask.write_bytes(bytes(len(mask.read_bytes())))
    fewer = read_batch(open_dataset(plan, data, {}), range(2, 8), CPU)
    told, sums = counted(fewer), before["sums"]
    assert torch.equal(told["prints"][:1], before["prints"][:1])  # the text that was read
    assert told["prints"][1] != before["prints"][1]  # what is trained on of it
    assert 0 < told["sums"][0] < sums[0] and told["sums"][1] == sums[1]
    assert torch.equal(told["sums"][4:6], sums[:2])  # read, of both sources


def test_a_batch_without_labels_counts_as_no_loss(tmp_path):
    data = write_data(tmp_path / "data", [[array(5, 6, EOS)]], [], 16)
    write_masks(data, [[array(0, 0, 0)]], [])
    sample = read_sample(open_stream(data, None, np.arange(1), np.array([3])), 0, 4)
    from perdure.pipeline.train.batch import collate, on_device

    batch = on_device(collate(range(1), [sample]), CPU)
    sums = count_batch(torch.ones(1, 4), batch.valid, batch, 1)["sums"].tolist()
    assert sums == [0, 0, 3, 0, 0, 0]


def test_heldout_conversations_are_measured_on_their_labels(tmp_path):
    chat, other = array(5, 6, 7, 8, EOS), array(9, 9, 9, 9, EOS)
    masks = [array(0, 0, 1, 1, 1), array(0, 0, 0, 1, 0), array(0, 0, 0, 0, 0)]
    data = write_data(tmp_path / "data", [[chat]], [chat, other, other], 16)
    write_masks(data, [[masks[0]]], masks)
    held = heldout(data, "data", 1000)
    assert held.documents["tokens"].to_pylist() == held.documents["heldout_tokens"].to_pylist() == [3, 1]
    assert held.documents["bytes"].to_pylist() == [20, 20]  # what `write_data` says of a whole document
    assert (held.all_documents, held.all_tokens) == (3, 4)
    stream, rows = open_heldout(data, held, 16)
    sample = read_sample(stream, 0, 16)
    assert sample.tokens[1:][sample.counted].tolist() == [7, 8, EOS, 9] and rows.tolist() == [0, 1]


@pytest.mark.slow
def test_a_mask_of_ones_is_no_mask_bit_for_bit_and_another_mask_trains_on_less(tmp_path):
    """Losses, fingerprints, tokens and gradients of all steps, and the held-out losses behind them."""
    lines, evaluations = [], []
    for kind in ("none", "ones", "half"):
        out = tmp_path / kind
        directory = prepare_version(tiny_recipe(out, versions__v1__tokens=32 * 8 * 4))
        for number, name in enumerate(("a", "b") if kind != "none" else ()):
            all_ones(out / "data" / name, number)
            if kind == "half":
                for mask in (out / "data" / name).glob("*.mask.bin"):
                    mask.write_bytes(bytes(place % 2 for place in range(mask.stat().st_size)))
        outcome = start_ranks(directory, 1)
        assert outcome.returncode == 0, outcome.stderr
        timed = {"tokens_per_second", "mfu"}
        lines.append([{key: line[key] for key in line.keys() - timed} for line in metrics(directory)])
        evaluations.append(read_json(directory / "eval.json")["domains"])
    none, one, half = lines
    assert one == none and evaluations[1] == evaluations[0]
    for line, whole in zip(half, none, strict=True):
        assert line["stream"] == whole["stream"] and line["selection"] != whole["selection"]
        assert line["tokens"] == whole["tokens"]
        assert 0.4 < line["trained_tokens"] / whole["trained_tokens"] < 0.6
    assert evaluations[2]["a"]["tokens"] < evaluations[0]["a"]["tokens"]
