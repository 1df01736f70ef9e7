"""Finished versions that are measured again, and why."""

import time
from concurrent.futures import ThreadPoolExecutor
from unittest.mock import patch

import pytest
from messages import messages
from tiny import random_data, tiny_recipe, write_export

from perdure.pipeline.core.errors import PerdureError
from perdure.pipeline.core.files import read_json, write_json
from perdure.pipeline.core.locks import lock
from perdure.pipeline.core.manifest import finish
from perdure.pipeline.evaluate.record import evaluation, initial_evaluation, later_directory, measured_on
from perdure.pipeline.evaluate.sampling import RULE
from perdure.pipeline.run import run
from perdure.pipeline.run.version_inputs import version_inputs


@pytest.fixture
def finished(tmp_path):
    """A version that was measured before documents were kept apart, as the code of then left it."""
    recipe = tiny_recipe(tmp_path)
    data, _, tokenizer = random_data(tmp_path)
    directory = tmp_path / "versions" / "v1"
    with patch("perdure.pipeline.data.stage.tokenizer_directory", return_value=tokenizer):
        inputs = version_inputs(recipe, "v1", data, [])
        write_json(directory / "inputs.json", inputs)
        write_json(directory / "eval.json", {"measured": inputs["measured"], "domains": {}})
        write_json(directory / "version.json", {"weights_hash": write_export(directory)})
        finish(directory, {"files": {}})  # tests edit them
        yield directory, data


def asked(finished, documents, **changes):
    directory, data = finished
    with messages() as said:
        place, _ = run.prepare_version(tiny_recipe(directory.parents[1], **changes), "v1", data, documents)
    return place, said[0].removeprefix("version v1: ")


def started(finished, documents=False, **changes):
    """Measures it, but for the ranks themselves; returns what they were told to do where, and the words before."""
    directory, data = finished
    starts = []
    starting = patch("perdure.pipeline.train.ranks.start", lambda *arguments: starts.append(arguments))
    with messages() as said, starting:
        run.make_version(tiny_recipe(directory.parents[1], **changes), "v1", data, documents)
    return starts, said[0].removeprefix("version v1: ")


def later(finished, **changes):
    """Where a finished version is measured again."""
    directory, data = finished
    return later_directory(directory, measured_on(tiny_recipe(directory.parents[1], **changes), data))


def test_a_run_leaves_old_measurements_alone(finished):
    assert asked(finished, documents=False) == (None, "finished, skipped")


def test_eval_adds_the_documents_once(finished):
    again = "finished; documents were not kept apart yet, so it is measured again"
    assert asked(finished, documents=True) == (later(finished), again)
    later(finished).mkdir()
    (later(finished) / "eval.json").touch()
    (later(finished) / "eval_documents.parquet").touch()
    finish(later(finished), {})
    assert asked(finished, documents=True) == (None, "finished, skipped")


def test_other_probes_and_budgets_are_measured(finished, tmp_path):
    facts = tmp_path / "facts.jsonl"
    facts.write_text('{"id": "a", "kind": "new", "question": "t1", "choices": ["t2", "t3"], "answer": "t3"}')
    own = (finished[0] / "inputs.json").read_bytes()
    for changes, what in (
        ({"evaluation__probes": [str(facts)]}, "probes"),
        ({"evaluation__max_tokens": 400}, "held-out documents"),
    ):
        place = later(finished, **changes)
        assert started(finished, **changes) == (
            [(place, 1, "evaluate")],
            f"finished; other {what}, so it is measured again",
        )
        # The ranks read what they measure there; what the version was made from stays as it was.
        assert (
            read_json(place / "inputs.json")["measured"] != read_json(finished[0] / "inputs.json")["measured"]
        )
        assert (finished[0] / "inputs.json").read_bytes() == own


def test_the_first_documents_of_a_text_are_no_sample_of_it(finished):
    """An earlier release measured those: such numbers are not shown, and what is larger than the budget is measured again."""
    directory, data = finished
    on = measured_on(tiny_recipe(directory.parents[1]), data)
    assert "sampled" not in on  # all of it fits: measured as ever
    few = measured_on(tiny_recipe(directory.parents[1], evaluation__max_tokens=100), data)
    assert few["sampled"] == {"a": RULE, "b": RULE}
    earlier = {key: value for key, value in few.items() if key != "sampled"}
    for file in ("inputs.json", "eval.json"):
        write_json(directory / file, read_json(directory / file) | {"measured": earlier})
    assert evaluation(directory, earlier) is not None and evaluation(directory, few) is None
    (directory / "eval_initial.json").write_text("{}")  # before it said what it was measured on
    assert initial_evaluation([directory], on) is not None and initial_evaluation([directory], few) is None
    place = later(finished, evaluation__max_tokens=100)
    again = "finished; other held-out documents, so it is measured again"
    assert started(finished, evaluation__max_tokens=100) == ([(place, 1, "evaluate")], again)


def test_who_measures_at_the_moment_keeps_the_inputs_of_its_ranks(finished, said):
    """Two runs of a sweep share a version and measure it on the same text: the second waits, then has nothing to do."""
    change = {"evaluation__max_tokens": 400}
    place = later(finished, **change)
    place.mkdir()
    write_json(place / "inputs.json", {"of": "the first one"})
    with (place / ".lock").open("w") as file:
        assert lock(file.fileno(), place)
        with ThreadPoolExecutor() as pool:
            second, end = pool.submit(started, finished, **change), time.monotonic() + 60
            while not any("waiting for it" in line for line in said):
                assert time.monotonic() < end
                time.sleep(0.01)
            assert not second.done()
            assert read_json(place / "inputs.json") == {"of": "the first one"}
            finish(place, {})
            file.close()
            assert second.result()[0] == []
    assert read_json(place / "inputs.json") == {"of": "the first one"}


def test_what_is_measured_on_the_way_is_no_reason(finished):
    assert asked(finished, documents=False, evaluation__interval=5) == (None, "finished, skipped")


def test_bad_probes_are_refused_before_any_rank_starts(finished, tmp_path):
    facts = tmp_path / "facts.jsonl"
    facts.write_text('{"id": "a"}')
    with pytest.raises(PerdureError, match=r"facts.jsonl: line 1: kind is missing$"):
        asked(finished, documents=False, evaluation__probes=[str(facts)])
