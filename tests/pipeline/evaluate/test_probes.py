"""Knowledge probes: what is a probe, and what their scores say."""

import json
import math

import numpy as np
import pytest

from perdure.pipeline.checks.check import problems
from perdure.pipeline.core.errors import PerdureError
from perdure.pipeline.evaluate import probe_scores
from perdure.pipeline.evaluate.probes import parse_probes, probe_files
from perdure.pipeline.evaluate.report.ledger_lines import format_fuar
from perdure.pipeline.recipe import Recipe

ITEM = {"id": "a", "kind": "new", "question": "Who?", "choices": ["Ann", "Ben"], "answer": "Ben"}


def write(path, *lines):
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return path


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ({key: value for key, value in ITEM.items() if key != "answer"}, "answer is missing"),
        (ITEM | {"answer": "Eve"}, "answer 'Eve' is not among the choices ['Ann', 'Ben']"),
        (ITEM | {"old_answer": "Eve"}, "old_answer 'Eve' is not among the choices ['Ann', 'Ben']"),
        (ITEM | {"old_answer": "Ben"}, "old_answer 'Ben' is the answer; it should be another choice"),
        (ITEM | {"kind": "old"}, "kind = 'old': should be 'invariant', 'updated' or 'new'"),
        (ITEM | {"choices": ["Ben"]}, "choices = ['Ben']: List should have at least 2 items"),
        (ITEM | {"choices": ["Ben", "Ben"]}, "two choices are equal; they should differ"),
        (ITEM | {"question": "___ met ___."}, "the question has 2 blanks `___`; it should have one at most"),
        (ITEM | {"date": "May"}, "date = 'May': String should match pattern"),
        (ITEM | {"anwser": "Ben"}, "unknown key `anwser`; there is id, kind, question, choices, answer,"),
        ("{", "not JSON (Expecting property name"),
        ("[1]", "should be an object with id, kind, question, choices and answer"),
        (ITEM, "id 'a' stands in line 1 already; ids should differ"),
    ],
)
def test_a_bad_item_is_one_line_with_its_place(tmp_path, line, complaint):
    path = write(tmp_path / "facts.jsonl", ITEM, "", line)
    with pytest.raises(PerdureError) as error:
        probe_files([path])
    assert str(error.value).startswith(f"{path}: line 3: {complaint}")
    assert "\n" not in str(error.value)


def test_good_items_are_read_and_all_bad_ones_named(tmp_path):
    old = ITEM | {"id": "b", "old_answer": "Ann", "date": "2024-05"}
    path = write(tmp_path / "facts.jsonl", ITEM, {"id": "c"}, old, ITEM)
    found = list(parse_probes(path))
    assert [isinstance(item, list) for item in found] == [False, True, False, True]
    assert (found[2].answer, found[2].old_answer, found[2].date) == ("Ben", "Ann", "2024-05")
    assert [str(mistake) for mistake in found[1]] == [
        f"line 2: {field} is missing" for field in ("kind", "question", "choices", "answer")
    ]
    (none,) = parse_probes(write(tmp_path / "none.jsonl", ""))
    assert [str(mistake) for mistake in none] == ["holds no probe; should have one a line"]


def test_every_kind_of_mistake_is_told_once_with_its_number_of_lines(tmp_path, recipe):
    """As many benchmarks have them: numbers as ids, and the place of the answer instead of the answer."""
    rows = [
        {"id": n, "kind": "old", "question": "Who?", "choices": [f"{n}", f"{n + 1}"], "answer": 1}
        for n in range(40)
    ]
    rows += [ITEM | {"id": "x", "choices": ["Ben", "Ben"], "old_answer": "Eve"}, ITEM, ITEM]
    path = write(tmp_path / "facts.jsonl", *rows)
    tree = recipe.model_dump(mode="json") | {"evaluation": {"probes": [str(path)]}}
    where = f"evaluation.probes.0 = '{path}': "
    found = [str(problem) for problem in problems(Recipe.model_validate(tree))]
    assert [line.removeprefix(where) for line in found if line.startswith(where)] == [
        "40 lines, the first one is line 1: id = 0: should be a valid string",
        "40 lines, the first one is line 1: kind = 'old': should be 'invariant', 'updated' or 'new'",
        "40 lines, the first one is line 1: answer = 1: should be the text of a choice, such as '1', not its number",
        "line 41: two choices are equal; they should differ",
        "line 41: old_answer 'Eve' is not among the choices ['Ben', 'Ben']",
        "line 43: id 'a' stands in line 42 already; ids should differ",
    ]


