"""A run whose plans read a part of a source is, to the bit, the run for which all of it was scored."""

from pathlib import Path

import numpy as np
import pytest
from support import metrics, run_versions
from tiny import random_data, tiny_recipe

from perdure.pipeline.cli.preview_text import score_words
from perdure.pipeline.core.files import read_json
from perdure.pipeline.core.shards import open_shard
from perdure.pipeline.data.score import score as score_module
from perdure.pipeline.plan.plan import open_plan
from perdure.pipeline.plan.reads import documents_read, to_score
from perdure.pipeline.run.scoring import score_by_model

STEP = 32 * 8
SCHEDULE = {"type": "cosine", "max_lr": 0.01, "min_lr": 0.001, "warmup": 0.1}


def version(start, steps, **fields):
    return {"start": start, "tokens": STEP * steps, "schedule": SCHEDULE} | fields


def make_recipe(out):
    selection = {"k": 0.5, "reference": "reference", "score": "excess"}
    mixture = {"sources": {"a": {}}, "replay": {"share": 0.25, "sources": {"b": {}}}, "max_repetition": 100}
    ranked = {
        "sources": {"b": {"order": "easy_to_hard"}},
        "perplexity_model": "reference",
        "max_repetition": 100,
    }
    reference = {"type": "update", "parent": "reference"}
    branch = {"type": "branch", "parent": "first", "step": 2}
    versions = {
        "reference": version(
            {"type": "init"}, 3, mixture={"sources": {"a": {}, "b": {}}, "max_repetition": 100}
        ),
        "first": version(reference, 3, mixture=mixture, selection=selection),
        "longer": version(branch, 5),
        "next": version({"type": "update", "parent": "first"}, 2, mixture=mixture, selection=selection),
        "ranked": version(reference, 1, mixture=ranked),
    }
    return tiny_recipe(out, versions=versions)


@pytest.fixture(autouse=True)
def any_tokenizer(monkeypatch):
    """The data was made without one."""
    monkeypatch.setattr(score_module, "_check_vocabulary", lambda model, data: None)


def scores_of(recipe, name, source="a"):
    return read_json(recipe.paths.version(name).directory / "inputs.json")["scores"].get(source)


def test_what_check_says_of_the_scores_that_versions_need(tmp_path):
    recipe, tokens = make_recipe(tmp_path), {"a": 10 * STEP, "b": None}
    rows = [
        {"part": "new", "source": "a/arts", "tokens": STEP},
        {"part": "new", "source": "a/science", "tokens": 2 * STEP},
        {"part": "replay", "source": "b", "tokens": STEP},
    ]
    (found,) = to_score(recipe.versions["first"], rows, tokens)
    assert found == {"source": "a", "model": "reference", "of": 10 * STEP, "tokens": 3 * STEP}
    assert score_words(found, True) == (
        "reference scores the documents of a that are read, for 768 tokens of ~2,560 tokens, as far as they are not scored yet"
    )
    (found,) = to_score(recipe.versions["first"], rows, {"a": 3 * STEP})
    assert found["tokens"] is None
    assert score_words(found, False) == "reference scores all of a, 768 tokens, once"
    (found,) = to_score(recipe.versions["ranked"], [], tokens)
    assert found == {"source": "b", "model": "reference", "of": None, "tokens": None}
    assert to_score(recipe.versions["reference"], rows, tokens) == []
    controls = tiny_recipe(
        tmp_path, versions__v1__selection={"k": 0.5, "score": "random"}, versions__v1__tokens=STEP
    )
    assert to_score(controls.versions["v1"], rows, tokens) == []


@pytest.mark.slow
def test_versions_score_what_they_read_once_and_end_as_if_all_was_scored(tmp_path):
    recipe, whole = (make_recipe(tmp_path / name) for name in ("read", "whole"))
    said = run_versions(recipe)
    run_versions(whole, "reference")
    all_scores = score_by_model(whole, "reference", random_data(whole.directory)[0]["a"], None)
    run_versions(whole)

    data = random_data(recipe.directory)[0]
    sizes = np.concatenate([open_shard(data["a"] / f"{task:05d}").lengths for task in range(2)])
    total = int(sizes.sum())
    read, lines = np.zeros(len(sizes), bool), []
    for name in ("first", "longer", "next"):
        directory = recipe.paths.version(name).plan
        wanted = documents_read(open_plan(directory), directory, "a", len(sizes))
        if (tokens := int(sizes[wanted & ~read].sum())) > 0:
            lines.append(f"scoring a with reference: {tokens:,} of {total:,} tokens")
        read |= wanted
        counts = read_json(Path(scores_of(recipe, name)) / "manifest.json")
        assert counts["counts"]["tokens"] == sizes[read].sum()
    assert 0.2 < read.mean() < 0.9 and len(lines) >= 2
    assert [line for line in said if line.startswith("scoring a with")] == lines
    # Perplexities decide which documents a plan has, so that all of the source is scored.
    b = sum(int(open_shard(data["b"] / f"{task:05d}").lengths.sum()) for task in range(2))
    assert [line for line in said if line.startswith("scoring b with")] == [
        f"scoring b with reference: {b:,} tokens"
    ]

    for name in recipe.versions:
        assert metrics(recipe.paths.version(name).directory)[-1]["step"] > 0
        found, expected = (
            [
                {key: line.get(key) for key in ("step", "loss", "stream", "selection", "selected_tokens")}
                for line in metrics(run.paths.version(name).directory)
            ]
            for run in (recipe, whole)
        )
        assert found == expected
        records = [
            read_json(run.paths.version(name).directory / "version.json")["weights_hash"]
            for run in (recipe, whole)
        ]
        assert records[0] == records[1]
        identities = [
            read_json(run.paths.version(name).directory / "inputs.json")["identity"]["scores"]
            for run in (recipe, whole)
        ]
        assert identities[0] == identities[1]
        if name in ("first", "longer", "next"):
            assert identities[0] == {"a": all_scores.name}
            assert scores_of(whole, name) == str(all_scores) != scores_of(recipe, name)
    assert run_versions(recipe) == [f"version {name}: finished, skipped" for name in recipe.versions]
