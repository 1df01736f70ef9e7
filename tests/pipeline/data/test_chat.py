"""Rendering of conversations, and which tokens are labels: as transformers and trl have them."""

import json
from pathlib import Path

import pytest
from chats import CHATML, SPECIAL, UNMARKED, chat_tokenizer, say
from datatrove.data import Document
from tiny import tiny_llama

from perdure.pipeline.core.errors import PerdureError
from perdure.pipeline.core.shards import LABEL, LAST_LABEL
from perdure.pipeline.data.chat import ChatTemplate, encode_chat, read_template, render, text_of_labels
from perdure.pipeline.data.cleaning.normalise import Normaliser
from perdure.pipeline.data.read.conversations import CONVERSATION, conversation_of, wrong_roles

EOS = 256
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "add",
            "description": "Adds.",
            "parameters": {"type": "object", "properties": {"a": {"type": "number"}}},
        },
    }
]
CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 2}}}
CHATS = [
    say("Hi", "Hello, you."),
    say("Hi", "Hello.", "How are you? Ä😀", "Well 😀", system="Be brief."),
]
WITH_TOOLS = [
    {"role": "user", "content": "Add."},
    {"role": "assistant", "content": "", "tool_calls": [CALL]},
    {"role": "tool", "content": "2"},
    {"role": "assistant", "content": "It is 2."},
]


def template_of(text: str, name: str = "test.jinja", **special: str) -> ChatTemplate:
    names = {"eos_token": "<|endoftext|>", "bos_token": "<|begin_of_text|>"} | special
    return ChatTemplate(name, text, text, names, SPECIAL)


def packaged(name: str) -> str:
    """A chat template that trl comes with."""
    trl = pytest.importorskip("trl")
    return (Path(trl.__file__).parent / "chat_templates" / f"{name}.jinja").read_text()


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(chat_tokenizer(tmp_path_factory.mktemp("tokenizer")) / "tokenizer.json"))


def labels(tokenizer, text: str, messages: list[dict], tools=None, **special) -> list[str]:
    """The assistant's turns as the mask has them, and whether each is the last."""
    template = template_of(text, **special)
    tokens, mask = encode_chat(
        render(template, {"messages": messages, "tools": tools}), tokenizer, EOS, SPECIAL
    )
    assert len(tokens) == len(mask)
    found, before = [], 0
    for token, kind in zip(tokens, mask):
        if kind:
            if not before:
                found.append([])
            found[-1].append(token)
        before = kind
    return [tokenizer.decode(run, skip_special_tokens=False) for run in found]


def test_answers_and_their_end_marks_are_labels(tokenizer):
    for text in (CHATML, UNMARKED):
        assert labels(tokenizer, text, say("Hi", "Hello")) == ["Hello<|im_end|>"]
        assert labels(tokenizer, text, CHATS[1]) == ["Hello.<|im_end|>", "Well 😀<|im_end|>"]


def test_the_last_turn_has_a_value_of_its_own(tokenizer):
    rendered = render(template_of(CHATML), {"messages": CHATS[1]})
    tokens, mask = encode_chat(rendered, tokenizer, EOS, SPECIAL)
    for kind, turn in ((LABEL, "Hello.<|im_end|>"), (LAST_LABEL, "Well 😀<|im_end|>")):
        chosen = [token for token, own in zip(tokens, mask) if own == kind]
        assert tokenizer.decode(chosen, skip_special_tokens=False) == turn
    assert tokens[-1] == EOS and mask[-1] == 0
    assert text_of_labels(rendered, SPECIAL) == "Hello.Well 😀"


def test_a_prompt_token_more_leaves_the_labels(tokenizer):
    assert labels(tokenizer, CHATML, say("Hi", "Yes")) == labels(tokenizer, CHATML, say("Hi!", "Yes"))