def test_check_names_files_and_lines(tmp_path, recipe):
    bad = write(tmp_path / "facts.jsonl", ITEM, ITEM | {"id": "b", "answer": "Eve"}, "{")
    (tmp_path / "other").mkdir()
    same = write(tmp_path / "other" / "facts.jsonl", ITEM)
    evaluation = {"probes": [str(bad), str(same), str(tmp_path / "fact.jsonl")]}
    tree = recipe.model_dump(mode="json") | {"evaluation": evaluation}
    found = [
        str(problem)
        for problem in problems(Recipe.model_validate(tree))
        if problem.path.startswith("evaluation")
    ]
    assert found[:3] == [
        f"evaluation.probes.0 = '{bad}': another file of probes has the same name; rename one",
        f"evaluation.probes.0 = '{bad}': line 2: answer 'Eve' is not among the choices ['Ann', 'Ben']",
        f"evaluation.probes.0 = '{bad}': line 3: not JSON (Expecting property name enclosed in double quotes: line "
        "2 column 1 (char 2))",
    ]
    assert found[4].endswith(f"no such file; did you mean `{bad}`?")


def test_a_choice_fills_the_blank_or_follows_the_question(tmp_path):
    cloze = ITEM | {"id": "b", "question": "It was ___ who came."}
    (file,) = probe_files([write(tmp_path / "facts.jsonl", ITEM, cloze)])
    assert file.probes[0].filled("Ann") == ("Who? ", "Ann")
    assert file.probes[1].filled("Ann") == ("It was ", "Ann who came.")


def answers(**rights):
    """Answers of items by kind; each a string with `1` for a right one and `0` for a wrong one, `o` for the old one."""
    return [
        {
            "file": "facts.jsonl",
            "id": f"{kind}-{number}",
            "kind": kind,
            "date": "2024" if number % 2 else None,
            "answer": 0,
            "old_answer": 1 if kind == "updated" else None,
            "scores": {"1": [-1.0, -2.0, -3.0], "0": [-3.0, -2.0, -1.0], "o": [-2.0, -1.0, -3.0]}[mark],
        }
        for kind, marks in rights.items()
        for number, mark in enumerate(marks)
    ]


def test_accuracy_by_kind_and_date():
    found = probe_scores.accuracies(answers(invariant="1110", updated="1oo0"), seed=1)["facts.jsonl"]
    assert list(found) == ["invariant", "updated"]
    assert {key: found["invariant"][key] for key in ("items", "correct", "accuracy", "old")} == {
        "items": 4,
        "correct": 3,
        "accuracy": 0.75,
        "old": None,
    }
    assert found["updated"]["accuracy"] == 0.25 and found["updated"]["old"] == 0.5
    assert found["updated"]["by_date"] == {"2024": {"items": 2, "accuracy": 0.0}}
    low, high = found["invariant"]["interval"]
    assert 0 <= low < 0.75 < high <= 1


def test_changes_are_paired_and_counted():
    before, after = (
        answers(invariant="1110", updated="oo00", new="0000"),
        answers(invariant="1001", updated="11o0", new="1100"),
    )
    found = probe_scores.changes(before, after, seed=1)["facts.jsonl"]
    counted = {
        kind: [entry[key] for key in ("items", "gained", "lost", "change")] for kind, entry in found.items()
    }
    assert counted == {"invariant": [4, 1, 2, -0.25], "updated": [4, 2, 0, 0.5], "new": [4, 2, 0, 0.5]}
    assert found["invariant"]["relative"] == pytest.approx(-1 / 3) and found["updated"]["relative"] is None
    # A quarter of the invariant facts went, half of the others came, twice.
    assert probe_scores.fuar({"facts.jsonl": found}) == {
        "value": 0.25,
        "lost": 0.25,
        "gained": 1.0,
        "uncounted": {},
        "words": "more learned",
    }


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ({"invariant": "11", "new": "00"}, {"invariant": "00", "new": "00"}, [None, 1.0, 0.0, {}, "no gain"]),
        (
            {"invariant": "11", "new": "00"},
            {"invariant": "00", "new": "11"},
            [1.0, 1.0, 1.0, {}, "break-even"],
        ),
        (
            {"invariant": "01", "new": "00"},
            {"invariant": "11", "new": "10"},
            [0.0, 0.0, 0.5, {"invariant": 0.5}, "more learned"],
        ),
        # What the new facts lose is no gain, and does not take from that of the updated ones.
        (
            {"invariant": "11", "updated": "00", "new": "11"},
            {"invariant": "00", "updated": "10", "new": "00"},
            [2.0, 1.0, 0.5, {"new": -1.0}, "more forgotten"],
        ),
    ],
)
def test_fuar(before, after, expected):
    found = probe_scores.fuar(probe_scores.changes(answers(**before), answers(**after), seed=1))
    assert list(found.values()) == expected


FIXED = ({"invariant": "1" * 8, "new": "0" * 8}, {"invariant": "0" * 8, "new": "1" * 8})
LOST = ({"invariant": "1" * 8, "new": "0" * 8}, {"invariant": "0" * 8, "new": "0" * 8})
NOTHING = ({"invariant": "1" * 8, "new": "0" * 8}, {"invariant": "1" * 8, "new": "0" * 8})
KEPT = ({"invariant": "1" * 8, "new": "0" * 8}, {"invariant": "1" * 8, "new": "1" * 8})
FEW = ({"invariant": "1" * 5, "new": "0" * 8}, {"invariant": "1" * 5, "new": "1" * 8})
ONE = ({"invariant": "1", "new": "0" * 8}, {"invariant": "1", "new": "1" * 8})


