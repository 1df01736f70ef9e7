"""A run of one layout, start to end, among the fast tests: its losses are the golden ones, and every step learns."""

import pytest
from support import metrics, start_ranks
from tiny import prepare_version, tiny_recipe

from perdure.pipeline.core.files import read_json
from tests.pipeline.train.golden import GOLDEN


def test_losses_of_one_rank_are_the_golden_ones(tmp_path):
    """What `test_layouts.py` compares under every layout, which takes minutes; this takes the start of one process."""
    recipe = tiny_recipe(tmp_path, versions__v1__selection={"k": 0.6, "reference": "/unused"})
    directory = prepare_version(recipe, scored=True)
    outcome = start_ranks(directory, 1)
    assert outcome.returncode == 0, outcome.stderr
    lines = metrics(directory)
    assert [line["loss"] for line in lines] == pytest.approx(GOLDEN, rel=1e-5)
    consumed = sum(read_json(directory / "version.json")["consumed"].values())
    assert lines[-1]["tokens"] == consumed <= 20 * 8 * 32
