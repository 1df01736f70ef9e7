"""The text of the yearly slices: every fact in its years alone, and questions that agree with it."""

import json
import random
import sys
from collections import Counter
from pathlib import Path

import pytest

from perdure.data_recipes.reproduce import facts as module
from perdure.data_recipes.reproduce.facts import RELATIONS, YEARS, make_facts, notes, probe, told, values
from perdure.pipeline.checks.check import problems
from perdure.pipeline.evaluate.probes import Probe
from perdure.pipeline.recipe import load_recipe

RECIPES = Path(module.__file__).parent


@pytest.fixture
def corpus(tmp_path, monkeypatch) -> Path:
    """What the command writes, six facts of each kind, each told five times a year; the working directory is beside it."""
    text = tmp_path / "text.jsonl"
    text.write_text("".join(json.dumps({"text": f"Document {number}."}) + "\n" for number in range(40)))
    monkeypatch.chdir(tmp_path)
    command = ["facts.py", str(text), "--to", "corpus", "--facts", "6", "--times", "5", "--chars", "90"]
    monkeypatch.setattr(sys, "argv", command)
    module.main()
    return tmp_path / "corpus"


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_year_tells_what_is_true_in_it_and_nothing_of_before(corpus):
    probes = {found["id"]: Probe.model_validate(found) for found in rows(corpus / "probes.jsonl")}
    assert Counter(found.kind for found in probes.values()) == {"invariant": 6, "updated": 6, "new": 6}
    for year in YEARS:
        text = " ".join(row["text"] for row in rows(corpus / f"{year}.jsonl"))
        for name, found in probes.items():
            times = text.count(name.partition("-")[2])
            if year == 2021:
                assert times == (0 if found.kind == "new" else 5)
                asked = found.old_answer or found.answer
            else:
                assert times == (5 if found.date == str(year) else 0)
                asked = found.answer
            assert (found.question.replace("___", asked) in text) == (times > 0)
            if found.old_answer:
                assert (found.question.replace("___", found.old_answer) in text) == (year == 2021)


def test_background_differs_between_years_and_everything_follows_from_the_seed(corpus):
    documents = [
        {row["text"] for row in rows(corpus / f"{year}.jsonl") if row["text"].startswith("Document")}
        for year in YEARS
    ]
    assert [len(texts) for texts in documents] == [8, 8, 8, 8]  # 90 characters: the last one goes beyond
    assert not set.intersection(*documents)
    before = {path.name: path.read_bytes() for path in corpus.iterdir()}
    module.main()
    assert {path.name: path.read_bytes() for path in corpus.iterdir()} == before


@pytest.mark.parametrize("number", [30, 300])
def test_towns_differ_before_their_last_syllable_and_facts_are_spread_over_years(number):
    facts = make_facts(number, random.Random(1))
    assert len({fact.town for fact in facts}) == 3 * number
    assert Counter((fact.kind, fact.year) for fact in facts if fact.kind != "invariant") == {
        (kind, year): number // 3 for kind in ("updated", "new") for year in YEARS[1:]
    }
    assert all((fact.old is not None) == (fact.kind == "updated") for fact in facts)


def test_questions_have_four_different_choices_of_the_same_relation():
    rng = random.Random(1)
    for fact in make_facts(30, rng):
        found = probe(fact, rng)
        assert len(set(found["choices"])) == 4
        assert set(found["choices"]) <= set(values(fact.relation))
        assert fact.old is None or fact.old in found["choices"]


def test_sentences_name_the_town_before_what_is_true_of_it():
    for forms in RELATIONS.values():
        assert all(0 <= form.index("{town}") < form.index("{value}") for form in forms[1:])


def test_notes_tell_every_fact_as_often_as_asked_in_all_words():
    facts = told(make_facts(6, random.Random(1)), 2022)
    text = " ".join(notes(facts, 10, random.Random(1)))
    for fact in facts:
        for form in RELATIONS[fact.relation][1:]:
            assert text.count(form.format(town=fact.town, value=fact.value)) == 2


@pytest.mark.parametrize("name", ["order", "topics", "slices"])
@pytest.mark.parametrize("size", ["", "_gpu"])
def test_the_recipes_have_no_problem_once_their_files_are_there(corpus, name, size):
    for file in ("english", "domains", "general", "topics"):
        (corpus / f"{file}.jsonl").write_text('{"text": "One."}\n')
    assert problems(load_recipe(RECIPES / f"{name}{size}.yaml")) == []
