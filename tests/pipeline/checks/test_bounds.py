"""Mistakes that would show late, or cost what a check must not: circles, sizes, names, places."""

import pytest
import yaml

from perdure.pipeline.checks.check import load_lineage, tree_problems
from perdure.pipeline.core.errors import RecipeError
from perdure.pipeline.core.hints import near
from perdure.pipeline.recipe import RecipeSource, read_tree
from tests.pipeline.checks.template import TEMPLATE, found


def update(parent: str) -> str:
    return f"{{type: update, parent: {parent}}}"


CIRCLES = [
    ({"base": update("base")}, {"base": "is this version itself"}),
    ({"base": "{type: branch, parent: base, step: 1}"}, {"base": "is this version itself"}),
    ({"base": update("update")}, {"base": "comes later"}),
    ({"reference": update("update"), "update": update("reference")}, {"reference": "comes later"}),
    ({"base": update("base"), "reference": update("reference")}, {"base": "itself", "reference": "itself"}),
    ({"reference": "{type: branch, parent: gone, step: 3}"}, {"reference": "no such earlier version"}),
]
"""Starts of versions, and what is wrong with the parent of which."""


@pytest.mark.parametrize(("starts", "remedies"), CIRCLES)
@pytest.mark.parametrize("schedule", ["{type: decay}", "{type: autoregressive, max_lr: 1e-3, min_lr: 1e-4}"])
@pytest.mark.parametrize(
    "mixture",
    ["{replay: {from_parents: true, sources: {}}}", "{switches: [{at_lr: 0.5, sources: {code: {}}}]}"],
)
def test_circles_of_parents_are_told_and_followed_by_nothing(starts, remedies, schedule, mixture):
    overrides = [f"versions.{name}.start={start}" for name, start in starts.items()]
    overrides += [f"versions.update.schedule={schedule}", f"versions.update.mixture={mixture}"]
    problems = found(*overrides)
    for name, remedy in remedies.items():
        assert remedy in problems[f"versions.{name}.start.parent"][1]
    with pytest.raises(RecipeError):
        load_lineage(RecipeSource(TEMPLATE, overrides))


def test_a_mistake_elsewhere_is_told_beside_a_circle():
    problems = found("versions.base.start=" + update("base"), "training.adam_beta1=1", "data.tasks=none")
    assert set(problems) == {"versions.base.start.parent", "training.adam_beta1", "data.tasks"}


@pytest.mark.parametrize(
    ("field", "value", "remedy"),
    [
        ("seed", -1, "greater than or equal to 0"),
        ("seed", 2**70, "less than or equal to"),
        ("model.num_layers", 10**6, "less than or equal to 10000"),
        ("model.hidden_size", "1e12", "less than or equal to"),
        ("model.norm_epsilon", 1e300, "less than or equal to 1"),
        ("model.norm_epsilon", 1e-320, "greater than or equal to"),
        ("model.rope_theta", 1e300, "less than or equal to"),
        ("training.adam_eps", 1e300, "less than or equal to 1"),
        ("training.seq_length", "1e15", "less than or equal to"),
        ("tokenizer.vocab_size", "1e12", "less than or equal to"),
        ("parallel.data_parallel", 10**9, "less than or equal to"),
        ("versions.base.tokens", "1e29", "less than or equal to"),
        ("versions.base.schedule.max_lr", 1e300, "less than or equal to"),
        ("versions.base.tokens", "1e17", "should be at most 1,000,000,000"),
        ("versions.update.mixture.replay.share", 25, "did you mean 0.25?"),
        ("versions.base.schedule.warmup", "10%", "did you mean 0.1?"),
        ("versions.base.tokens", "1B", "did you mean 1_000_000_000?"),
        ("versions.base.tokens", "1.5 M", "did you mean 1_500_000?"),
        ("versions.base.tokens", "100,000", "did you mean 100_000?"),
        ("versions.base.tokens", "1.5", "valid integer, unable to parse string as an integer"),
    ],
)
def test_numbers_that_cannot_be_meant(field, value, remedy):
    written = f"'{value}'" if isinstance(value, str) else repr(value)
    assert remedy in found(f"{field}={written}")[field][1]


def test_a_schedule_that_rounds_to_nothing_is_refused():
    field = "versions.update.schedule.inverse_sqrt_alpha"
    assert (
        "greater than or equal to"
        in found(f"{field}=1e-320", "versions.update.schedule.cooldown_shape=inverse_sqrt")[field][1]
    )


def test_learning_rates_are_not_looked_through_for_days():
    switch = "versions.base.mixture.switches=[{at_lr: 0.5, sources: {code: {}}}]"
    assert (
        "`at_lr` is for versions of up to 1,000,000 steps"
        in found("versions.base.tokens=1e12", switch)["versions.base.mixture.switches"][1]
    )


def test_ranks_without_number():
    parallel = "parallel={tensor_parallel: 4096, pipeline_parallel: 4096, data_parallel: 16}"
    assert "at most 1,000,000 ranks" in found(parallel)["parallel"][1]


@pytest.mark.parametrize("field", ["sources.code.reader", "tokenizer", "model", "out"])
@pytest.mark.parametrize("broken", ["training.precision=fp8", "training.precision=bf16"])
def test_paths_that_no_file_can_have(field, broken):
    """Also beside a mistake of type elsewhere, where parts are judged one by one."""
    kind = {"tokenizer": "huggingface", "model": "huggingface"}.get(field, "text")
    for path in ("a" * 256, "é" * 128, "b/" * 2_100):
        value = path if field == "out" else f"{{type: {kind}, path: {path}}}"
        where = field if field == "out" else f"{field}.{kind}.path"
        (remedy,) = (
            remedy
            for place, (_, remedy) in found(f"{field}={value}", broken).items()
            if place in (where, f"{field}.path")
        )
        assert "bytes" in remedy


