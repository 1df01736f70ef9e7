"""Prefixes through the data stage: tokens without labels in front of the same text, and what is counted."""

import numpy as np
import pyarrow.parquet as pq
import pytest

from perdure.pipeline.core.files import read_json
from perdure.pipeline.core.shards import LABEL, PREFIX, open_shard
from perdure.pipeline.core.tokenizers import load_tokenizer
from perdure.pipeline.data.leaks import prefix_mask, texts
from perdure.pipeline.data.stage import run_data
from perdure.pipeline.evaluate.documents import heldout, is_sampled
from perdure.pipeline.evaluate.infill import infill_rows
from perdure.pipeline.recipe import Recipe
from tests.pipeline.data.made import counts
from tests.pipeline.data.texts import random_text, write_jsonl

PLAIN = 7
"""Every document of this multiple lacks the field."""


@pytest.fixture(scope="module")
def stages(tmp_path_factory):
    """The data directories of a source without and with prefixes, made from the same texts; some have their middle moved."""
    directory = tmp_path_factory.mktemp("prefixes")
    rows = [
        {"id": f"d{n}", "text": random_text(n)}
        | ({"url": f"https://site{n % 3}.org/{n}"} if n % PLAIN else {})
        for n in range(50)
    ]
    path = write_jsonl(directory / "web.jsonl", rows)

    def recipe(name, **source):
        reader = {"type": "jsonl", "path": str(path)}
        version = {
            "start": {"type": "init"},
            "tokens": 1000,
            "mixture": {"sources": {"web": {}}},
            "schedule": {"type": "cosine", "max_lr": 1e-3, "min_lr": 1e-4},
        }
        model = {"type": "llama", "num_layers": 2, "hidden_size": 16, "ffn_hidden_size": 32}
        return Recipe.model_validate(
            {
                "name": "test",
                "out": str(directory / name),
                "sources": {
                    "web": {"reader": reader, "heldout_fraction": 0.2, "fim": {"rate": 0.5}} | source
                },
                "tokenizer": {"type": "train", "vocab_size": 400, "sources": ["web"]},
                "model": model | {"num_attention_heads": 2, "num_query_groups": 1},
                "training": {"seq_length": 64, "global_batch_size": 2},
                "versions": {"base": version},
            }
        )

    recipes = recipe("plain"), recipe("prefixed", prefix="URL: {url}\n\n")
    plain, prefixed = (run_data(one)["web"] for one in recipes)
    return plain, prefixed, recipes


def documents(directory):
    """By id each document's row, tokens, and mask (None without)."""
    found = {}
    for row in pq.read_table(directory / "docs.parquet").to_pylist():
        name = f"{'heldout.' if row['split'] == 'heldout' else ''}{row['shard']:05d}"
        shard = open_shard(directory / name)
        span = slice(shard.start(row["sequence"]), shard.start(row["sequence"]) + row["num_tokens"])
        masked = (directory / f"{name}.mask.bin").exists()
        mask = open_shard(directory / f"{name}.mask").values[span] if masked else None
        found[row["id"]] = row, shard.values[span].tolist(), mask
    return found


def test_n_tokens_of_text_are_n_and_one_labels_behind_m_of_prefix(stages):
    plain, prefixed = map(documents, stages[:2])
    tokenizer = load_tokenizer(next(stages[1].parent.parent.glob("tokenizer@*")))
    assert plain.keys() == prefixed.keys()
    for name, (row, tokens, mask) in prefixed.items():
        number = int(name[1:])
        prefix = f"URL: site{number % 3}.org\n\n" if number % PLAIN else ""
        before = tokenizer.tokenizer.encode(prefix, add_special_tokens=False).ids
        own = plain[name][1]  # the text and the separator
        assert tokens == [*before, *own]
        assert mask.tolist() == [PREFIX] * len(before) + [LABEL] * len(own)
        assert row["prefix_tokens"] == len(before)
        assert {key: row[key] for key in ("split", "hash", "num_bytes", "num_chars")} == {
            key: plain[name][0][key] for key in ("split", "hash", "num_bytes", "num_chars")
        }
    told = counts(stages[1])["prefix"]
    assert (told["without"], told["documents"]) == (8, 42)
    assert told["tokens"] == sum(row["prefix_tokens"] for row, _, _ in prefixed.values())
    assert counts(stages[1])["train"]["labels"] == counts(stages[0])["train"]["tokens"]


def test_without_the_field_nothing_is_new(stages):
    assert not [*stages[0].glob("*.mask.*")]
    assert "prefix_tokens" not in pq.read_schema(stages[0] / "docs.parquet").names
    assert "prefix" not in counts(stages[0])


@pytest.mark.parametrize("tokens", [10_000, 150])
def test_held_out_text_is_measured_without_prefix_as_if_there_were_none_and_with_it_apart(stages, tokens):
    plain, prefixed, _ = stages
    one, same = heldout(plain, "web", tokens), heldout(prefixed, "web", tokens)
    assert is_sampled(plain, "web", tokens) == is_sampled(prefixed, "web", tokens) == (tokens == 150)
    for field in ("rows", "begins", "stops", "all_tokens", "all_documents"):
        assert np.array_equal(getattr(one, field), getattr(same, field)), field
    for column in ("num_tokens", "tokens", "bytes", "hash"):
        assert one.documents[column].to_pylist() == same.documents[column].to_pylist()
    with_prefix = heldout(prefixed, "web+prefix", 10_000)
    assert with_prefix.all_tokens == heldout(plain, "web", 10_000).all_tokens  # the same labels
    assert with_prefix.documents["num_tokens"].to_numpy().sum() > with_prefix.all_tokens


def read(directory):
    """Texts of the first shard, as the search for leaks reads them."""
    tokenizer = next(directory.parent.parent.glob("tokenizer@*"))
    sentinels = read_json(directory / "manifest.json")["fim"]["sentinels"]
    shard = open_shard(directory / "00000")
    numbers = list(range(len(shard.lengths)))
    return dict(texts(shard, tokenizer, numbers, (sentinels, ()), prefix_mask(directory, "00000")))


def test_leaks_are_looked_for_in_the_text_alone(stages):
    plain, prefixed, _ = stages
    assert read(plain) == read(prefixed)
    assert not any("URL: " in text or "<fim" in text for text in read(prefixed).values())


def test_middles_are_measured_in_the_text_alone(stages):
    rows = [
        infill_rows(recipe, "web", directory, next(directory.parent.parent.glob("tokenizer@*")))
        for directory, recipe in zip(stages[:2], stages[2], strict=True)
    ]
    assert rows[0] == rows[1] and len(rows[0]) > 3
