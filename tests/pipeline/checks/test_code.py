"""What `perdure check` says of sources of code."""

import json

import pytest
from tokenizers import AddedToken, Tokenizer

from perdure.pipeline.data.fim import SENTINELS
from tests.chats import chat_tokenizer
from tests.pipeline.checks.template import found

FIM = "sources.code.fim"


def tokenizer(directory, tokens) -> str:
    path = chat_tokenizer(directory) / "tokenizer.json"
    loaded = Tokenizer.from_file(str(path))
    loaded.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in tokens])
    loaded.save(str(path))
    return f"tokenizer:={{type: huggingface, path: {directory}}}"


def test_sentinels_are_single_tokens(tmp_path):
    """A tokenizer that is trained here gets them."""
    assert not any(path.startswith(FIM) for path in found(f"{FIM}={{rate: 0.5}}"))
    spec = tokenizer(tmp_path, SENTINELS["deepseek"])
    assert f"{FIM}.sentinels" not in found(spec, f"{FIM}={{sentinels: deepseek}}")
    value, told = found(spec, f"{FIM}={{rate: 0.5}}")[f"{FIM}.sentinels"]
    assert value == "starcoder" and told.startswith(
        "the tokenizer has no token '<fim_prefix>', and makes 12 of it"
    )
    assert f"{FIM}.sentinels" not in found(spec, f"{FIM}={{rate: 0}}")


def test_a_tokenizer_that_puts_blanks_before_texts(tmp_path):
    spec = tokenizer(tmp_path, SENTINELS["starcoder"])
    path = tmp_path / "tokenizer.json"
    tree = json.loads(path.read_text())
    tree["pre_tokenizer"]["add_prefix_space"] = True
    path.write_text(json.dumps(tree))
    assert "a blank before every text" in found(spec, f"{FIM}={{rate: 0.5}}")[f"{FIM}.sentinels"][1]
    told = found("tokenizer:={type: sentencepiece, path: no.model}", f"{FIM}={{rate: 0.5}}")
    assert "choose a model's `tokenizer.json`" in told[f"{FIM}.sentinels"][1]


def test_conversations_are_not_filled_in():
    chats = "sources.code.reader={type: jsonl, path: x, messages_field: messages}"
    assert "leave it out" in found(chats, f"{FIM}={{rate: 0.5}}")[FIM][1]


@pytest.mark.parametrize("sentinels", ["codex", "[<a>, <b>]", "[<a>, <b>, <b>]"])
def test_what_sentinels_can_be(sentinels):
    told = found(f"{FIM}={{sentinels: {sentinels}}}")
    assert any(path.startswith(f"{FIM}.sentinels") for path in told), told
