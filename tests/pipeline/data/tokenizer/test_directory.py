import json

import pytest
from tokenizers import AddedToken, Tokenizer, models

from perdure.pipeline.checks.check import problems
from perdure.pipeline.checks.preview import preview
from perdure.pipeline.data.tokenizer.directory import lacks_characters, problem
from perdure.pipeline.data.tokenizer.train import train
from perdure.pipeline.recipe import HuggingFaceTokenizer


@pytest.fixture(scope="module")
def tokenizer():
    found = train(300, iter(["the end"]))
    found.add_special_tokens([AddedToken("</s>")])
    return found


END, OTHER = {"eos_token": "<|endoftext|>"}, {"eos_token": {"content": "</s>"}}


@pytest.mark.parametrize(
    ("config", "mapped", "eos", "where", "remedy"),
    [
        ({}, None, None, "eos_token", "names no end-of-sequence token"),
        (None, None, None, "eos_token", "names no end-of-sequence token"),
        ({"eos_token": None}, None, None, "eos_token", "names no end-of-sequence token"),
        ({"eos_token": ["</s>"]}, None, None, "eos_token", "names no end-of-sequence token"),
        (END, None, "the end", "eos_token", "has no token 'the end' (it is 2 tokens)"),
        ({"eos_token": "<eos>"}, None, None, "eos_token", "has no token '<eos>'"),
        (END, OTHER, None, "eos_token", "names '<|endoftext|>', its special_tokens_map.json '</s>'"),
        (END | {"auto_map": {"AutoTokenizer": ["a.B", None]}}, None, None, "path", "never run"),
        (END | {"auto_map": ["a.B", None]}, None, None, "path", "never run"),
        ("broken", None, None, "path", "tokenizer_config.json: not readable as JSON"),
        ([], None, None, "path", "tokenizer_config.json: should be a JSON object"),
        (END, None, None, None, None),
        (END, OTHER, "</s>", None, None),
        (
            END | {"added_tokens_decoder": {}},
            OTHER,
            None,
            None,
            None,
        ),  # then transformers does not read the map
        ({}, OTHER, None, None, None),
        (END | {"auto_map": {"AutoModel": "a.B"}}, None, None, None, None),
    ],
)
def test_what_is_wrong_with_a_directory(tokenizer, tmp_path, config, mapped, eos, where, remedy):
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    for name, value in (("tokenizer_config", config), ("special_tokens_map", mapped)):
        if value is not None:
            (tmp_path / f"{name}.json").write_text("{" if value == "broken" else json.dumps(value))
    found = problem(HuggingFaceTokenizer(type="huggingface", path=tmp_path, eos_token=eos))
    if where is None:
        assert found is None
    else:
        assert found is not None and found.path == f"tokenizer.{where}" and remedy in found.remedy


def test_check_finds_a_missing_separator_and_warns_of_a_vocabulary_without_bytes(make_recipe, tmp_path):
    bare = Tokenizer(models.BPE({"a": 0, "b": 1}, []))
    bare.save(str(tmp_path / "tokenizer.json"))
    recipe = make_recipe({"a": ["text"]}, tokenizer={"type": "huggingface", "path": str(tmp_path)})
    assert [found.path for found in problems(recipe)] == ["tokenizer.eos_token"]
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": "b"}')
    assert problems(recipe) == []
    (warning,) = preview(recipe)["warnings"]
    assert "vocabulary has no bytes: a character that it does not know is left out" in warning


def test_bytes_in_either_form_cover_every_character(tokenizer):
    assert lacks_characters(tokenizer) is None
    pieces = {f"<0x{byte:02X}>": byte for byte in range(256)}
    assert lacks_characters(Tokenizer(models.BPE(pieces, [], byte_fallback=True))) is None
    del pieces["<0x80>"]
    assert lacks_characters(Tokenizer(models.BPE(pieces, [], byte_fallback=True))) is not None
    assert "'[U]'" in lacks_characters(Tokenizer(models.WordPiece({"[U]": 0}, unk_token="[U]")))
