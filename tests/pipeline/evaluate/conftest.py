"""The made-up run, its report and its page."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tiny import tiny_recipe, write_data
from tokenizers import Tokenizer, models, pre_tokenizers

from perdure.pipeline.core.manifest import finish
from perdure.pipeline.evaluate.report.page import render_page
from perdure.pipeline.evaluate.report.summary import summarize
from perdure.pipeline.recipe import Recipe
from tests.pipeline.evaluate.leaked import HALF, PLANTED, PROBES, SHORT, VOCABULARY, documents
from tests.pipeline.evaluate.made_up import make_recipe, write_run


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    return make_recipe(tmp_path / "run")


@pytest.fixture(scope="session")
def run() -> Callable:
    """`write_run`, for tests, which cannot import this file."""
    return write_run


@pytest.fixture(scope="session")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict:
    """The report of the whole run, finished."""
    recipe = make_recipe(tmp_path_factory.mktemp("finished"))
    return summarize(recipe, write_run(recipe, list(recipe.versions)))


@pytest.fixture(scope="session")
def page(report: dict) -> str:
    """Its page."""
    return render_page(report)


@pytest.fixture
def corpus(tmp_path):
    """Source a with the planted passage in its second shard and half of it in its first; source b with a near duplicate."""
    tokenizer = tmp_path / "tokenizer"
    tokenizer.mkdir()
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(VOCABULARY)}, unk_token="<eos>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.save(str(tokenizer / "tokenizer.json"))
    facts = {"eos_id": 0, "vocab_size": len(VOCABULARY), "tokenizer_hash": "test"}
    finish(tokenizer, facts | {"parse_special_tokens": False})
    heldout = documents(7)[:5]
    near = np.concatenate([heldout[2][3:30], documents(9)[0]])
    data = {
        "a": write_data(
            tmp_path / "data/a", [documents(1, HALF), documents(2, PLANTED, SHORT)], heldout, len(VOCABULARY)
        ),
        "b": write_data(tmp_path / "data/b", [[*documents(3), near]], documents(8)[:4], len(VOCABULARY)),
    }
    facts = tmp_path / "facts.jsonl"
    facts.write_text("".join(json.dumps(item) + "\n" for item in PROBES))
    return tiny_recipe(tmp_path, evaluation__probes=[str(facts)]), data, tokenizer
