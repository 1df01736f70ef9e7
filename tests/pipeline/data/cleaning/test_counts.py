"""Counts add up over the whole stage, for random pipelines: documents, words, and tokens once there is a tokenizer."""

import pyarrow.parquet as pq
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from tiny import tiny_recipe

from perdure.pipeline.core.errors import PerdureError
from perdure.pipeline.core.files import read_json
from perdure.pipeline.data.stage import run_data
from perdure.pipeline.recipe import Recipe
from tests.pipeline.data.texts import random_text, write_jsonl

STEPS = [{"type": "length", "min_chars": 200}, {"type": "exact_dedup"}, {"type": "minhash_dedup"}]


@pytest.mark.slow
@settings(max_examples=5, phases=[Phase.generate])  # a stage takes too long to shrink
@given(
    st.lists(st.sampled_from(STEPS), max_size=3),
    st.lists(st.integers(0, 70), min_size=40, max_size=60),
    st.sampled_from([None, "classifier", "dsir"]),
    st.sampled_from([0.1, 0.3]),
    st.integers(1, 2),
)
def test_in_is_out_and_dropped_to_the_last_token(
    tmp_path_factory, steps, seeds, subset, other_heldout, tasks
):
    directory = tmp_path_factory.mktemp("counts")
    rows = [
        {"text": random_text(seed, 20 + seed), "kind": "xyz"[number % 3]} for number, seed in enumerate(seeds)
    ]
    reader = {"type": "jsonl", "path": str(write_jsonl(directory / "in.jsonl", rows))}
    source = {"reader": reader, "clean": steps, "topics": {"type": "metadata", "field": "kind"}}
    if subset:
        sample = str(write_jsonl(directory / "good.jsonl", [{"text": random_text(99)}]))
        field = "target" if subset == "dsir" else "positive"
        source["subset"] = {"type": subset, field: sample, "tokens": 900}
    recipe: Recipe = tiny_recipe(
        directory / "out",
        sources={
            "a": source | {"heldout_fraction": 0.1},
            "b": {"reader": reader, "clean": [], "heldout_fraction": other_heldout},
        },
        tokenizer={"type": "train", "vocab_size": 300, "sources": ["b"]},
        data={"tasks": tasks, "workers": 1},
    )
    try:
        found = run_data(recipe)
    except PerdureError as error:  # too few documents for a split or a budget
        assert "falls into" in str(error) or "only" in str(error)
        return
    for data in found.values():
        counts = read_json(data / "manifest.json")["counts"]
        table = pq.read_table(data / "docs.parquet").to_pylist()
        for before, step in zip([None, *counts["steps"]], counts["steps"], strict=False):
            for unit in ("documents", "words"):
                dropped = sum(entry[unit] for entry in step["dropped"].values())
                assert step["in"][unit] == step["out"][unit] + dropped
                assert before is None or step["in"][unit] == before["out"][unit]
        for unit in ("documents", "words", "tokens"):
            whole = counts[unit]
            assert whole["in"] == whole["out"] + sum(whole["dropped"].values())
        assert counts["documents"]["in"] == len(rows)
        assert counts["words"]["in"] == sum(20 + seed for seed in seeds)
        for split in ("train", "heldout"):
            own = [row for row in table if row["split"] == split]
            assert counts[split]["documents"] == len(own)
            assert counts[split]["tokens"] == sum(row["num_tokens"] for row in own)
            for topic, parts in counts["topics"].items():
                mine = [row["num_tokens"] for row in own if row["topic"] == topic]
                assert parts[split] == {"documents": len(mine), "tokens": sum(mine)}
        assert counts["tokens"]["out"] == sum(row["num_tokens"] for row in table)
    # What the stage tokenised is all that the cleaning left: `b` cleans nothing away, and drops by tokens alone.
    whole = read_json(found["b"] / "manifest.json")["counts"]
    lost = whole["documents"]["in"] - whole["documents"]["out"]
    assert (lost == 0) == (whole["tokens"]["dropped"] == {})
