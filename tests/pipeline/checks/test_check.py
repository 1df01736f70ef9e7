"""Preflight: all mistakes at once, types and sense together."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from tiny import tiny_recipe

from perdure.pipeline.checks.check import problems
from perdure.pipeline.checks.finished import data_budgets
from perdure.pipeline.checks.preview import preview
from perdure.pipeline.checks.sizes import finished_sources
from perdure.pipeline.cli.preview_text import print_preview
from perdure.pipeline.core.errors import RecipeError
from perdure.pipeline.core.files import read_json
from perdure.pipeline.run.run import run_data_stage
from tests.pipeline.checks.template import DOMAIN_ORDER, LOWEST, MAPPED, SOURCES, TEMPLATE, found

PERDURE = [sys.executable, "-P", "-m", "perdure.pipeline.cli"]


def test_the_template_has_no_problems():
    assert found() == {}


# Eight mistakes of both kinds: override, path, value, and a part of the remedy.
EIGHT = [
    ("training.seq_lenght=512", "training.seq_lenght", 512, "did you mean `seq_length`?"),
    ("training.precision=fp8", "training.precision", "fp8", "'fp32' or 'bf16'"),
    ("model.num_layers=four", "model.num_layers", "four", "should be a valid integer"),
    ("versions.base.schedule.warmup=2", "versions.base.schedule.warmup", 2, "less than or equal to 1"),
    ("data.wrokers=2", "data.wrokers", 2, "did you mean `workers`?"),
    ("tokenizer.sources=[prose, coed]", "tokenizer.sources.1", "coed", "did you mean `code`?"),
    ("versions.update.start.parent=bose", "versions.update.start.parent", "bose", "did you mean `base`?"),
    ("training.global_batch_size=12", "training.global_batch_size", 12, "multiple of micro_batch_size"),
]


def test_eight_different_mistakes_are_all_listed_with_status_2_and_nothing_heavy_is_imported(tmp_path):
    """What takes long is what is imported: torch alone takes more than all the rest."""
    tree = yaml.safe_load(TEMPLATE.read_text())
    for override, *_ in EIGHT:
        path, value = override.split("=")
        *parents, last = path.split(".")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = yaml.safe_load(value)
    recipe = tmp_path / "bad.yaml"
    recipe.write_text(yaml.safe_dump(tree, sort_keys=False))

    code = (
        f"import sys; from perdure.pipeline.cli import entry; status = entry.main(['check', {str(recipe)!r}])\n"
        "print(*sorted({'torch', 'transformers', 'datatrove', 'megatron'} & set(sys.modules))); sys.exit(status)"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, cwd=tmp_path)

    assert done.returncode == 2
    assert done.stdout == "\n"
    assert "8 problems" in done.stderr
    lines = done.stderr.splitlines()[1:]
    assert len(lines) == 8
    for _, path, value, remedy in EIGHT:
        (line,) = (line for line in lines if line.startswith(f"  {path} = {value!r}: "))
        assert remedy in line


@pytest.mark.parametrize("left_out", range(8))
def test_any_seven_of_them_are_seven(left_out):
    some = [mistake for number, mistake in enumerate(EIGHT) if number != left_out]
    assert found(*(override for override, *_ in some)).keys() == {path for _, path, _, _ in some}


def test_a_broken_part_hides_no_mistake_elsewhere_and_invents_none():
    broken = [
        "model=3",
        "tokenizer.vocab_size=x",
        "versions.base.mixture.sources.prose.weight=-1",
        "parallel=[]",
    ]
    expected = {"model", "tokenizer.vocab_size", "versions.base.mixture.sources.prose.weight", "parallel"}
    assert found(*broken).keys() == expected
    more = found(*broken, "versions.update.start.parent=x", "versions.update.schedule.min_lr=1")
    assert more.keys() == expected | {"versions.update.start.parent", "versions.update.schedule.min_lr"}


def test_no_part_can_break_the_check():
    """Every field of the template, one at a time, replaced by something of a wrong type."""

    def paths(node, prefix=()):
        for key, value in node.items():
            yield ".".join((*prefix, key))
            if isinstance(value, dict):
                yield from paths(value, (*prefix, key))

    for path in paths(yaml.safe_load(TEMPLATE.read_text())):
        names = found(f"{path}=[{{}}]").keys()
        assert any(name.startswith(path) for name in names), path


def test_buckets_need_an_order_by_perplexity():
    source = "versions.update.mixture.sources.code"
    assert found(f"{source}.buckets=10", f"{source}.order=hard_to_easy") == {}
    # The template's model for perplexities has no use then, either.
    problems = found(f"{source}.buckets=10", f"{source}.order=given")
    assert problems[f"{source}.buckets"] == (10, "has no use with `order: given`; needs one by perplexity")


def test_parts_subsets_and_an_order_of_domains_are_accepted():
    sources = f"{SOURCES}={{code/war: {{}}, code/unlabelled: {{}}, prose: {{}}}}"
    assert found(sources, MAPPED, f"{DOMAIN_ORDER}=similarity") == {}
    subset = f"versions.reference.mixture.sources={{code: {LOWEST}}}"
    assert found(subset, "versions.reference.mixture.perplexity_model=base") == {}


def test_a_similar_path_is_suggested(tmp_path):
    (tmp_path / "corpus").mkdir()
    reader = f"sources.code.reader={{type: jsonl, path: {tmp_path}/corpvs}}"
    assert f"did you mean `{tmp_path}/corpus`?" in found(reader)["sources.code.reader.path"][1]
    reader = f"sources.code.reader={{type: jsonl, path: {tmp_path}/corpus}}"
    assert "no file fits" in found(reader)["sources.code.reader.path"][1]
    (tmp_path / "corpus" / "x.jsonl").write_text("{}\n")
    assert found(reader) == {}


def test_an_output_without_permission_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("os.access", lambda path, mode: Path(path) != tmp_path)
    assert "no permission to write" in found(out=tmp_path / "out")["out"][1]


@pytest.mark.slow
def test_repetition_and_labels_are_judged_once_the_data_is_there(tmp_path, capsys):
    from perdure.pipeline.data.stage import run_data

    rows = [
        {
            "text": f"{number} is a number, and {number + 1} is the next. " * 9,
            "kind": ["odd", "even"][number % 2],
        }
        for number in range(40)
    ]
    (tmp_path / "text.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    numbers = {
        "reader": {"type": "jsonl", "path": str(tmp_path / "text.jsonl")},
        "clean": [{"type": "exact_dedup"}],
        "heldout_fraction": 0.2,
        "topics": {"type": "metadata", "field": "kind"},
    }

    def recipe_of(tokens: int, sources: dict, **mixture):
        return tiny_recipe(
            tmp_path / "out",
            sources={"a": numbers, "b": numbers},
            versions__v1__tokens=tokens,
            versions__v1__mixture={"sources": sources, **mixture},
        )

    recipe = recipe_of(200_000, {"a": {"weight": 0.999}, "b": {"weight": 0.001}})
    assert problems(recipe) == []
    assert preview(recipe)["sources"][0]["estimated"]
    print_preview(preview(recipe))
    told = " ".join(capsys.readouterr().out.split())
    assert "times over (more than max_repetition = 4, beyond which a run is refused)" in told
    run_data(recipe)
    (problem,) = problems(recipe)
    assert problem.path == "versions.v1.mixture.max_repetition"
    assert problem.value == 4.0
    assert "`a` would repeat" in problem.remedy
    source = preview(recipe)["sources"][0]
    assert not source["estimated"]
    assert source["repetitions"]["v1"] == pytest.approx(0.999 * 200_192 / source["tokens"])

    def remedies(tokens: int, sources: dict, **mixture) -> list[str]:
        return [problem.remedy for problem in problems(recipe_of(tokens, sources, **mixture))]

    directory = next((tmp_path / "out").glob("data/a@*"))
    odd = read_json(directory / "manifest.json")["counts"]["topics"]["odd"]["train"]["tokens"]
    assert remedies(odd, {"a/odd": {}}) == []
    (row,) = preview(recipe_of(odd, {"a/odd": {}}))["versions"][0]["mixture"]
    assert (row["source"], row["available"]) == ("a/odd", odd)
    assert remedies(odd, {"a/old": {}}) == ["no such topic in `a`; did you mean `odd`?"]
    with pytest.raises(RecipeError) as refused:  # before the first version trains
        run_data_stage(recipe_of(odd, {"a/old": {}}), Path("my.yaml"))
    assert [problem.path for problem in refused.value.problems] == ["versions.v1.mixture.sources.a/old"]
    assert remedies(odd, {"a@de": {}}) == ["no such language in `a`: none of its documents has one"]
    assert remedies(5 * odd, {"a/odd": {}})[0].startswith("`a/odd` would repeat 5.")
    counts = finished_sources(recipe)
    subset = lambda tokens: recipe_of(9, {"a": {"lowest_perplexity": {"tokens": tokens}}}).versions["v1"]  # noqa: E731
    (problem,) = data_budgets(counts, "v1", subset(10**6))
    assert problem.path == "versions.v1.mixture.sources.a.lowest_perplexity.tokens"
    assert "`a` has only" in problem.remedy
    assert [*data_budgets(counts, "v1", subset(100))] == []
