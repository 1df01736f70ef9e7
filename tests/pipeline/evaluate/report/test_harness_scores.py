"""Scores of the initial model beside those of versions: whose they are, what changed, and by how much chance."""

import pytest

from perdure.pipeline.core.files import read_json, write_json
from perdure.pipeline.core.hashes import hash_file
from perdure.pipeline.evaluate import harness
from perdure.pipeline.evaluate.harness import initial_records, run_harness, tasks_hash
from perdure.pipeline.evaluate.report.harness_scores import harness_lines, harness_rows, score_changes
from perdure.pipeline.evaluate.report.page import render_page
from perdure.pipeline.evaluate.report.summary import summarize
from perdure.pipeline.recipe import Recipe

SCORES = {
    "initial": {"quiz": {"acc": 0.5, "acc_stderr": 0.03, "ppl": 8.0}},
    "base": {"quiz": {"acc": 0.625, "acc_stderr": 0.04, "ppl": 9.0}},
    "update": {"quiz": {"acc": 0.5, "acc_stderr": 0.0, "ppl": 9.5}},
}


def with_tasks(recipe: Recipe) -> Recipe:
    include = recipe.directory.parent / "tasks"
    include.mkdir(exist_ok=True)
    (include / "quiz.yaml").write_text("task: quiz\n")
    section = {"include_path": str(include), "tasks": ["quiz"]}
    return Recipe.model_validate(recipe.model_dump() | {"evaluation": {"harness": section}})


def from_model(recipe: Recipe, weights: str = "f00d") -> None:
    """Has it that `base` started from a Hugging Face directory."""
    path = recipe.directory / "versions/base/inputs.json"
    inputs = read_json(path)
    inputs["identity"] |= {"initial_weights": weights, "tokenizer_hash": "c0ffee"}
    write_json(path, inputs)


def scored(recipe: Recipe, run, hugging_face: bool = True) -> dict:
    """The report of versions that all have scores."""
    data = run(recipe, list(recipe.versions))
    identity = {"tasks": tasks_hash(recipe.evaluation.harness), "parse_special_tokens": False}
    for name in ("base", "update"):
        path = recipe.directory / f"versions/{name}/harness.json"
        write_json(path, {"identity": identity, "tasks": SCORES[name]})
    if hugging_face:
        from_model(recipe)
        path, model = initial_records(recipe)["base"]
        write_json(path, {"identity": identity | model, "tasks": SCORES["initial"]})
    return summarize(recipe, data)


def test_changes_are_against_what_a_version_started_from(recipe, run):
    report = scored(with_tasks(recipe), run)
    assert report["harness_initial"] == {"tasks": SCORES["initial"], "note": None}
    found = report["harness_change"]
    assert found.keys() == {"base", "update"}  # the others have no scores
    assert found["base"]["quiz"]["acc"] == {"change": 0.125, "stderr": pytest.approx(0.05)}
    assert found["base"]["quiz"]["ppl"] == {"change": 1.0, "stderr": None}
    assert found["update"]["quiz"]["acc"] == {"change": -0.125, "stderr": pytest.approx(0.04)}
    rows = harness_rows(report, ["base", "update"])
    shown = [(row["model"], row["metric"], row["value"], row["stderr"]) for row in rows]
    assert shown[:3] == [
        ("initial model", "acc", 0.5, 0.03),
        ("initial model", "ppl", 8.0, None),
        ("base", "acc", 0.625, 0.04),
    ]
    words = harness_lines(report)
    assert words[0] == "lm-evaluation-harness: initial model: quiz: acc 0.500, ppl 8.000"
    assert "base: quiz: acc 0.625 (+0.125 from initial model, standard error 0.050, unpaired)" in words[1]
    assert "0.500 (\N{MINUS SIGN}0.125 from base, standard error 0.040, unpaired)" in words[2]
    page = render_page(report)
    section = page[page.index("<h2>lm-evaluation-harness</h2>") :]
    assert section.index("initial model</th><td>quiz") < section.index("base</th><td>quiz")
    assert "+0.125" in section and "0.050" in section and "unpaired" in section
    own = render_page(report, "base")
    assert "initial model</th><td>quiz" in own and "update</th><td>quiz" not in own


def test_a_random_start_has_a_note_and_no_row(recipe, run):
    report = scored(with_tasks(recipe), run, hugging_face=False)
    assert report["harness_initial"] == {
        "tasks": None,
        "note": "No scores of the initial model: it is random.",
    }
    assert report["harness_change"].keys() == {"update"}
    assert "initial model: it is random." in harness_lines(report)[0]
    page = render_page(report)
    assert "it is random." in page and "initial model</th><td>quiz" not in page


