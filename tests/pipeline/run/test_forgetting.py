"""What versions know of a forgotten source: gathered from scores of all its documents, and from evaluations."""

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet
from tiny import random_data, tiny_recipe

from perdure.pipeline.checks.evaluation import exact
from perdure.pipeline.core.files import read_json, write_json
from perdure.pipeline.core.manifest import finish
from perdure.pipeline.evaluate.forgetting import ks_p_value
from perdure.pipeline.evaluate.record import measured_on
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


def test_the_file_has_every_version_that_forgot_its_parent_and_the_exact_reference(tmp_path, monkeypatch):
    recipe, (data, _, _) = recipe_of(tmp_path, exact={"b": "exact"}), random_data(tmp_path)
    on, rng = measured_on(recipe, data), np.random.default_rng(0)
    trained = {name: loss + 0.1 * rng.normal(size=120) for name, loss in LOSSES.items()}
    for name in recipe.versions:
        paths = recipe.paths.version(name)
        losses = {"a": {"loss": np.log(2)}, "b": {"loss": 3.0}}
        paths.directory.mkdir(parents=True)
        write_json(paths.evaluation, {"measured": on, "domains": losses})
        rows = [{"domain": "b", "tokens": 10, "loss": 30.0 + number / 10} for number in range(-2, 3)]
        parquet.write_table(pa.Table.from_pylist([*rows, rows[0] | {"domain": "a"}]), paths.documents)
        finish(paths.directory, {})

    def scored(_recipe, model, directory, wanted):
        assert directory == data["b"] and wanted is None
        place = tmp_path / "scores" / model
        place.mkdir(parents=True)
        rows = [
            {"shard": 0, "sequence": n, "perplexity": float(np.exp(loss))}
            for n, loss in enumerate(trained[model])
        ]
        parquet.write_table(
            pa.Table.from_pylist([*rows, {"shard": 1, "sequence": 0, "perplexity": float("nan")}]),
            place / "docs.parquet",
        )
        return place

    monkeypatch.setattr(forgetting, "score_by_model", scored)
    forgetting.measure_forgetting(recipe, data)
    found = read_json(recipe.paths.forgotten)["b"]
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


def test_nothing_is_written_where_nothing_is_forgotten(tmp_path):
    recipe = tiny_recipe(tmp_path)
    forgetting.measure_forgetting(recipe, random_data(tmp_path)[0])
    assert not recipe.paths.forgotten.exists()
