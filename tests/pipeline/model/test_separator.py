"""The token that documents end in: what exports name, and what `perdure import` says of it."""

import json

import pytest
import yaml

from perdure.pipeline.data.tokenizer.train import train
from perdure.pipeline.model.separator import end_tokens, separator_line, special_tokens

SPECIAL = {0: "<|endoftext|>", 300: "<|im_end|>"}


@pytest.mark.parametrize(
    ("named", "found"),
    [
        (None, 0),
        (0, 0),
        (2, 0),  # a token of text, which transformers takes where a Llama's config names none
        (300, [0, 300]),
        ([300, 0], [0, 300]),
        ([300, 2], [0, 300]),
        ([0], 0),
        ([], 0),
        ("x", 0),
    ],
)
def test_the_separator_comes_first_and_tokens_that_are_no_text_stay(named, found):
    assert end_tokens(named, 0, SPECIAL) == found


@pytest.fixture
def tokenizer(tmp_path):
    """A directory with a tokenizer of two special tokens, `<|endoftext|>` (0) and `<|im_end|>`."""
    tokenizer = train(290, iter(["abc abd abe " * 20]))
    tokenizer.add_special_tokens(["<|im_end|>"])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    return tokenizer


def say(directory, tokenizer, eos=None, **ids):
    """What is said of a directory whose files name these end tokens."""
    (directory / "tokenizer_config.json").write_text(json.dumps({} if eos is None else {"eos_token": eos}))
    for name, value in ids.items():
        (directory / f"{name}.json").write_text(json.dumps({"eos_token_id": value}))
    return separator_line(directory, tokenizer)


def test_files_that_agree_leave_nothing_to_say(tmp_path, tokenizer):
    turn = tokenizer.token_to_id("<|im_end|>")
    assert special_tokens(tmp_path) == {0: "<|endoftext|>", turn: "<|im_end|>"}
    words, line = say(
        tmp_path, tokenizer, {"content": "<|endoftext|>"}, config=0, generation_config=[turn, 0]
    )
    assert (words, line) == ("documents end in '<|endoftext|>'", "")
    assert say(tmp_path, tokenizer, "<|endoftext|>", config=None, generation_config=[])[1] == ""


def test_files_that_disagree_are_told_in_the_field(tmp_path, tokenizer):
    turn = tokenizer.token_to_id("<|im_end|>")
    words, line = say(tmp_path, tokenizer, "<|endoftext|>", config=turn, generation_config=[2, 3])
    for name, tokens in (
        ("config.json", f"'<|im_end|>' ({turn})"),
        ("generation_config.json", "'\"' (2) or '#' (3)"),
    ):
        assert f"{name} says {tokens}" in words
        assert f"{name} says {tokens}" in line
    assert yaml.safe_load(line) == {"eos_token": "<|endoftext|>"}


@pytest.mark.parametrize(
    ("eos", "words"), [(None, "nothing names"), ("</s>", "'</s>' of tokenizer_config.json is no token")]
)
def test_a_separator_that_nothing_names_is_a_hint(tmp_path, tokenizer, eos, words):
    found, line = say(tmp_path, tokenizer, eos, config=0)
    assert found.startswith(words)
    assert line.startswith("# eos_token: ")
    assert "'<|endoftext|>', '<|im_end|>'; config.json says '<|endoftext|>' (0)" in line