def test_scores_of_another_model_or_other_tasks_are_not_shown(recipe, run):
    recipe = with_tasks(recipe)
    report = scored(recipe, run)
    from_model(recipe, weights="beef")
    data = dict.fromkeys(recipe.sources)
    assert summarize(recipe, data)["harness_initial"]["note"].endswith("`perdure eval` makes them.")
    assert "base" not in summarize(recipe, data)["harness_change"]
    from_model(recipe)
    assert summarize(recipe, data)["harness_change"] == report["harness_change"]
    (recipe.evaluation.harness.include_path / "quiz.yaml").write_text("task: quiz\ntag: other\n")
    found = summarize(recipe, data)
    assert (found["harness"], found["harness_initial"], found["harness_change"]) == (None, None, {})


def test_the_initial_model_is_run_once_and_anew_after_an_edit(recipe, run, monkeypatch, said):
    recipe, asked = with_tasks(recipe), []

    def results(model, section, parse, log):
        asked.append(model)
        return {"versions": {}, "tasks": SCORES["initial"]}

    monkeypatch.setattr(harness, "run_tasks", results)
    monkeypatch.setattr(harness, "_changed", lambda recipe, name, weights: None)
    monkeypatch.setattr(harness, "link_as_export", lambda recipe, folder: None)
    monkeypatch.setattr(harness, "export_of", lambda directory: directory / "hf")
    monkeypatch.setattr(harness.importlib.util, "find_spec", lambda name: True)
    run(recipe, list(recipe.versions))
    from_model(recipe)
    run_harness(recipe)
    assert said[0] == "initial model: lm-evaluation-harness, quiz" and len(asked) == 1 + len(recipe.versions)
    assert len(list((recipe.directory / "harness").iterdir())) == 1
    run_harness(recipe)
    assert len(asked) == len(said) == 1 + len(recipe.versions)
    from_model(recipe, weights="beef")
    run_harness(recipe)
    assert said[1 + len(recipe.versions) :] == ["initial model: lm-evaluation-harness, quiz"]
    (recipe.evaluation.harness.include_path / "quiz.yaml").write_text("task: quiz\ntag: other\n")
    run_harness(recipe)
    assert len(asked) == 2 * (1 + len(recipe.versions)) + 1


def test_a_model_that_versions_did_not_start_from_is_said_and_not_run(recipe, run, monkeypatch, said):
    recipe = with_tasks(recipe)
    monkeypatch.setattr(harness, "run_tasks", lambda *_: {"tasks": {}})
    monkeypatch.setattr(harness, "export_of", lambda directory: directory / "hf")
    monkeypatch.setattr(harness.importlib.util, "find_spec", lambda name: True)
    run(recipe, ["base"])
    from_model(recipe)
    run_harness(recipe)
    assert "base started from a model that the recipe does not name any more" in said[0]
    assert not (recipe.directory / "harness").exists()


def test_standard_errors_of_filters_and_missing_values():
    before = {"math": {"match,strict": 0.25, "match_stderr,strict": 0.3, "none": None}}
    after = {"math": {"match,strict": 0.5, "match_stderr,strict": 0.4, "none": 1.0}, "new": {"acc": 1.0}}
    found = score_changes(before, after)
    assert found == {"math": {"match,strict": {"change": 0.25, "stderr": pytest.approx(0.5)}}}


@pytest.mark.parametrize("extended", [False, True])
def test_the_initial_model_gets_the_tokenizer_that_it_has_rows_for(recipe, tmp_path, monkeypatch, extended):
    model, tokenizer, folder = tmp_path / "model", tmp_path / "tokenizer", tmp_path / "folder"
    for place, names in ((model, ["config.json", "model.safetensors"]), (tokenizer, ["manifest.json"])):
        place.mkdir()
        for name in (*names, "tokenizer_config.json"):
            (place / name).write_text(place.name)
        (place / "tokenizer.json").write_text("same" if not extended else place.name)
    facts = {"base_tokenizer_hash": hash_file(model / "tokenizer.json"), "base_vocab_size": 2, "pieces": []}
    write_json(tokenizer / "extension.json", facts)
    monkeypatch.setattr("perdure.pipeline.data.stage.tokenizer_directory", lambda _: tokenizer)
    tree = recipe.model_dump() | {"model": {"type": "huggingface", "path": str(model)}}
    folder.mkdir()
    harness.link_as_export(Recipe.model_validate(tree), folder)
    assert {path.name for path in folder.iterdir()} == {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert (folder / "model.safetensors").read_text() == "model"
    assert (folder / "tokenizer_config.json").read_text() == ("model" if extended else "tokenizer")
