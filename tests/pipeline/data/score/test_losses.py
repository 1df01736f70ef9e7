"""Losses of tokens: windows, batches, architectures, units."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    CohereConfig,
    CohereForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
)

from perdure.pipeline.core.files import read_json
from perdure.pipeline.core.shards import open_shard
from perdure.pipeline.data.score.losses import (
    Window,
    document_windows,
    output_head,
    to_units,
    token_losses,
)
from perdure.pipeline.data.score.scorer import Scorer
from tests.pipeline.data.score.small import SMALL, VOCAB, plain_losses


@given(st.integers(1, 40), st.integers(1, 12), st.integers(0, 11))
def test_windows_cover_a_document_once_with_training_contexts(length, context, overlap):
    overlap = min(overlap, context - 1)
    tokens = np.arange(1, length + 1)
    windows = document_windows(tokens, 0, context, overlap)
    assert np.concatenate([labels[skip:] for _, labels, skip in windows]).tolist() == tokens.tolist()
    # Labels are numbered from 1, and the input of each is the one before: 0 is the separator that leads.
    assert all((inputs == labels - 1).all() for inputs, labels, _ in windows)
    assert all(len(inputs) == len(labels) <= context for inputs, labels, _ in windows)
    assert all(len(labels) == context for _, labels, _ in windows[:-1])
    assert [skip for _, _, skip in windows] == [0] + [overlap] * (len(windows) - 1)
    assert all(len(labels) > skip for _, labels, skip in windows)


@settings(max_examples=15)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=12), st.integers(1, 100))
def test_losses_equal_a_plain_forward_whatever_the_batches(llama, lengths, batch_tokens):
    rng = np.random.default_rng(sum(lengths))
    windows = [
        Window(*rng.integers(0, VOCAB, (2, length)), skip=int(rng.integers(0, length))) for length in lengths
    ]
    for window, found in zip(windows, token_losses(llama[0], windows, 40, batch_tokens), strict=True):
        expected = plain_losses(llama[0], window.inputs, window.labels)[:, window.skip :]
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["gpt2", "capped", "scaled"])
def test_other_architectures(kind):
    torch.manual_seed(0)
    if kind == "gpt2":
        model = GPT2LMHeadModel(
            GPT2Config(vocab_size=VOCAB, n_embd=16, n_layer=2, n_head=2, initializer_range=0.5)
        )
    elif kind == "scaled":
        model = CohereForCausalLM(
            CohereConfig(
                vocab_size=VOCAB,
                logit_scale=0.3,
                initializer_range=0.5,
                pad_token_id=0,
                eos_token_id=1,
                bos_token_id=2,
                **SMALL,
            )
        )
    else:
        model = Gemma2ForCausalLM(
            Gemma2Config(
                vocab_size=VOCAB, head_dim=8, final_logit_softcapping=0.5, initializer_range=0.5, **SMALL
            )
        )
    model.eval()
    head = output_head(model)
    assert (head is None) == (kind == "scaled")
    assert head is None or head.softcap == (0.5 if kind == "capped" else None)
    rng = np.random.default_rng(0)
    windows = [Window(*rng.integers(0, VOCAB, (2, length))) for length in (20, 3, 20, 7)]
    for window, found in zip(windows, token_losses(model, windows, 20), strict=True):
        expected = plain_losses(model, window.inputs, window.labels)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_units():
    nats = np.array([0.0, 1.2344, 65.534, 1e9, np.nan, np.inf, -1e-9], np.float32)
    assert to_units(nats).tolist() == [0, 1234, 65534, 65534, 65535, 65535, 0]


def test_stored_scores_do_not_depend_on_the_batch_size(llama):
    rng = np.random.default_rng(0)
    windows = [Window(*rng.integers(0, VOCAB, (2, length))) for length in rng.integers(1, 60, 40)]
    told: list[list[int]] = [[], []]
    one, many = (
        token_losses(llama[0], windows, 60, batch_tokens, told[number].append)
        for number, batch_tokens in enumerate((1, 4096))
    )
    assert len(told[0]) == 40 and {sum(counts) for counts in told} == {
        sum(len(window.labels) for window in windows)
    }
    difference = np.concatenate(one, axis=1) - np.concatenate(many, axis=1)
    assert np.abs(difference).max() < 5e-4  # half of what is stored


def test_losses_that_are_not_finite_are_marked_missing(news, tmp_path):
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(vocab_size=VOCAB, **SMALL))
    shard = open_shard(news / "00000")
    token = int(shard.values[2])
    with torch.no_grad():
        model.get_input_embeddings().weight[token] = torch.nan
    model.save_pretrained(tmp_path / "nan")
    eos = read_json(news / "manifest.json")["eos_id"]
    scorer = Scorer(news, tmp_path / "artefact", tmp_path / "nan", eos, (8, 0), "fp32", threads=1)
    scorer.run(None, 0, 2)
    sidecar, total = open_shard(tmp_path / "artefact" / "00000.ref"), 0
    for end, length in zip(np.cumsum(shard.lengths), shard.lengths):
        windows = document_windows(np.asarray(shard.values[end - length : end]), eos, 8)
        expected = np.concatenate([np.full(len(inputs), token in inputs) for inputs, _, _ in windows])
        assert ((sidecar.values[end - length : end] == 65535) == expected).all()
        total += int(expected.sum())
    assert scorer.stats.stats["missing"].total == total > 0
    assert len(sidecar.values) > total
