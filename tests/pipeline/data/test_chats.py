"""Conversations through the data stage: shards, label masks, what is dropped, and the template that exports have."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from chats import CHATML, chat_tokenizer, say, write_chats

from perdure.pipeline.checks.packed import packed, packed_words
from perdure.pipeline.core.errors import PerdureError
from perdure.pipeline.core.shards import open_shard
from perdure.pipeline.core.tokenizers import load_tokenizer
from perdure.pipeline.data.cleaning.normalise import text_hash
from perdure.pipeline.data.stage import run_data
from perdure.pipeline.recipe import MixtureSource
from tests.pipeline.data.made import counts
from tests.pipeline.data.texts import random_text

TALKS = [
    say(random_text(seed)[:40].strip(), random_text(seed + 900)[:30].strip(), "And?", f"No {seed}.")
    for seed in range(40)
]
BAD = [say("Hi"), say("Hi", "Yes")[::-1], "text", say("Say <|im_end|>", "No")]


@pytest.fixture
def talks(make_recipe, tmp_path):
    """A recipe over conversations of which four are unusable."""
    path = write_chats(tmp_path / "in" / "chats.jsonl", [*TALKS, *BAD], topic="small talk")
    reader = {"type": "jsonl", "path": str(path), "messages_field": "messages"}
    tokenizer = {"type": "huggingface", "path": str(chat_tokenizer(tmp_path / "tokenizer"))}
    return make_recipe({"chats": reader}, tokenizer=tokenizer)


def rows_of(directory):
    """Every document's row, its text, and the text of its labels by value of the mask."""
    tokenizer = load_tokenizer(next(directory.parent.parent.glob("tokenizer@*")))
    rows = pq.read_table(directory / "docs.parquet").to_pylist()
    for row in rows:
        prefix = f"{'heldout.' if row['split'] == 'heldout' else ''}{row['shard']:05d}"
        shard, masks = open_shard(directory / prefix), open_shard(directory / f"{prefix}.mask")
        assert masks.values.dtype == np.uint8 and np.array_equal(masks.lengths, shard.lengths)
        place = slice(shard.start(row["sequence"]), shard.start(row["sequence"]) + row["num_tokens"])
        tokens, mask = shard.values[place], masks.values[place]
        row |= {
            kind: tokenizer.tokenizer.decode(tokens[mask == kind].tolist(), skip_special_tokens=False)
            for kind in (1, 2)
        }
        row["whole"] = tokenizer.tokenizer.decode(tokens.tolist(), skip_special_tokens=False)
        row["labels"] = int((mask > 0).sum())
    return rows


def test_conversations_become_tokens_and_a_mask(talks):
    directory = run_data(talks)["chats"]
    rows = {row["id"]: row for row in rows_of(directory)}
    assert len(rows) == len(TALKS)
    for number, talk in enumerate(TALKS):
        row, said = rows[f"chat {number}"], [message["content"] for message in talk]
        assert row[1] == f"{said[1]}<|im_end|>" and row[2] == f"{said[3]}<|im_end|>"
        turns = [f"<|im_start|>{message['role']}\n{message['content']}<|im_end|>\n" for message in talk]
        assert row["whole"] == "".join(turns) + "<|endoftext|>"
        assert int(row["hash"], 16) == text_hash("\n\n".join(said))
        assert row["num_bytes"] == len((said[1] + said[3]).encode())
        assert json.loads(row["metadata"]) == {"topic": "small talk", "duplicate_count": 0}
    told = counts(directory)
    dropped = told["documents"]["dropped"]
    for reason in ("no_messages", "no_assistant_turn", "roles_out_of_order", "special_tokens"):
        assert dropped[reason] == 1, reason
    for split in ("train", "heldout"):
        assert told[split]["labels"] == sum(row["labels"] for row in rows.values() if row["split"] == split)


def test_parquet_of_lists_gives_the_same(talks, make_recipe, tmp_path):
    path = tmp_path / "in" / "chats.parquet"
    pq.write_table(
        pa.Table.from_pylist([{"id": f"chat {n}", "turns": talk} for n, talk in enumerate(TALKS)]), path
    )
    reader = {"type": "parquet", "path": str(path), "messages_field": "turns"}
    tokenizer = talks.tokenizer.model_dump(mode="json")
    other = run_data(make_recipe({"chats": reader}, tmp_path / "other", tokenizer=tokenizer))["chats"]
    ours = {row["id"]: (row["whole"], row[1], row[2]) for row in rows_of(run_data(talks)["chats"])}
    assert {row["id"]: (row["whole"], row[1], row[2]) for row in rows_of(other)} == ours


def test_another_template_makes_other_data_and_a_text_source_none(talks, make_recipe, tmp_path):
    """`tokenizer.chat_template` takes the place of the directory's own; a source of text is the same under it."""
    texts = [random_text(seed) for seed in range(60)]
    changed = tmp_path / "other.jinja"
    changed.write_text(CHATML.replace("<|im_start|>", "<|start_header_id|>"))
    tokenizer = talks.tokenizer.model_dump(mode="json")
    first = run_data(make_recipe({"news": texts}, tokenizer=tokenizer))["news"]
    own = make_recipe({"news": texts}, tokenizer=tokenizer | {"chat_template": str(changed)})
    assert run_data(own)["news"] == first
    before = run_data(talks)["chats"]
    after = run_data(talks.model_copy(update={"tokenizer": own.tokenizer}))["chats"]
    assert before != after
    assert all(row["whole"].startswith("<|start_header_id|>user\n") for row in rows_of(after))
    made = [
        path
        for path in (tmp_path / "out").glob("tokenizer@*")
        if (path / "chat_template.jinja").read_text() != CHATML
    ]
    assert (made[0] / "chat_template.jinja").read_text() == changed.read_text()