def test_names_that_files_are_called_after():
    assert "should be 2 letters shorter" in found(f"name={'r' * 257}")["name"][1]
    name = "s" * 232
    tree = read_tree(RecipeSource(TEMPLATE))
    tree["sources"] = {name: tree["sources"]["prose"], "code": tree["sources"]["code"]}
    text = yaml.safe_dump(tree).replace("- prose", f"- {name}").replace("prose:", f"{name}:")
    problems = {problem.path: problem.remedy for problem in tree_problems(yaml.safe_load(text))}
    assert "should be 1 letters shorter" in problems[f"sources.{name}"]


def test_names_of_scores_have_both_names():
    (source, version), text = ("s" * 130, "v" * 130), TEMPLATE.read_text()
    tree = yaml.safe_load(
        text.replace("code:", f"{source}:")
        .replace("code]", f"{source}]")
        .replace("reference:", f"{version}:", 1)
        .replace("perplexity_model: reference", f"perplexity_model: {version}")
        .replace("reference: reference", f"reference: {version}")
    )
    problems = {problem.path: problem.remedy for problem in tree_problems(tree)}
    assert "letters shorter, with that of sss" in problems["versions.update.selection.reference"]
    assert "letters shorter" in problems["versions.update.mixture.perplexity_model"]


@pytest.mark.parametrize(("letters", "shorter"), [(70, None), (71, 3)])
def test_names_of_scores_are_counted_in_bytes(letters, shorter):
    """A model's letters of three bytes each, beside 45 of a source's name, hashes and what stands between them."""
    wanted = f"./{'語' * letters}"
    field = "versions.update.selection.reference"
    overrides = [f"{field}={wanted}", "versions.update.mixture.sources:={prose: {}}"]
    remedies = [
        problem.remedy
        for problem in tree_problems(read_tree(RecipeSource(TEMPLATE, overrides)))
        if problem.path == field
    ]
    told = [remedy for remedy in remedies if "letters shorter" in remedy]
    assert remedies and len(told) == (shorter is not None)
    assert all(
        remedy.startswith(f"should be {shorter} letters shorter, with that of prose") for remedy in told
    )


def test_an_output_inside_what_is_read(tmp_path):
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("text")

    def nested(out: str, glob: str) -> bool:
        reader = f"sources.code.reader={{type: text, path: {tmp_path}/texts, glob: '{glob}'}}"
        return "would read what is written there" in found(reader, out=tmp_path / out).get("out", ("", ""))[1]

    assert (
        nested("texts/runs/x", "**/*.txt")
        and nested("texts", "*.txt")
        and nested("texts/../texts/x", "*/*.txt")
    )
    assert (
        not nested("runs", "**/*.txt")
        and not nested("texts/runs/x", "*.txt")
        and not nested("texts2", "**/*")
    )
    assert not nested("texts/.runs", "**/*.txt")
    (tmp_path / "link").symlink_to("texts")
    assert nested("link/runs", "**/*.txt")


def test_texts_inside_what_a_run_owns(tmp_path):
    for place, refused in (("work/x", True), ("data", True), ("texts", False), ("cleaner", False)):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "a.txt").write_text("text")
        problems = found(f"sources.code.reader={{type: text, path: {tmp_path / place}}}", out=tmp_path)
        assert ("should lie outside" in problems.get("sources.code.reader.path", ("", ""))[1]) == refused


def test_replay_of_the_new_data_itself():
    field = "versions.update.mixture.replay.sources"
    assert "is the new data itself (`code`)" in found(f"{field}={{code: {{}}}}")[f"{field}.code"][1]
    assert found(f"{field}={{code: {{}}}}", "versions.update.start.parent=reference") == {}  # which saw code


def test_a_hint_among_thousands_is_near():
    names = [f"source{number:05d}" for number in range(10_000)]
    assert near("sourc04999", names) == "; did you mean `source04999`?"
    assert near("x" * 100_000, names).startswith("; there is")


def test_long_values_and_lists_are_cut_for_the_console():
    error = RecipeError("r.yaml", tree_problems({f"field{n}": "v" * 10_000 for n in range(1_000)}))
    lines = str(error).splitlines()
    assert lines[0].startswith("r.yaml: 1,0") or lines[0].startswith("r.yaml: 10")
    assert len(lines) == 202 and lines[-1].endswith("more") and max(map(len, lines)) < 1_000
    assert len(error.problems) > 1_000


def test_a_text_that_was_named_as_recipe(tmp_path):
    (tmp_path / "corpus.jsonl").write_text('{"text": "word"}\n' * 300_000)
    with pytest.raises(RecipeError, match="should be a recipe; this file has more than 4 MiB"):
        read_tree(RecipeSource(tmp_path / "corpus.jsonl"))


def test_a_directory_that_cannot_be_read_is_a_problem(tmp_path, monkeypatch):
    (tmp_path / "corpus").mkdir()

    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("os.listdir", refuse)
    value, remedy = found(f"sources.code.reader={{type: text, path: {tmp_path}/gone}}")["files"]
    assert (value, remedy) == (str(tmp_path), "cannot be read: Permission denied")


def test_one_mapping_in_the_place_of_a_list_of_them():
    field = "versions.update.mixture.switches"
    assert "should be a valid tuple" in found(f"{field}={{at: 0.5, sources: {{code: {{}}}}}}")[field][1]