@pytest.mark.parametrize(
    ("pair", "expected"),
    [
        (FIXED, ([1.0, 1.0], True)),  # break-even, whatever is drawn
        (LOST, ([None, None], False)),  # nothing is gained, whatever is drawn: unbounded
        (NOTHING, ([0.0, None], True)),  # any ratio
        (KEPT, ([0.0, 0.0], False)),  # all gained for nothing
        (FEW, ([0.0, 0.0], True)),  # five that agree are too few
        (ONE, (None, True)),
    ],
)
def test_the_interval_of_fuar_where_the_draws_do_not_matter(pair, expected):
    found = probe_scores.fuar_interval(*(answers(**kinds) for kinds in pair), seed=1)
    assert (found["interval"], found["within_chance"]) == expected


def test_the_interval_of_fuar_is_a_paired_bootstrap_of_each_kind():
    """Against loops: every kind is drawn by itself, and an item brings both of its answers."""
    before = answers(invariant="1" * 9 + "0", updated="0" * 6 + "11", new="0" * 7)
    after = answers(invariant="1" * 5 + "00001", updated="110000" + "10", new="1000000")
    drop = [0] * 5 + [1] * 4 + [-1]
    updated, new = [1, 1, 0, 0, 0, 0, 0, -1], [1, 0, 0, 0, 0, 0, 0]
    draws = {}
    for number, values in enumerate((drop, updated, new)):
        random = np.random.default_rng([7 + number, len(values)])
        draws[number] = [
            np.mean([values[i] for i in random.integers(len(values), size=len(values))]) for _ in range(1000)
        ]
    lows, highs = [], []
    for lost, one, other in zip(*draws.values()):
        gained = max(0, one) + max(0, other)
        lost = max(0, lost)
        lows.append(lost / gained if gained else math.inf if lost else 0)
        highs.append(lost / gained if gained else math.inf)
    low, high = sorted(lows)[24], sorted(highs)[975]  # of 1000: ranks 0.025 x 999 and 0.975 x 999, outwards
    found = probe_scores.fuar_interval(before, after, seed=7)
    assert found["interval"] == pytest.approx([low, None if math.isinf(high) else high])
    assert found["within_chance"]


def test_guessing_and_what_is_no_more_than_that():
    found = probe_scores.accuracies(answers(invariant="1" * 9, updated="111oooooo", new="11"), seed=1)
    kinds = found["facts.jsonl"]
    assert {kind: entry["chance"] for kind, entry in kinds.items()} == dict.fromkeys(kinds, 1 / 3)
    assert {kind: entry["within_chance"] for kind, entry in kinds.items()} == {
        "invariant": False,
        "updated": True,
        "new": True,  # too few to tell
    }
    # 8 of 20 are more than none of them, and no more than a third.
    above_none = probe_scores.accuracies(answers(new="1" * 8 + "o" * 12), seed=1)["facts.jsonl"]["new"]
    assert above_none["interval"][0] > 0.1 and above_none["within_chance"]
    halves = [
        row | {"scores": row["scores"][: 2 + number % 2]} for number, row in enumerate(answers(new="11"))
    ]
    assert probe_scores.accuracies(halves, seed=1)["facts.jsonl"]["new"]["chance"] == (1 / 2 + 1 / 3) / 2


def test_a_change_within_chance_is_said():
    before, after = answers(invariant="1" * 8, new="0" * 8), answers(invariant="01111111", new="1" * 8)
    found = probe_scores.changes(before, after, seed=1)["facts.jsonl"]
    assert (found["invariant"]["within_chance"], found["new"]["within_chance"]) == (True, False)
    few = probe_scores.changes(answers(new="0" * 5), answers(new="1" * 5), seed=1)["facts.jsonl"]["new"]
    assert few["interval"] == [1.0, 1.0] and few["within_chance"]


def test_fuar_in_words():
    fuar = {"value": 0.5, "words": "more learned", "uncounted": {"new": -0.125}}
    span = {"interval": [0.25, None], "within_chance": True}
    assert format_fuar(fuar | span) == (
        "FUAR 0.50 (0.25 to unbounded), within chance; taken for 0: new -12.5 points"
    )
    sure = {"interval": [0.25, 0.75], "within_chance": False, "uncounted": {}}
    assert format_fuar(fuar | sure) == "FUAR 0.50 (0.25 to 0.75), more learned"
    assert (
        format_fuar(fuar | {"value": None, "words": "no gain", "uncounted": {}} | span)
        == "no gain, so no FUAR"
    )


def test_only_items_that_both_were_asked_are_compared():
    before, after = answers(new="01"), answers(new="111")
    assert probe_scores.changes(before, after, seed=1)["facts.jsonl"]["new"]["items"] == 2
    assert probe_scores.changes(answers(invariant="1"), after, seed=1) == {}


def test_equal_scores_are_the_first_choice():
    (row,) = answers(new="1")
    assert probe_scores.right([row | {"scores": [-1.0, -1.0]}]) == {("facts.jsonl", "new-0"): True}