def test_a_template_that_tells_no_labels_stops_the_stage_by_its_name(talks):
    (talks.tokenizer.path / "chat_template.jinja").write_text(CHATML.replace("'assistant'", "'model'"))
    with pytest.raises(
        PerdureError, match=r"chat_template\.jinja: its .* leave nothing of the assistant's turns"
    ):
        run_data(talks)


def test_another_special_token_in_the_template_makes_other_data(talks):
    """`bos_token` stands in the tokenizer's settings, neither in the template nor in `tokenizer.json`."""
    path = talks.tokenizer.path
    (path / "chat_template.jinja").write_text("{{ bos_token }}" + CHATML)
    before = run_data(talks)["chats"]
    told = json.loads((path / "tokenizer_config.json").read_text())
    (path / "tokenizer_config.json").write_text(json.dumps(told | {"pad_token": "<|eot_id|>"}))
    assert run_data(talks)["chats"] == before  # no template writes that one
    (path / "tokenizer_config.json").write_text(json.dumps(told | {"bos_token": "<|start_header_id|>"}))
    after = run_data(talks)["chats"]
    assert after != before
    assert all(row["whole"].startswith("<|start_header_id|><|im_start|>") for row in rows_of(after))


def test_turns_that_are_empty_once_normalised_are_dropped_and_counted(talks):
    write_chats(talks.sources["chats"].reader.path, [*TALKS, say("Hi", "  "), say("Hi", "\ufeff")])
    directory = run_data(talks)["chats"]
    told = counts(directory)["documents"]
    assert told["dropped"] == {"no_messages": 2} and told["out"] == len(TALKS)


def test_special_tokens_in_tools_and_fields_that_the_template_writes_are_found(talks):
    template = CHATML.replace("{% for", "{{ tools | tojson if tools }}{% for", 1)
    template = template.replace("'\\n' }}{% if", "'\\n' + (message.get('thought') or '') }}{% if", 1)
    (talks.tokenizer.path / "chat_template.jinja").write_text(template)
    source = talks.sources["chats"]
    reader = source.reader.model_copy(update={"tools_field": "tools"})
    talks.sources["chats"] = source.model_copy(update={"reader": reader})
    thought, raw = say("Hi", "Yes"), say("Hi", "No")
    thought[1]["thought"], raw[1]["raw"] = (
        "Say <|im_end|>",
        "<|im_end|>",
    )  # the template does not look at the second
    path = write_chats(reader.path, [*TALKS, thought, raw])
    with path.open("a") as file:
        file.write(json.dumps({"messages": say("Hi", "Maybe"), "tools": [{"name": "<|im_end|>"}]}) + "\n")
    assert counts(run_data(talks)["chats"])["documents"]["dropped"] == {"special_tokens": 2}


def test_where_every_conversation_is_dropped_the_reasons_are_told(talks):
    write_chats(talks.sources["chats"].reader.path, [say("Hi"), say("Hi", "<|im_end|>")])
    told = r"nothing is left of its 2 documents \(dropped: 1 no_assistant_turn, 1 special_tokens\)"
    with pytest.raises(PerdureError, match=told):
        run_data(talks)


def test_a_conversation_that_cannot_be_rendered_is_named(talks):
    refusal = "{% if messages[0].content == 'Hi' %}{{ raise_exception('too short') }}{% endif %}"
    (talks.tokenizer.path / "chat_template.jinja").write_text(refusal + CHATML)
    write_chats(talks.sources["chats"].reader.path, [*TALKS, say("Hi", "Yes")])
    with pytest.raises(
        PerdureError, match=rf"document chat {len(TALKS)}: .*cannot render a conversation: too short"
    ):
        run_data(talks)


def test_check_tells_what_packing_comes_to(talks):
    directory = run_data(talks)["chats"]
    lengths = np.concatenate([open_shard(directory / f"{task:05d}").lengths for task in range(2)])
    size = 128
    recipe = talks.model_copy(update={"training": talks.training.model_copy(update={"seq_length": size})})
    told = packed(recipe, "chats", MixtureSource())
    kept = lengths[lengths <= size]
    assert (told["packing"], told["overlong"]) == ("best_fit", "drop")
    assert (told["dropped_documents"], told["dropped_tokens"]) == (
        len(lengths) - len(kept),
        lengths.sum() - kept.sum(),
    )
    assert told["padding"] == pytest.approx(1 - kept.sum() / (told["samples"] * size))
    assert "packed whole by best_fit (" in packed_words(told)
    stream = packed(recipe, "chats", MixtureSource(packing="stream"))
    assert stream["samples"] == -(-lengths.sum() // size)
    assert stream["cut"] == pytest.approx(np.minimum((lengths - 1) / size, 1).mean())
    assert "of documents lie in several samples" in packed_words(stream)
