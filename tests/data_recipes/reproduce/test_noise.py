"""Rates by kind of noise on hand-made tokens."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from tiny import tiny_llama, tiny_recipe, write_data, write_scores, write_shard

from perdure.data_recipes.reproduce.noise import keep_rates, measure, separation, table, token_kinds
from perdure.pipeline.core.errors import PerdureError
from perdure.pipeline.core.files import write_json
from perdure.pipeline.core.manifest import finish
from perdure.pipeline.core.shards import REF_NATS_PER_UNIT
from perdure.pipeline.model.huggingface import weights_hash
from perdure.pipeline.train.scores import made_reference


def test_a_token_belongs_to_the_span_of_its_middle():
    spans = [(4, 10, "ad"), (10, 12, "html")]
    offsets = [(0, 4), (3, 5), (2, 5), (4, 9), (9, 12), (11, 13), (12, 20)]
    assert token_kinds(offsets, spans) == ["clean", "ad", "clean", "ad", "html", "clean", "clean"]
    assert token_kinds(offsets, []) == ["clean"] * 7


def test_rates():
    kinds = np.array(["clean", "ad", "clean", "html", "ad", "clean"])
    selected = np.array([True, False, True, True, False, False])
    assert keep_rates(selected, kinds) == {"clean": 2 / 3, "ad": 0.0, "html": 1.0, "noise": 1 / 3}
    assert keep_rates(np.array([True, False]), np.array(["clean", "clean"])) == {"clean": 0.5}


def test_separation_is_the_chance_that_clean_wins_ties_half():
    kinds = np.array(["clean", "ad", "clean", "ad"])
    assert separation(np.array([3.0, 1.0, 4.0, 2.0]), kinds) == 1.0
    assert separation(np.array([1.0, 3.0, 2.0, 4.0]), kinds) == 0.0
    assert separation(np.array([1.0, 1.0, 1.0, 1.0]), kinds) == 0.5
    rng = np.random.default_rng(0)
    scores, many = rng.integers(0, 9, 300).astype(float), rng.choice(["clean", "ad", "html"], 300)
    clean, noise = scores[many == "clean"][:, None], scores[many != "clean"][None]
    expected = ((clean > noise) + 0.5 * (clean == noise)).mean()
    assert separation(scores, many) == pytest.approx(expected, abs=1e-12)


def test_the_table():
    way = {"rates": {"clean": 0.8, "noise": 0.2, "ad": 0.2}, "separation": 0.9}
    result = {"k": 0.6, "tokens": {"ad": 10, "clean": 1000}, "ways": {"excess": way}}
    assert table(result).splitlines() == [
        "| score | clean (1,000) | noise (10) | ad (10) | noise / clean | AUC |",
        "| --- | --- | --- | --- | --- | --- |",
        "| excess | 0.800 | 0.200 | 0.200 | 0.25 | 0.900 |",
    ]


WORDS, NOISY = 40, 24
"""Words of a document, of which the last ones are noise."""
SELECTING = {"k": 0.6, "reference": "/unused"}


def trained(out: Path, seed: int) -> None:
    """A version that was trained with a seed, as far as files tell: its recipe, its inputs, a model of random weights."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    recipe = tiny_recipe(out, seed=seed, versions__v1__selection=SELECTING)
    directory, tokenizer = out / "versions" / "v1", out / "tokenizer"
    tokenizer.mkdir(parents=True)
    words = Tokenizer(models.WordLevel({"<eos>": 0} | {f"w{i}": i for i in range(1, 30)}, unk_token="<eos>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.save(str(tokenizer / "tokenizer.json"))
    facts = {"eos_id": 0, "vocab_size": 30, "tokenizer_hash": "x", "parse_special_tokens": False}
    finish(tokenizer, facts)
    rng = np.random.default_rng(0)
    documents = [np.append(rng.integers(10, 30, WORDS), 0).astype(np.uint16) for _ in range(10)]
    # All words have three letters.
    spans = json.dumps({"noise": [[4 * (WORDS - NOISY), 4 * WORDS, "ad"]]})
    data = write_data(
        out / "data" / "a", [documents], documents[:1], 30, label=lambda *_: {"metadata": spans}
    )
    losses = np.full(WORDS + 1, 1.0)  # the separator is clean
    losses[WORDS - NOISY : WORDS] = 40.0
    scores = write_scores(out / "scores", data, [[losses] * len(documents)])
    write_shard(
        scores / "00000.ent", [np.round(losses / REF_NATS_PER_UNIT).astype(np.uint16)] * len(documents)
    )
    tiny_llama(directory / "hf", 30, num_hidden_layers=1)
    (directory / "recipe.yaml").write_text(yaml.safe_dump(recipe.model_dump(mode="json")))
    inputs = {
        "data": {"a": str(data)},
        "scores": {"a": str(scores)},
        "tokenizer": str(tokenizer),
        "eos_id": 0,
    }
    write_json(directory / "inputs.json", inputs)
    write_json(directory / "version.json", {"weights_hash": weights_hash(directory / "hf")})
    finish(directory, {})


def test_what_a_trained_version_selects_of_known_noise(tmp_path):
    trained(tmp_path, seed=11)
    # The recipe's file has another seed than the version was trained with (`--set seed=11`).
    recipe = tiny_recipe(tmp_path, seed=1, versions__v1__selection=SELECTING)
    found = measure(recipe, "v1", "a", tokens=300, smoothing=2)
    group = 2 * 32  # tokens that compete: a micro-batch
    whole = 8 * (WORDS + 1) // group * group  # documents up to 300 tokens, in whole micro-batches
    noise = np.array([place % (WORDS + 1) in range(WORDS - NOISY, WORDS) for place in range(whole)])
    assert found["k"] == 0.6 and found["tokens"] == {"ad": int(noise.sum()), "clean": int((~noise).sum())}
    ways = found["ways"]
    alone = ("reference_loss", "reference_entropy", "intersection")
    assert set(ways) == {"excess", "random", "highest_loss", *alone, *(f"{way} +-2" for way in alone)}
    # The reference finds noise 39 nats harder, more than the trainee's losses differ: all clean tokens go first.
    kept = 38  # of 64, rounded
    clean = (~noise).reshape(-1, group).sum(axis=1)
    for way in ("excess", *alone):
        rate = np.maximum(kept - clean, 0).sum() / noise.sum()
        assert ways[way]["separation"] == 1.0
        assert ways[way]["rates"] == {"clean": 1.0, "ad": pytest.approx(rate), "noise": pytest.approx(rate)}
    # Random bits are those of the training, by its seed.
    selection = recipe.versions["v1"].selection.model_copy(update={"score": "random"})
    expected = {}
    for seed in (1, 11):
        bits = made_reference(selection, seed, range(whole // group), group)
        selected = bits <= np.sort(bits, axis=1)[:, [kept - 1]]
        expected[seed] = keep_rates(selected.ravel(), np.where(noise, "ad", "clean"))
    assert expected[1] != expected[11]
    assert ways["random"]["rates"] == pytest.approx(expected[11])
    with pytest.raises(PerdureError, match="source b are selected"):
        measure(recipe, "v1", "b", tokens=300, smoothing=2)
