"""Pairs of answers: how they are kept, written, read again, and dropped."""

from dataclasses import replace

import numpy as np
import pytest
from chats import CHATML, SPECIAL, UNMARKED, chat_tokenizer, say
from datatrove.data import Document
from tiny import write_data, write_masks

from perdure.pipeline.core.errors import PerdureError
from perdure.pipeline.core.shards import LAST_LABEL, NO_LABEL, REJECTED, REJECTED_LABEL
from perdure.pipeline.data.chat import ChatTemplate
from perdure.pipeline.data.cleaning.normalise import Normaliser
from perdure.pipeline.data.pairs import encode_pair, render_pair
from perdure.pipeline.data.read.conversations import CONVERSATION
from perdure.pipeline.data.read.pairs import pair_of
from perdure.pipeline.train.streams import open_stream, read_sample

EOS = 256


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(chat_tokenizer(tmp_path_factory.mktemp("tokenizer")) / "tokenizer.json"))


def template_of(text: str) -> ChatTemplate:
    return ChatTemplate("test.jinja", text, text, {"eos_token": "<|endoftext|>"}, SPECIAL)


def labels(tokenizer, template: str, *fields) -> dict[int, str]:
    """The text of the tokens of each kind in a pair's mask."""
    _, pair = pair_of(*fields)
    first, second, mask = encode_pair(render_pair(template_of(template), pair), tokenizer, EOS, SPECIAL)
    tokens = np.array([*first, *second])
    assert first[-1] == second[-1] == EOS
    return {
        kind: tokenizer.decode(tokens[np.array(mask) == kind], skip_special_tokens=False)
        for kind in set(mask)
    }


@pytest.mark.parametrize("template", [CHATML, UNMARKED])
def test_answers_are_labels_up_to_their_end_marks_and_earlier_turns_are_none(tokenizer, template):
    prompt = say("Hi", "Hello.", "Where?")
    before = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello.<|im_end|>\n<|im_start|>user\nWhere?<|im_end|>\n"
    found = labels(tokenizer, template, prompt, say("", "Here.")[1:], say("", "Who knows?")[1:])
    rest = f"{before}<|im_start|>assistant\n\n<|endoftext|>"
    assert found == {
        NO_LABEL: rest,
        LAST_LABEL: "Here.<|im_end|>",
        REJECTED: rest,
        REJECTED_LABEL: "Who knows?<|im_end|>",
    }


def test_strings_stand_one_behind_the_other_with_their_separator_as_a_label(tokenizer):
    found = labels(tokenizer, "", "Where is it?\n", "Here.", "Who knows?")
    assert found[NO_LABEL] == found[REJECTED] == "Where is it?\n"
    assert (found[LAST_LABEL], found[REJECTED_LABEL]) == ("Here.<|endoftext|>", "Who knows?<|endoftext|>")


def test_messages_without_a_template_are_refused():
    _, pair = pair_of(*(say("Where?", "Here.")[:1], say("", "Here.")[1:], say("", "No.")[1:]))
    with pytest.raises(PerdureError, match="has no chat template"):
        render_pair(template_of(""), pair)


@pytest.mark.parametrize("rejected", ["Here.", "Here. \n", "Here.\r\n"])
def test_answers_that_normalising_makes_equal_are_dropped_and_counted(rejected):
    rows = [("Where? ", "Here.", rejected), ("Where? ", "Here.", "There."), ("Where?", "Here.", "\x00")]
    documents = []
    for number, fields in enumerate(rows):
        made = pair_of(*fields)
        if isinstance(made, str):
            assert made == "equal_answers" and rejected == "Here."
            continue
        documents.append(Document(made[0], str(number), metadata={CONVERSATION: made[1]}))
    step = Normaliser()
    kept = list(step.run(iter(documents)))
    assert [document.id for document in kept] == ["1"] and kept[0].text == "Where?\n\nHere.\n\nThere."
    if rejected != "Here.":
        assert step.stats["dropped:equal_answers"].total == 1
    assert step.stats["dropped:no_messages"].total == 1


def test_a_sample_holds_each_answer_as_a_document_of_its_own(tmp_path):
    """Pairs of 3 + 4 and 4 + 2 tokens: what the labels are of, for a preference and for all else."""
    pairs = [[5, 6, 0, 5, 8, 9, 0], [7, 4, 3, 0, 7, 0]]
    masks = [[0, 2, 2, 5, 4, 4, 4], [0, 2, 2, 2, 5, 4]]
    documents = [np.array(pair, np.uint16) for pair in pairs]
    data = write_data(tmp_path / "data", [documents], [], 16)
    write_masks(data, [[np.array(mask) for mask in masks]], [])
    stream = replace(open_stream(data, None, np.arange(2), np.array([7, 13])), packed=True)
    sample = read_sample(replace(stream, pairs=True), 0, 16)
    assert sample.documents == (3, 4, 4, 2, 3) and sample.num_valid == 13
    assert sample.sides.tolist() == [0, 1, 1, 0, -1, -1, -1, 0, 1, 1, 1, 0, -1, 0, 0, 0]
    assert (sample.counted == (sample.sides != 0)).all()
    plain = read_sample(stream, 0, 16)
    assert plain.sides is None and (plain.counted == (sample.sides > 0)).all()
    assert plain.documents == sample.documents
