"""What versions know of a forgotten source: gathered from scores of all its documents, and from evaluations."""

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet
from tiny import random_data, tiny_recipe, write_data, write_masks, write_scores

from perdure.pipeline.checks.evaluation import exact
from perdure.pipeline.core.files import read_json, write_json
from perdure.pipeline.core.manifest import finish
from perdure.pipeline.evaluate.forgetting import ks_p_value
from perdure.pipeline.evaluate.record import measured_on
from perdure.pipeline.plan.planning import data_hash
from perdure.pipeline.recipe.code import FillInTheMiddle
from perdure.pipeline.run import forgetting

STEP = 32 * 8
LOSSES = {"base": 1.0, "forgetful": 3.0, "later": 2.5, "exact": 3.1}
"""About how badly each version predicts what it was to forget; documents that nobody read cost it 3."""


def recipe_of(out, **evaluation):
    schedule = {"type": "constant", "max_lr": 0.01, "warmup": 0}
    both = {"tokens": STEP * 4, "schedule": schedule}

    def version(start, sources, **changes):
        return both | {"start": start, "mixture": {"sources": sources, "max_repetition": 99} | changes}

    pool = {"replay": {"share": 0.5, "from_parents": True}}
    versions = {
        "base": version({"type": "init"}, {"a": {}, "b": {}}),
        "forgetful": version({"type": "update", "parent": "base"}, {"b": {"packing": "best_fit"}}, **pool)
        | {"objective": {"type": "forget", "source": "b"}},
        "later": version({"type": "update", "parent": "forgetful"}, {"a": {}}, **pool),
        "aside": version({"type": "update", "parent": "base"}, {"a": {}}),
        "exact": version({"type": "init"}, {"a": {}}),
    }
    return tiny_recipe(out, versions=versions, evaluation={"max_tokens": 500} | evaluation)


def finished(recipe, on, **losses):
    """Makes every version finished, with held-out losses by domain."""
    losses = {domain: {"loss": loss} for domain, loss in ({"a": np.log(2), "b": 3.0} | losses).items()}
    for name in recipe.versions:
        paths = recipe.paths.version(name)
        paths.directory.mkdir(parents=True)
        write_json(paths.evaluation, {"measured": on, "domains": losses})
        write_json(paths.record, {"weights_hash": f"weights of {name}"})
        finish(paths.directory, {})


def scored_as(out, losses):
    """Stands for the scoring stage: by split and version, the mean losses of documents, nats per token."""

    def scored(_recipe, model, _directory, _wanted, split):
        place = out / "made" / split / model
        place.mkdir(parents=True, exist_ok=True)
        rows = [
            {"shard": 0, "sequence": number, "mean_nll": float(loss)}
            for number, loss in enumerate(losses[split][model])
        ]
        parquet.write_table(
            pa.Table.from_pylist(
                rows, pa.schema({"shard": pa.int32(), "sequence": pa.int32(), "mean_nll": pa.float64()})
            ),
            place / "docs.parquet",
        )
        return place

    return scored


def test_the_file_has_every_version_that_forgot_its_parent_and_the_exact_reference(tmp_path, monkeypatch):
    recipe, (data, _, _) = recipe_of(tmp_path, exact={"b": "exact"}), random_data(tmp_path)
    on, rng = measured_on(recipe, data), np.random.default_rng(0)
    trained = {name: loss + 0.1 * rng.normal(size=120) for name, loss in LOSSES.items()}
    heldout = 3 + np.arange(-2, 3) / 100
    finished(recipe, on)
    scored = scored_as(tmp_path, {"train": trained, "heldout": dict.fromkeys(trained, heldout)})

    def only_of_b(_recipe, model, directory, wanted, split):
        assert directory == data["b"] and wanted is None
        return scored(_recipe, model, directory, wanted, split)

    monkeypatch.setattr(forgetting, "score_by_model", only_of_b)
    forgetting.measure_forgetting(recipe, data)
    found = read_json(recipe.paths.forgotten)["b"]
    assert found["weights"] == {name: f"weights of {name}" for name in LOSSES} and found["data"] == data_hash(
        data["b"]
    )
    assert (found["exact"], found["documents"], list(found["versions"])) == ("exact", 120, list(LOSSES))
    for name, told in found["versions"].items():
        assert told["loss"] == pytest.approx(trained[name].mean())
        assert told["heldout_loss"] == pytest.approx(3.0) and told["utility"] == pytest.approx(0.5)
        assert told["ks_p"] == pytest.approx(ks_p_value(trained[name], trained["exact"]))
    base, forgetful, exactly = (found["versions"][name] for name in ("base", "forgetful", "exact"))
    assert base["auc"] == 1 and base["priv_leak"] < -50 and base["ks_p"] < 1e-9
    assert abs(forgetful["auc"] - 0.5) < 0.1 and exactly["priv_leak"] == 0 and exactly["ks_p"] == 1


def test_an_exact_reference_is_a_version_that_never_read_the_source(tmp_path):
    def told(**named):
        return {problem.path: problem.remedy for problem in exact(recipe_of(tmp_path, exact=named))}

    assert told(b="exact") == {}
    assert told(b="exakt")["evaluation.exact.b"].startswith("no such version; did you mean `exact`")
    assert told(b="aside") == {
        "evaluation.exact.b": "it, or what it comes from, reads `b`; should be one that never did"
    }
    assert told(a="exact")["evaluation.exact.a"].startswith("no version forgets it")


