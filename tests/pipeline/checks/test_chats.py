"""Mistakes in conversations, chat templates and packing: one line each, before anything starts."""

import json

import pytest
from chats import CHATML, UNMARKED, chat_tokenizer, say, write_chats
from mutations import RECIPES

from perdure.pipeline.checks.chats import conversations
from perdure.pipeline.recipe import load_recipe
from tests.pipeline.checks.template import SOURCES, found

GOOD = [say("Hi", "Hello"), say("Add", "I do.", "And?", "Done.", system="Brief.")]
FIELD = "sources.prose.reader.messages_field"


def chats(
    tmp_path, conversations=GOOD, *overrides: str, template: str | None = CHATML, **more
) -> dict[str, tuple]:
    """The problems of the template recipe whose prose is conversations."""
    path = write_chats(tmp_path / "chats.jsonl", conversations, **more)
    chosen = ["tokenizer={type: train, vocab_size: 400, sources: [prose]}"]
    if template is not None:
        (tmp_path / "chat.jinja").write_text(template)
        chosen.append(f"tokenizer.chat_template={tmp_path / 'chat.jinja'}")
    reader = f"sources.prose.reader={{type: jsonl, path: {path}, messages_field: messages}}"
    return found(reader, *chosen, *overrides, out=tmp_path / "out")


def test_good_conversations_have_no_problem(tmp_path):
    assert chats(tmp_path) == {}
    assert (
        chats(tmp_path, GOOD, "versions.base.objective={type: instruct}", f"{SOURCES}:={{prose: {{}}}}") == {}
    )


@pytest.mark.parametrize(
    ("conversation", "remedy"),
    [
        ([{"role": "user", "content": "Hi"}], "has no turn of the assistant's"),
        (say("Hi", "Yes")[::-1], "has its roles in the wrong order"),
        ("Hi", "should be a list of messages"),
        ([{"from": "human", "value": "Hi"}], "should be a list of messages"),
    ],
)
def test_a_row_that_is_no_conversation_is_named(tmp_path, conversation, remedy):
    ((value, told),) = (chats(tmp_path, [*GOOD, conversation])[FIELD],)
    assert value == "messages" and told.startswith("chats.jsonl, row 3: ") and remedy in told


def test_a_field_that_no_document_has(tmp_path):
    told = chats(
        tmp_path, GOOD, "sources.prose.reader.messages_field=turns", "sources.prose.reader.tools_field=tool"
    )
    assert told[FIELD] == ("turns", "no document has this field; there is `id`, `messages`")
    assert "sources.prose.reader.tools_field" in told


def test_tools_without_messages_have_no_use(tmp_path):
    told = found("sources.prose.reader={type: jsonl, path: x, tools_field: tools}")
    assert any("has no use without `messages_field`" in remedy for _, remedy in told.values())


def test_a_tokenizer_without_a_chat_template(tmp_path):
    remedy = "needs a chat template, and a tokenizer of type `train` has none; name a file of one in `tokenizer.chat_template`"
    assert chats(tmp_path, template=None) == {FIELD: ("messages", remedy)}


@pytest.mark.parametrize(
    ("template", "remedy"),
    [
        (
            UNMARKED.replace("message['content'] +", "(message['content'] if loop.last else 'cut') +"),
            "has no `{% generation %}` marks",
        ),
        (CHATML.replace("'assistant'", "'model'"), "leave nothing of the assistant's turns"),
        ("{% for %}", "cannot render a conversation"),
        ("{{ raise_exception('no system here') }}", "no system here"),
    ],
)
def test_a_template_that_tells_no_labels_is_named(tmp_path, template, remedy):
    ((value, told),) = (chats(tmp_path, template=template)[FIELD],)
    assert value == "messages" and told.startswith(f"{tmp_path / 'chat.jinja'}: ") and remedy in told


def test_a_template_that_is_not_there(tmp_path):
    told = chats(tmp_path, GOOD, "tokenizer.chat_template=no/such.jinja")
    assert set(told) == {"tokenizer.chat_template"} and "No such file" in told["tokenizer.chat_template"][1]


def test_a_template_that_two_sources_miss_is_one_mistake():
    recipe = load_recipe(RECIPES / "instruct.yaml", ["tokenizer.chat_template=no/such.jinja"])
    assert sum(source.has_conversations for source in recipe.sources.values()) == 2
    assert [problem.path for problem in conversations(recipe)] == ["tokenizer.chat_template"]


def test_steps_that_change_texts_are_refused_by_name(tmp_path):
    told = chats(tmp_path, GOOD, "sources.prose.clean:=[{type: exact_dedup}, {type: pii}]")
    assert told["sources.prose.clean.1"][0] == "pii" and "leave it out" in told["sources.prose.clean.1"][1]


def test_text_is_nothing_to_instruct_with(tmp_path):
    told = chats(
        tmp_path, GOOD, "versions.base.objective={type: instruct}", f"{SOURCES}:={{prose: {{}}, code: {{}}}}"
    )
    assert set(told) == {f"{SOURCES}.code"} and "name it in `replay`" in told[f"{SOURCES}.code"][1]


@pytest.mark.parametrize(
    ("settings", "field", "remedy"),
    [
        ("{packing: best_fit, order: given}", "packing", "use `next_fit`"),
        ("{overlong: drop}", "overlong", "has no use in a stream"),
        ("{packing: stream, overlong: cut}", "overlong", "has no use in a stream"),
    ],
)
def test_packing_that_cannot_be(settings, field, remedy):
    told = found(f"{SOURCES}:={{code: {settings}}}")
    assert remedy in told[f"{SOURCES}.code.{field}"][1]
    for fine in (
        "{packing: best_fit}",
        "{packing: next_fit, order: given, overlong: drop}",
        "{packing: stream}",
    ):
        assert not any(path.startswith(f"{SOURCES}.code") for path in found(f"{SOURCES}:={{code: {fine}}}"))


def test_a_directorys_own_template_is_taken(tmp_path):
    """Of a Hugging Face tokenizer; without one, the directory is named."""
    own = chat_tokenizer(tmp_path / "tokenizer")
    spec = f"tokenizer:={{type: huggingface, path: {own}}}"
    assert FIELD not in chats(tmp_path, GOOD, spec, template=None)
    (own / "chat_template.jinja").unlink()
    assert str(own) in chats(tmp_path, GOOD, spec, template=None)[FIELD][1]
    config = own / "tokenizer_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"chat_template": CHATML}))
    assert FIELD not in chats(tmp_path, GOOD, spec, template=None)
