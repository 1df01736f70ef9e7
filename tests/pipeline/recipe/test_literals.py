"""What YAML 1.1 reads otherwise than people do is refused, with what to write; all else means what it looks like."""

import random
import re
from fractions import Fraction
from time import process_time

import pytest
import yaml
from tiny import tiny_recipe

from perdure.pipeline.core.errors import RecipeError
from perdure.pipeline.recipe import load_recipe
from perdure.pipeline.recipe.literals import read_yaml
from perdure.pipeline.recipe.training import Parallel, Training
from perdure.pipeline.run.sweep.spec import override_values


def remedy(literal: str) -> str:
    value, (problem,) = read_yaml(f"field: {literal}")
    assert value is None
    assert problem.path == "field"
    return problem.remedy


@pytest.mark.parametrize(
    ("literal", "found"),
    [
        ("0100", "should be 100, or 64 if it is octal, as YAML takes it, or '0100' in quotes if it is text"),
        ("-010", "should be -10, or -8 if it is octal"),
        ("+0_17", "should be 17, or 15 if it is octal"),
        ("00", "should be 0, or '00' in quotes"),
        ("0x1F", "should be 31 in decimal digits"),
        ("0b101", "should be 5 in decimal digits"),
        ("1:00:04", "should be 3604 (YAML counts to the base of 60 here), or '1:00:04' in quotes"),
        ("1:30.5", "should be a decimal number (YAML counts to the base of 60 here)"),
        ("1__0", "should be 10, or"),
        ("10_", "should be 10, or"),
        ("yes", "should be true, as YAML reads it, or 'yes' in quotes if it is text"),
        ("Off", "should be false, as YAML reads it"),
        ("2024-01-31", "should stand in quotes, as '2024-01-31': without them YAML reads a date"),
        ("2024-01-31 12:00:00", "without them YAML reads a date"),
        ("=", "should stand without a tag"),
        ("!!python/name:os.system", "should stand without a tag"),
        ("!!int '0100'", "should be 100, or 64 if it is octal"),
        ("!!int '64.'", "should stand without a tag"),
        ("!!binary aGk=", "should stand without a tag"),
        ("!!set {a, b}", "should stand without a tag"),
        ("!mine [1]", "should stand without a tag"),
    ],
)
def test_a_literal_that_yaml_reads_otherwise_is_refused_with_what_to_write(literal, found):
    assert found in remedy(literal)


@pytest.mark.parametrize(
    ("literal", "value"),
    [
        *(
            ("1_000_000", 1_000_000),
            ("+5", 5),
            ("-5", -5),
            ("0", 0),
            (".5", 0.5),
            ("1.", 1.0),
            ("1.5e+3", 1500.0),
        ),
        *(("true", True), ("FALSE", False), ("~", None), ("", None), ("null", None), (".inf", float("inf"))),
        *(("'0100'", "0100"), ('"no"', "no"), ("!!str 0100", "0100"), ("'2024-01-31'", "2024-01-31")),
        *(
            ("1e9", "1e9"),
            ("0o17", "0o17"),
            ("08", "08"),
            ("2024-01", "2024-01"),
            ("v1.2.3", "v1.2.3"),
            ("y", "y"),
            ("0b", "0b"),
        ),
    ],
)
def test_what_means_what_it_looks_like_goes_on(literal, value):
    found, problems = read_yaml(f"field: {literal}")
    assert problems == []
    assert found == {"field": value}
    assert type(found["field"]) is type(value)


@pytest.mark.parametrize(
    "key", ["no", "On", "2024", "0100", "1:20", "1.10", "2024-01-31", "~", "null", "true", "[a]"]
)
def test_names_are_text(key):
    _, (problem,) = read_yaml(f"sources: {{? {key} : {{}}}}")
    assert problem.path == f"sources.{'?' if key == '[a]' else key}"
    assert "a name is text" in problem.remedy
    if key != "[a]":
        assert read_yaml(f"sources: {{'{key}': {{}}}}") == ({"sources": {key: {}}}, [])


def test_a_field_that_yaml_reads_as_a_boolean_is_a_name():
    assert read_yaml("a: &a {on: replayed}\nb: *a") == (
        {"a": {"on": "replayed"}, "b": {"on": "replayed"}},
        [],
    )
    (problem,) = read_yaml("{on: on}")[1]
    assert problem.path == "on" and "should be true" in problem.remedy


def test_all_are_found_at_once_also_behind_anchors_and_merges():
    text = "base: &b {a: 010, list: [1, on]}\nover: {<<: *b, c: 0x10}\nsame: *b"
    assert [problem.path for problem in read_yaml(text)[1]] == ["base.a", "base.list.1", "over.c"]


