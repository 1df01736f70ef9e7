"""An instruct version of packed conversations beside replay and a selection: under every layout, killed and resumed."""

import signal

import numpy as np
import pytest
from support import metrics, start_ranks, stopped_at
from tiny import prepare_version, random_data, random_documents, tiny_recipe, write_masks

from perdure.pipeline.core.files import read_json
from perdure.pipeline.model.layout import layout_of
from tests.pipeline.train.plain_layouts import LAYOUTS

pytestmark = pytest.mark.slow

CHANGES = {
    "sources__a__reader": {"type": "jsonl", "path": "unused", "messages_field": "messages"},
    "training__document_mask": True,
    "versions__v1__tokens": 32 * 8 * 12,
    "versions__v1__objective": {"type": "instruct", "train_on": "last"},
    "versions__v1__selection": {"k": 0.6, "score": "random"},
    "versions__v1__mixture": {
        "sources": {"a": {}},
        "replay": {"share": 0.25, "sources": {"b": {"packing": "next_fit"}}},
        "max_repetition": 100,
    },
}


def prepared(out, **parallel):
    """Random documents of `a` with a mask: every second label, those of the second half of a document in its last turn."""
    recipe = tiny_recipe(out, parallel=parallel, **CHANGES)
    random_data(out)

    def masks(documents):
        found = [np.arange(len(document)) % 2 for document in documents]
        for mask in found:
            mask[len(mask) // 2 :] *= 2
        return found

    tasks = [masks(random_documents(task, 60, 300)) for task in range(2)]
    write_masks(out / "data" / "a", tasks, masks(random_documents(99, 12, 300)))
    return prepare_version(recipe), layout_of(recipe).world_size


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    finished = {}
    for name, parallel in LAYOUTS.items():
        directory, ranks = prepared(tmp_path_factory.mktemp(name), **parallel)
        outcome = start_ranks(directory, ranks)
        assert outcome.returncode == 0, outcome.stderr
        finished[name] = directory
    return finished


@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name != "tp1"])
def test_layouts_agree(runs, layout):
    expected, found = metrics(runs["tp1"]), metrics(runs[layout])
    assert len(found) == len(expected) == 12
    for left, right in zip(expected, found):
        assert (left["stream"], left["selection"]) == (right["stream"], right["selection"])
        assert right["loss"] == pytest.approx(left["loss"], abs=1e-4)
        assert right["grad_norm"] == pytest.approx(left["grad_norm"], abs=1e-4)
        assert left["tokens"] == right["tokens"] < left["budget_tokens"]
    assert read_json(runs[layout] / "eval.json")["domains"]["a"]["loss"] == pytest.approx(
        read_json(runs["tp1"] / "eval.json")["domains"]["a"]["loss"], abs=1e-4
    )


def test_labels_of_last_turns_are_selected_among_and_replay_is_whole(runs):
    """A quarter of `a`'s tokens are labels of last turns; of these 0.6 are trained on, and of `b` all."""
    plan = read_json(runs["tp1"] / "plan" / "plan.json")["sources"]
    assert (
        plan["a"]["packing"] == "best_fit"
        and plan["a"]["labels"] == "last"
        and plan["a"]["overlong"] == "drop"
    )
    assert plan["replay/b"]["packing"] == "next_fit" and "labels" not in plan["replay/b"]
    assert read_json(runs["tp1"] / "version.json")["objective"]["type"] == "instruct"
    lines = metrics(runs["tp1"])
    read = lines[-1]["tokens"]
    replayed = sum(line["replayed_tokens"] for line in lines)
    selected = sum(line["selected_tokens"] for line in lines)
    labels = (read - replayed) / 4
    assert selected == pytest.approx(0.6 * labels, rel=0.1)
    assert sum(line["trained_tokens"] for line in lines) == selected + replayed


def test_killed_and_resumed_it_is_the_same_bit_for_bit(runs, tmp_path):
    cut, ranks = prepared(tmp_path, **LAYOUTS["dp2"])
    assert stopped_at(cut, ranks, "trainer:train_step:8", signal.SIGKILL).returncode == -signal.SIGKILL
    outcome = start_ranks(cut, ranks)
    assert outcome.returncode == 0, outcome.stderr
    assert "resume at step 5" in outcome.stdout
    for left, right in zip(metrics(runs["dp2"]), metrics(cut), strict=True):
        left.pop("tokens_per_second"), right.pop("tokens_per_second")
        assert left == right
    hashes = [read_json(version / "version.json")["weights_hash"] for version in (runs["dp2"], cut)]
    assert hashes[0] == hashes[1]
