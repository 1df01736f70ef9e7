import json

import pyarrow.parquet as pq
import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from perdure.pipeline.cli.inspection.gather import inspect
from perdure.pipeline.cli.inspection.text import print_inspection
from perdure.pipeline.core.errors import PerdureError
from perdure.pipeline.core.files import read_json, write_json
from perdure.pipeline.core.tokenizers import LOADED
from perdure.pipeline.data.stage import run_data
from perdure.pipeline.data.tokenizer.coverage import gaps, loses_characters, sample_characters
from perdure.pipeline.data.tokenizer.train import train

LETTERS = "abcdefghijklmnopqrstuvwxyz▁"


def letters(unknown: str | None = None, **options) -> Tokenizer:
    """A BPE over small letters alone, which leaves out every other character, or tells it as unknown."""
    vocabulary = {"<end>": 0, "[?]": 1} | {letter: number for number, letter in enumerate(LETTERS, 2)}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], unk_token=unknown, **options))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.add_special_tokens(["<end>"])
    return tokenizer


@pytest.mark.parametrize("options", [{}, {"unknown": "[?]"}, {"unknown": "[?]", "fuse_unk": True}])
def test_characters_without_tokens_are_counted(options):
    tokenizer = letters(**options)
    assert loses_characters(tokenizer, "x")
    texts = ["the cat", "", "the Kat", "日本 is 日本語。", "🙂", "a\n\u0301b\u200b", "<end>"]
    assert gaps(tokenizer).missing(texts) == [0, 0, 1, 6, 1, 0, 0]


def test_half_a_character_is_a_character_without_token():
    tokenizer = train(300, iter(["plain"]))
    assert not loses_characters(tokenizer, "x")
    tree = json.loads(tokenizer.to_str())
    lacking = pre_tokenizers.ByteLevel(add_prefix_space=False).pre_tokenize_str("é")[0][0][1]
    del tree["model"]["vocab"][lacking]
    tree["model"]["merges"] = []
    tree["model"]["vocab"] = {k: v for k, v in tree["model"]["vocab"].items() if len(k) == 1 or v == 0}
    half = Tokenizer.from_str(json.dumps(tree))
    assert loses_characters(half, "x")
    assert gaps(half).missing(["né", "ne"]) == [1, 0]


def test_what_a_normaliser_removes_is_lost_too():
    tokenizer = train(300, iter(["plain"]))
    tokenizer.normalizer = normalizers.Replace(__import__("tokenizers").Regex("[^a-z ]"), "")
    assert loses_characters(tokenizer, "x")
    assert gaps(tokenizer).missing(["日本 cat", "cat"]) == [2, 0]


def test_the_sample_of_characters_meets_every_script():
    characters = {text[0] for text in sample_characters()}
    assert 2000 < len(characters) < 3000 and all(len(text) == 2 for text in sample_characters())
    assert {chr(code) for code in range(33, 127)} <= characters
    for first, last in ("Ѐӿ", "֐׿", "؀ۿ", "ऀॿ", "฀๿", "぀ヿ", "一鿿", "가힣", "😀🙏"):
        assert any(first <= character <= last for character in characters)


@pytest.fixture
def recipe(make_recipe, texts, tmp_path):
    (tmp_path / "tok").mkdir()
    letters().save(str(tmp_path / "tok/tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<end>"}
    (tmp_path / "tok/tokenizer_config.json").write_text(json.dumps(config))
    foreign = ["Привет, мир " * 20, "日本語の文章です" * 20]
    mixed = ["the cat 日本 " * 10]
    tokenizer = {"type": "huggingface", "path": str(tmp_path / "tok")}
    return make_recipe({"a": texts + foreign + mixed, "b": texts}, tokenizer=tokenizer)


def test_documents_without_tokens_are_dropped_counted_and_said(recipe, texts, capsys, said):
    found = run_data(recipe)
    counts = read_json(found["a"] / "manifest.json")["counts"]
    assert counts["documents"] == {"in": 63, "dropped": {"without_tokens": 2}, "out": 61}
    lost = counts["without_tokens"]
    assert lost["characters"] == 20 * 10 + 20 * 8 + 10 * 2 and lost["documents"] == 3
    assert lost["of"] == sum(len(text.replace(" ", "")) for text in texts) + 20 * 10 + 20 * 8 + 10 * 8
    assert lost["example"]["share"] == 1.0
    assert pq.read_table(found["a"] / "docs.parquet").num_rows == 61
    (line,) = (line for line in said if line.startswith("WARNING: a: the tokenizer has no token for 380 of"))
    assert "in 3 documents; most in " in line and not any("WARNING: b" in line for line in said)
    print_inspection(inspect("x", recipe.directory, found) | {"mixtures": []})
    shown = capsys.readouterr().out
    assert "without tokens: 380 of" in shown and "without_tokens" in shown


def test_the_shards_are_compared_with_autotokenizer(recipe):
    (recipe.directory).mkdir()
    first = recipe.model_copy(update={"sources": {"b": recipe.sources["b"]}})
    run_data(first)
    (tokenizer,) = recipe.directory.glob("tokenizer@*")
    other = letters()
    other.normalizer = normalizers.Replace("ran", "run")
    other.save(str(tokenizer / LOADED))
    facts = read_json(tokenizer / "manifest.json")
    write_json(tokenizer / "manifest.json", facts | {"loaded": facts["loaded"] | {"sha256": "x"}})
    with pytest.raises(
        PerdureError, match=r"sources\.a: document \d+, token \d+: the shards have 'u', Auto\w+ gives 'a'"
    ):
        run_data(recipe)
    assert not list(recipe.directory.glob("data/a@*"))