def test_nothing_is_written_where_nothing_is_forgotten_and_what_was_written_goes(tmp_path):
    recipe = tiny_recipe(tmp_path)
    recipe.directory.mkdir(parents=True, exist_ok=True)
    for before in (False, True):
        if before:
            write_json(recipe.paths.forgotten, {"b": {}})
        forgetting.measure_forgetting(recipe, random_data(tmp_path)[0])
        assert not recipe.paths.forgotten.exists()


def test_a_model_that_is_lost_is_measured_and_so_are_no_documents(tmp_path, monkeypatch):
    """A mean loss above 709 nats has no perplexity; one that is not finite counts as infinitely unlikely."""
    recipe, (data, _, _) = recipe_of(tmp_path, exact={"b": "exact"}), random_data(tmp_path)
    finished(recipe, measured_on(recipe, data))
    trained = {name: np.full(4, 1000.0) for name in LOSSES} | {"later": np.array([1.0, 2.0, np.nan, np.nan])}
    for heldout in (np.full(3, 900.0), np.zeros(0)):
        losses = {"train": trained, "heldout": dict.fromkeys(trained, heldout)}
        monkeypatch.setattr(forgetting, "score_by_model", scored_as(tmp_path, losses))
        forgetting.measure_forgetting(recipe, data)
        found = read_json(recipe.paths.forgotten)["b"]
        lost, later = found["versions"]["forgetful"], found["versions"]["later"]
        assert (lost["loss"], lost["auc"]) == (1000, 0 if len(heldout) else None) and found["documents"] == 4
        assert (later["loss"], later["auc"]) == (None, 0.5 if len(heldout) else None)


def test_losses_are_those_of_labels_where_a_source_has_others(tmp_path, monkeypatch):
    """As held-out losses are measured; a document without a label has none."""
    documents = [np.array([5, 6, 7, 0], np.uint16), np.array([8, 0], np.uint16), np.array([9, 0], np.uint16)]
    data = write_data(tmp_path / "data" / "a", [documents[:2], documents[2:]], documents[:1], 300)
    masks = [np.array(mask, np.uint8) for mask in ([0, 0, 1, 1], [0, 0], [1, 1])]
    write_masks(data, [masks[:2], masks[2:]], [np.array([0, 1, 0, 0], np.uint8)])
    losses = [np.array(own) for own in ([9.0, 9.0, 1.0, 2.0], [5.0, 5.0], [3.0, 4.0])]
    places = {
        "train": write_scores(tmp_path / "train", data, [losses[:2], losses[2:]]),
        "heldout": write_scores(tmp_path / "heldout", data, [losses[:1], []]),
    }
    monkeypatch.setattr(forgetting, "score_by_model", lambda *asked: places[asked[-1]])
    recipe = tiny_recipe(tmp_path)
    assert forgetting.document_losses(recipe, "v1", data, "train").tolist() == pytest.approx([1.5, 3.5])
    assert forgetting.document_losses(recipe, "v1", data, "heldout").tolist() == pytest.approx([9.0])


def test_sources_whose_heldout_documents_are_of_another_kind_have_no_auc(tmp_path, monkeypatch, caplog):
    recipe, (data, _, _) = recipe_of(tmp_path), random_data(tmp_path)
    section = recipe.sources["b"].model_copy(update={"fim": FillInTheMiddle()})
    recipe = recipe.model_copy(update={"sources": recipe.sources | {"b": section}})
    on = measured_on(tiny_recipe(tmp_path), data)
    monkeypatch.setattr(forgetting, "measured_on", lambda *_: on)
    finished(recipe, on)
    losses = {"train": dict.fromkeys(LOSSES, np.ones(2))}  # held-out documents are not asked for
    monkeypatch.setattr(forgetting, "score_by_model", scored_as(tmp_path, losses))
    forgetting.measure_forgetting(recipe, data)
    told = read_json(recipe.paths.forgotten)["b"]["versions"]["base"]
    assert told["loss"] == 1 and told["auc"] is told["heldout_loss"] is None
    assert "b: no AUC and no PrivLeak, since its training documents are to be filled in" in caplog.text


def test_utility_is_that_of_sources_that_the_lineage_learned_each_once(tmp_path, monkeypatch):
    recipe, (data, _, _) = recipe_of(tmp_path), random_data(tmp_path)
    c = recipe.sources["a"]
    recipe = recipe.model_copy(update={"sources": recipe.sources | {"c": c}})
    on = measured_on(recipe, data)
    finished(recipe, on, **{"a/topic": 9.0, "a+prefix": 9.0, "c": 9.0})
    losses = {split: dict.fromkeys(LOSSES, np.ones(2)) for split in ("train", "heldout")}
    monkeypatch.setattr(forgetting, "score_by_model", scored_as(tmp_path, losses))
    forgetting.measure_forgetting(recipe, data)
    for told in read_json(recipe.paths.forgotten)["b"]["versions"].values():
        assert told["utility"] == pytest.approx(0.5)
