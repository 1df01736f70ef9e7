"""Mistakes in pairs and in versions that learn from them: one line each, before anything starts."""

import json

import pytest
from chats import CHATML, say

from perdure.pipeline.checks.preview_mixture import objective_words
from tests.pipeline.checks.template import found

ASK = say("Where is it?")
READER = "sources.prose.reader"
FINE = {"prompt": ASK, "chosen": say("", "Here.")[1:], "rejected": say("", "Who knows?")[1:]}
UPDATE = "versions.update"


def pairs(tmp_path, rows=(FINE,), *overrides: str, template: str | None = CHATML) -> dict[str, tuple]:
    """The problems of the template recipe whose prose is pairs, from which its update learns."""
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps({"id": str(number)} | row) + "\n" for number, row in enumerate(rows)))
    chosen = ["tokenizer={type: train, vocab_size: 400, sources: [prose]}", "training.document_mask=true"]
    if template is not None:
        (tmp_path / "chat.jinja").write_text(template)
        chosen.append(f"tokenizer.chat_template={tmp_path / 'chat.jinja'}")
    fields = "prompt_field: prompt, chosen_field: chosen, rejected_field: rejected"
    chosen += [
        f"{READER}={{type: jsonl, path: {path}, {fields}}}",
        f"{UPDATE}.objective={{type: preference}}",
        f"{UPDATE}.selection=null",
        f"{UPDATE}.mixture:={{sources: {{prose: {{}}}}, max_repetition: .inf}}",
    ]
    return found(*chosen, *overrides, out=tmp_path / "out")


def strings(prompt="Where? ", chosen="Here.", rejected="Who knows?") -> dict:
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected}


def test_good_pairs_have_no_problem(tmp_path):
    """Messages; JSON of them; strings, which need no template; and whole conversations, whose beginning is the prompt."""
    assert (
        pairs(tmp_path, [FINE, {key: json.dumps(value) for key, value in FINE.items()} | {"prompt": ASK}])
        == {}
    )
    assert pairs(tmp_path, [strings()], template=None) == {}
    whole = {key: ASK + FINE[key] for key in ("chosen", "rejected")}
    assert pairs(tmp_path, [whole], f"{READER}.prompt_field=null") == {}


@pytest.mark.parametrize(
    ("row", "remedy"),
    [
        (FINE | {"rejected": FINE["chosen"]}, "has the same answer twice"),
        (strings(rejected="Here."), "has the same answer twice"),
        (FINE | {"rejected": None}, "should have a prompt, a chosen and a rejected answer"),
        (FINE | {"chosen": "Here."}, "should have a prompt, a chosen and a rejected answer"),
        (strings(chosen=""), "should have a prompt, a chosen and a rejected answer"),
        (FINE | {"chosen": ASK}, "has its roles in the wrong order"),
        (FINE | {"prompt": say("Where?", "There.")}, "has its roles in the wrong order"),
    ],
)
def test_a_row_that_is_no_pair_is_named(tmp_path, row, remedy):
    told = pairs(tmp_path, [FINE, row])
    assert set(told) == {f"{READER}.chosen_field"}
    assert (
        told[f"{READER}.chosen_field"][1].startswith("pairs.jsonl, row 2: ")
        and remedy in told[f"{READER}.chosen_field"][1]
    )


@pytest.mark.parametrize(
    ("override", "path", "remedy"),
    [
        (f"{READER}.rejected_field=worse", f"{READER}.rejected_field", "no document has this field"),
        (f"{READER}.prompt_field=asked", f"{READER}.prompt_field", "no document has this field"),
        ("training.document_mask=false", "training.document_mask", "should be true"),
        ("training.z_loss=0.001", "training.z_loss", "negative weights"),
        ("scoring={context: 16}", "scoring.context", "reads whole answers"),
        (
            f"{UPDATE}.selection={{score: random, k: 0.5}}",
            f"{UPDATE}.selection",
            "a pair's loss is of all its tokens",
        ),
        (f"{UPDATE}.anchor={{type: kl, on: all}}", f"{UPDATE}.anchor", "use `l2`"),
        (f"{UPDATE}.start={{type: init}}", f"{UPDATE}.objective.reference", "starts by `init`"),
        (f"{UPDATE}.objective.reference=bse", f"{UPDATE}.objective.reference", "base"),
        (f"{UPDATE}.objective.retain={{pairs: 1}}", f"{UPDATE}.objective.retain.pairs", "is no new data"),
        (
            f"{UPDATE}.objective.retain={{prose: 1}}",
            f"{UPDATE}.objective.retain.prose",
            "is a source of pairs",
        ),
        (
            f"{UPDATE}.mixture.sources.prose={{packing: stream}}",
            f"{UPDATE}.mixture.sources.prose.packing",
            "cut pairs",
        ),
        (
            f"{UPDATE}.mixture.sources.prose={{overlong: cut}}",
            f"{UPDATE}.mixture.sources.prose.overlong",
            "use `drop`",
        ),
        (
            f"{UPDATE}.mixture.sources={{prose: {{}}, code: {{}}}}",
            f"{UPDATE}.mixture.sources.code",
            "objective.retain",
        ),
    ],
)
def test_what_does_not_combine_with_pairs_is_named(tmp_path, override, path, remedy):
    told = pairs(tmp_path, [FINE], override)
    assert path in told and remedy in told[path][1], told


def test_a_version_without_pairs_has_nothing_to_prefer(tmp_path):
    sources = f"{UPDATE}.mixture.sources:={{code: {{}}}}"
    told = pairs(tmp_path, [FINE], sources, f"{UPDATE}.objective.retain={{code: 1}}")
    assert told == {f"{UPDATE}.mixture.sources": (None, "has no source of pairs to learn from")}


def test_text_beside_pairs_is_retained_with_a_weight_or_replayed(tmp_path):
    both = f"{UPDATE}.mixture.sources:={{prose: {{}}, code: {{}}}}"
    assert pairs(tmp_path, [FINE], both, f"{UPDATE}.objective.retain={{code: 0.2}}") == {}
    replay = f"{UPDATE}.mixture.replay={{share: 0.1, sources: {{code: {{}}}}}}"
    assert pairs(tmp_path, [FINE], replay) == {}


@pytest.mark.parametrize(
    ("fields", "remedy"),
    [
        ("chosen_field: chosen", "pairs need `chosen_field` and `rejected_field`"),
        ("prompt_field: prompt", "pairs need `chosen_field` and `rejected_field`"),
        ("messages_field: m, chosen_field: a, rejected_field: b", "not both"),
    ],
)
def test_fields_of_a_reader_that_do_not_belong_together(fields, remedy):
    told = found(f"{READER}={{type: jsonl, path: x, {fields}}}")
    assert any(remedy in remedy_told for _, remedy_told in told.values()), told


def test_what_a_version_learns_in_words(tmp_path):
    told = {
        "type": "preference",
        "method": "ipo",
        "beta": 0.5,
        "reference": "base",
        "retain": {"general": 0.2},
    }
    words = "learns from pairs by IPO with beta 0.5 against base"
    assert objective_words(told) == f"{words}; cross entropy beside it: 0.2 x general"
    assert objective_words(told | {"retain": {}}) == words