def test_the_separator_ends_a_turn_that_has_no_mark_of_its_own(tokenizer):
    plain = "{% for m in messages %}{{ m.role + ': ' + m.content }}{% if not loop.last %}{{ '\\n' }}{% endif %}{% endfor %}"
    plain += "{% if add_generation_prompt %}{{ '\\nassistant: ' }}{% endif %}"
    assert labels(tokenizer, plain, say("Hi", "Yes")) == ["Yes<|endoftext|>"]
    # And where the template writes it, it is not written twice.
    own = (
        plain
        + "{% if not add_generation_prompt and messages[-1].role == 'assistant' %}{{ eos_token }}{% endif %}"
    )
    tokens, _ = encode_chat(render(template_of(own), {"messages": say("Hi", "Yes")}), tokenizer, EOS, SPECIAL)
    assert tokens.count(EOS) == 1 and labels(tokenizer, own, say("Hi", "Yes")) == ["Yes<|endoftext|>"]


@pytest.mark.parametrize(
    ("name", "text", "messages"),
    [
        ("marks that leave nothing", CHATML.replace("'assistant'", "'model'"), CHATS[0]),
        (
            "turns that change once others follow",
            UNMARKED.replace("message['content'] +", "(message['content'] if loop.last else 'cut') +"),
            CHATS[1],
        ),
        ("roles that the template refuses", "{{ raise_exception('no system, please') }}", CHATS[0]),
        ("no Jinja", "{% for %}", CHATS[0]),
        ("a way out of the sandbox", "{{ messages.__class__.__mro__ }}{{ ''.__class__.mro() }}", CHATS[0]),
    ],
)
def test_a_template_that_tells_no_labels_is_refused_by_its_name(name, text, messages):
    with pytest.raises(PerdureError, match=r"^test\.jinja: "):
        render(template_of(text), {"messages": messages})


def test_several_templates_of_a_directory_are_told_apart(tmp_path):
    directory = chat_tokenizer(tmp_path, None)
    assert read_template(directory) is None
    named = [{"name": "default", "template": "one"}, {"name": "tool_use", "template": "two"}]
    (directory / "tokenizer_config.json").write_text(json.dumps({"chat_template": named}))
    assert read_template(directory)[1:] == ("one", "two")
    (directory / "chat_template.jinja").write_text("three")
    assert read_template(directory)[1:] == ("three", "three")
    (tmp_path / "own").write_text("four")
    assert read_template(directory, tmp_path / "own")[1:] == ("four", "four")


@pytest.mark.parametrize(
    ("name", "messages", "tools"),
    [
        ("chatml", CHATS[1], None),
        ("llama3_training", CHATS[1], None),
        ("qwen2_5_training", WITH_TOOLS, TOOLS),
        ("qwen2_5_training", CHATS[1], None),
    ],
)
def test_labels_are_those_of_transformers(tmp_path, tokenizer, name, messages, tools):
    from transformers import AutoTokenizer

    text = CHATML if name == "chatml" else packaged(name)
    auto = AutoTokenizer.from_pretrained(chat_tokenizer(tmp_path / "auto", text))
    theirs = auto.apply_chat_template(
        messages, tools=tools, tokenize=True, return_dict=True, return_assistant_tokens_mask=True
    )
    rendered = render(template_of(text), {"messages": messages, "tools": tools})
    tokens, mask = encode_chat(rendered, tokenizer, EOS, SPECIAL)
    assert tokens == [*theirs["input_ids"], EOS]
    assert [min(kind, 1) for kind in mask] == [*theirs["assistant_masks"], 0] and any(mask)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "training", "messages", "tools"),
    [
        ("chatml", None, CHATS, None),
        ("llama3", "llama3_training", CHATS, None),
        ("qwen2_5", "qwen2_5_training", [WITH_TOOLS, WITH_TOOLS], TOOLS),
    ],
)
def test_labels_are_those_of_trl(tmp_path, tokenizer, name, training, messages, tools):
    """What `SFTTrainer` makes of the same conversations; trl itself puts marks into the templates of released models."""
    pytest.importorskip("trl")
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    text = CHATML if name == "chatml" else packaged(name)
    auto = AutoTokenizer.from_pretrained(chat_tokenizer(tmp_path / "auto", text))
    model = AutoModelForCausalLM.from_pretrained(tiny_llama(tmp_path / "model", 263))
    settings = SFTConfig(
        output_dir=str(tmp_path / "out"),
        assistant_only_loss=True,
        report_to=[],
        use_cpu=True,
        bf16=False,
        max_length=None,
    )
    rows = [{"messages": own} | ({"tools": tools} if tools else {}) for own in messages]
    trainer = SFTTrainer(model, settings, train_dataset=Dataset.from_list(rows), processing_class=auto)
    for row, own in zip(trainer.train_dataset, messages, strict=True):
        rendered = render(
            template_of(packaged(training) if training else text), {"messages": own, "tools": tools}
        )
        tokens, mask = encode_chat(rendered, tokenizer, EOS, SPECIAL)
        assert tokens[:-1] == list(row["input_ids"])
        ours = [token if kind else -100 for token, kind in zip(tokens, mask)]
        assert ours[:-1] == list(row["labels"]) and ours[-1] == -100


