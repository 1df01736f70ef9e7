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


@pytest.mark.parametrize("eos", ["", ", eos_token: <fim_middle>"])
def test_the_separator_is_no_sentinel(tmp_path, eos):
    spec = tokenizer(tmp_path, SENTINELS["starcoder"])
    own = json.loads((tmp_path / "tokenizer_config.json").read_text())["eos_token"]
    sentinels = SENTINELS["starcoder"] if eos else ("<fim_prefix>", own, "<fim_middle>")
    listed = f"{FIM}={{sentinels: {json.dumps(sentinels)}}}"
    told = found(spec.replace("}", f"{eos}}}"), listed)[f"{FIM}.sentinels"][1]
    assert "ends every document" in told
    told = found(f"{FIM}={{sentinels: [<|endoftext|>, <b>, <c>]}}")  # of a tokenizer that is trained here
    assert "ends every document" in told[f"{FIM}.sentinels"][1]


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


@pytest.mark.parametrize(
    "sentinels", ["codex", "[<a>, <b>]", "[<a>, <b>, <b>]", "[<a>, <b>, x]", "3", "[1, 2, 3]"]
)
def test_what_sentinels_can_be(sentinels):
    told = found(f"{FIM}={{sentinels: {sentinels}}}")
    assert set(told) == {f"{FIM}.sentinels"}  # one line
    assert "`qwen`, or a list of 3 or 4 different strings" in told[f"{FIM}.sentinels"][1]
    if sentinels != "[<a>, <b>]":
        told = found(f"sources.code.repository={{sentinels: {sentinels}}}")
        assert "`qwen`, or a list of 2 different" in told["sources.code.repository.sentinels"][1]


ROWS = "sources.code.reader={type: jsonl, path: x, repository_field: repo, path_field: path}"
REPOSITORY = "sources.code.repository"


def test_repositories_need_fields_and_tokens(tmp_path):
    told = found("sources.code.reader={type: jsonl, path: x}", f"{REPOSITORY}={{order: given}}")
    for field in ("repository_field", "path_field"):
        assert "name the field" in told[f"sources.code.reader.{field}"][1]
    assert "two tokens" in told[f"{REPOSITORY}.sentinels"][1]
    told = found(ROWS, f"{REPOSITORY}={{order: given}}", f"{FIM}={{sentinels: deepseek}}")
    assert f"{REPOSITORY}.sentinels" in told
    spec = tokenizer(tmp_path, SENTINELS["starcoder"])
    told = found(spec, ROWS, f"{REPOSITORY}={{order: given}}", f"{FIM}={{rate: 0.5}}")
    assert f"{FIM}.sentinels" not in told and "no token '<repo_name>'" in told[f"{REPOSITORY}.sentinels"][1]
    told = found(ROWS, f"{REPOSITORY}={{sentinels: [<a>, <b>]}}")
    assert not any(path.startswith((REPOSITORY, "sources.code.reader.r")) for path in told)
    told = found(ROWS, f"{REPOSITORY}={{sentinels: [<fim_prefix>, <b>]}}", f"{FIM}={{rate: 0.5}}")
    assert told[f"{REPOSITORY}.sentinels"][1].startswith("'<fim_prefix>' is one of `fim`, too")
    told = found(ROWS, f"{REPOSITORY}={{sentinels: [<|endoftext|>, <b>]}}")
    assert "ends every document" in told[f"{REPOSITORY}.sentinels"][1]
    assert "has no use without `repository`" in found(ROWS)["sources.code.reader.repository_field"][1]


def test_fields_of_repositories_are_those_that_documents_have(tmp_path):
    path = tmp_path / "code.jsonl"
    path.write_text('{"text": "x = 1", "repo": "a", "path": "b.py"}\n')
    told = found(
        ROWS.replace("path: x", f"path: {path}").replace("path_field: path", "path_field: file"),
        f"{REPOSITORY}={{sentinels: qwen}}",
    )
    value, remedy = told["sources.code.reader.path_field"]
    assert value == "file" and remedy.startswith("no document has this field")
    path.write_text('{"text": "x = 1", "metadata": {"repo": "a", "path": "b.py"}}\n')
    told = found(ROWS.replace("path: x", f"path: {path}"), f"{REPOSITORY}={{sentinels: qwen}}")
    assert not any(name.startswith("sources.code.reader.") for name in told)


@pytest.mark.parametrize(
    ("fields", "wrong", "what"),
    [
        (("repo", "repo"), "path_field", "repository"),
        (("text", "path"), "repository_field", "text"),
        (("repo", "id"), "path_field", "id"),
    ],
)
def test_fields_of_repositories_are_their_own(fields, wrong, what):
    reader = ROWS.replace("repo,", f"{fields[0]},").replace("path_field: path", f"path_field: {fields[1]}")
    told = found(reader, f"{REPOSITORY}={{sentinels: qwen}}")
    assert told[f"sources.code.reader.{wrong}"][1] == f"should be another field than that of the {what}"


def test_what_repositories_cannot_be_combined_with(tmp_path):
    starcoder = f"{REPOSITORY}={{sentinels: starcoder}}"
    told = found(ROWS.replace("path_field: path", "path_field: path, messages_field: messages"), starcoder)
    assert "leave it out" in told[REPOSITORY][1]
    told = found(
        ROWS,
        starcoder,
        "sources.code.topics={type: metadata, field: subject}",
        "sources.code.date_field=date",
        "sources.code.prefix='{license} '",
    )
    assert {f"sources.code.{field}" for field in ("topics", "date_field", "prefix")} <= told.keys()
    told = found("sources.code.reader={type: text, path: x}", starcoder)
    assert "its documents have no fields" in told["sources.code.reader.type"][1]
    (tmp_path / "gone.txt").write_text("1\n")
    told = found(ROWS, starcoder, f"versions.update.mixture.withdrawn={{prose: {tmp_path / 'gone.txt'}}}")
    value, remedy = told["versions.update.mixture.withdrawn.prose"]
    assert value == "prose" and "whose files are not looked for" in remedy
    told = found(ROWS, starcoder, f"versions.base.mixture.withdrawn={{prose: {tmp_path / 'gone.txt'}}}")
    assert "versions.base.mixture.withdrawn.prose" not in told  # which reads no repositories; its update does
    value, remedy = told["versions.update.mixture"]
    assert value == "code" and remedy.startswith("versions.base.mixture.withdrawn.prose applies here, too")