@pytest.mark.parametrize(
    ("text", "remedy"),
    [
        ("[" * 10_000, "nested more than 50 deep"),
        ("a: " + "[" * 10_000 + "]" * 10_000, "nested more than 50 deep"),
        ("\n".join(" " * depth + "a:" for depth in range(500)), "nested more than 50 deep"),
        (
            "a0: &a0 [x]\n" + "\n".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 40)),
            "more than 1,000,000 values",
        ),
        (
            "a0: &a0 [x]\n" + "\n".join(f"a{n}: &a{n} [*a{n - 1}]" for n in range(1, 5_000)),
            "nested more than 50",
        ),
        ("a: &a [*a]", "stands in what it stands for"),
        ("a: &a {b: {c: *a}}", "stands in what it stands for"),
        ("a: &a {<<: *a}", "stands in what it stands for"),
    ],
)
def test_what_stands_for_more_than_memory_holds_is_refused_at_once(text, remedy):
    before = process_time()
    with pytest.raises(yaml.YAMLError, match=remedy):
        read_yaml(text)
    assert process_time() - before < 5


def test_aliases_that_are_few_stand_for_what_they_name():
    assert read_yaml("a: &a [1]\nb: [*a, *a]\nc: {<<: &d {e: *a}}\nf: *d")[0] == {
        "a": [1],
        "b": [[1], [1]],
        "c": {"e": [1]},
        "f": {"e": [1]},
    }


@pytest.mark.parametrize("text", ['a: "\\ud800"', 'a: [{b: "x\\0"}]', '{"a\\0": 1}', '"\\ud800"'])
def test_characters_that_are_no_text_are_refused(text):
    _, (problem,) = read_yaml(text)
    assert "without zeros and lone surrogates" in problem.remedy


LITERALS = [
    *(
        "0",
        "7",
        "64",
        "+12",
        "1_000",
        "1e3",
        "1E3",
        "1.0e3",
        "1.0e+3",
        "100.0",
        "0100",
        "08",
        "010",
        "0o10",
        "0x10",
    ),
    *(
        "0b1",
        "1:00",
        "1:00:04",
        "01:00",
        "1__0",
        "_1",
        "1_",
        "yes",
        "on",
        "true",
        "True",
        "~",
        ".5",
        "1.5",
        "-3",
    ),
    *(
        "2024-01-01",
        "'0100'",
        "'64'",
        "'1_000'",
        "'9007199254740993'",
        "9007199254740993",
        "'1e23'",
        "1e999999999",
    ),
    *(".inf", ".nan", "'inf'", "١٢", "'１２'", "1 000", "1,000", "[64]", "{64}", "1e-3", "6.4e1", "!!int 64"),
]


def plain(literal: str) -> int | None:
    """The decimal number that a person reads."""
    text = literal.removeprefix("!!int ").strip("'").replace("_", "")
    try:
        number = None if re.search(r"e\d{3}", text) else Fraction(text)
    except ValueError:
        return None
    return int(number) if number is not None and number.denominator == 1 else None


def as_field(model: type, field: str, literal: str, given: dict) -> int | None:
    """What an integer field becomes; None if it is refused."""
    try:
        value, problems = read_yaml(f"field: {literal}")
        return None if problems else getattr(model.model_validate(given | {field: value["field"]}), field)
    except (ValueError, yaml.YAMLError):
        return None


def test_an_integer_field_is_the_plain_decimal_number_or_refused():
    rng = random.Random(0)
    made = ["".join(rng.choices("0123456789_:.exob+-", k=rng.randint(1, 6))) for _ in range(1500)]
    taken = 0
    given = {"seq_length": 8, "global_batch_size": 8}
    for literal in LITERALS + made:
        found = as_field(Training, "checkpoint_interval", literal, given)
        if found is not None:
            taken += 1
            assert type(found) is int
            assert found == plain(literal), literal
    assert taken > 150
    assert as_field(Training, "checkpoint_interval", "'9007199254740993'", given) == 9007199254740993


def test_true_is_no_number():
    for field in ("tensor_parallel", "data_parallel"):
        with pytest.raises(ValueError, match="should be a valid integer"):
            Parallel.model_validate({field: True})
    assert Parallel.model_validate({"sequence_parallel": True}).sequence_parallel is True


def test_recipes_bases_overrides_and_sweeps_read_alike(tmp_path):
    tree = tiny_recipe(tmp_path).model_dump(mode="json", exclude_none=True)
    path, base = tmp_path / "r.yaml", tmp_path / "base.yaml"
    text = yaml.safe_dump(tree, sort_keys=False)
    path.write_text(text)
    assert load_recipe(path).training.seq_length == tree["training"]["seq_length"]
    wrong = re.sub(r"seq_length: \d+", "seq_length: 0100", text)
    assert wrong != text
    base.write_text(wrong)
    (tmp_path / "child.yaml").write_text("extends: base.yaml\n")
    for file, overrides, where in (
        (base, (), "training.seq_length"),
        (tmp_path / "child.yaml", (), "training.seq_length"),
        (path, ("training.seq_length=0100",), "training.seq_length"),
        (path, ("training={seq_length: 0100}",), "training.seq_length"),
    ):
        with pytest.raises(RecipeError) as refused:
            load_recipe(file, overrides)
        (problem,) = refused.value.problems
        assert str(problem).startswith(f"{where} = '0100': should be 100, or 64 if it is octal")
        assert refused.value.exit_status == 2
    values, problems = override_values(["training.seq_length=64,0100"])
    assert values == {}
    assert [problem.path for problem in problems] == ["training.seq_length.1"]