def test_turns_of_an_unmarked_template_are_those_that_marks_would_tell(tokenizer):
    """Llama 3's template as released, and with trl's marks."""
    assert labels(tokenizer, packaged("llama3"), CHATS[1]) == labels(
        tokenizer, packaged("llama3_training"), CHATS[1]
    )
    assert labels(tokenizer, packaged("qwen2_5"), WITH_TOOLS, TOOLS)[1] == "It is 2.<|im_end|>"


def test_the_prompt_of_the_example_template_is_how_its_training_text_begins(tmp_path):
    """In tokens, too: no token of the header reaches into the answer, where a byte-level BPE joins blanks to words."""
    from perdure.pipeline.data.tokenizer.train import train

    learnt = train(400, iter(["Assistant: Yes, I know. User: Do you know? Yes Yes Yes"] * 50))
    text = (Path(__file__).parents[3] / "data_recipes" / "chat.jinja").read_text()
    template = ChatTemplate("chat.jinja", text, text, {"eos_token": "<|endoftext|>"}, ("<|endoftext|>",))
    rendered = render(template, {"messages": say("Do you know?", "Yes, I know.")})
    ((begin, _),) = rendered.spans
    prompt = learnt.encode(rendered.text[:begin], add_special_tokens=False).ids
    assert rendered.text[:begin] == "User:\nDo you know?\nAssistant:\n"
    assert learnt.encode(rendered.text, add_special_tokens=False).ids[: len(prompt)] == prompt


def test_what_is_no_conversation_is_told_by_its_reason():
    assert wrong_roles(["system", "user", "assistant", "tool", "tool", "assistant", "user"]) is None
    for roles in (
        ["assistant", "user"],
        ["user", "user", "assistant"],
        ["user", "system", "assistant"],
        ["user", "tool"],
    ):
        assert wrong_roles(roles) == "roles_out_of_order"
    assert wrong_roles(["user", "bot"]) == "roles_out_of_order"
    assert wrong_roles(["system", "user"]) == "no_assistant_turn"
    for messages in (
        None,
        "text",
        [],
        {},
        [1],
        [{"role": "user"}],
        [{"content": "a"}],
        [{"role": "user", "content": ["a"]}],
    ):
        assert conversation_of(messages) == "no_messages"
    assert conversation_of(say("Hi", "Yes"), "tools") == ("Hi\n\nYes", {"messages": say("Hi", "Yes")})


def test_contents_are_normalised_and_nested_lists_may_be_json():
    """Each message by itself, so that what is rendered is what a text would be."""
    text, found = conversation_of(json.dumps(say("A\u0301\r\n ", "B  ")), json.dumps(TOOLS))
    assert found["tools"] == TOOLS
    document = Document(text, "1", metadata={CONVERSATION: found})
    (document,) = Normaliser().run([document])
    assert document.text == "\u00c1\n\nB" and document.metadata[CONVERSATION]["messages"] == say(
        "\u00c1", "B"
    )
    text, _ = conversation_of(WITH_TOOLS)
    assert text.startswith("Add.\n\n[{") and text.endswith("\n\n2\n\nIt is 2.")
