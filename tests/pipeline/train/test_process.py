"""Signals that ask for a stop: real ones, on one and two ranks, during a step, a save and an evaluation."""

import os
import signal
import subprocess
import sys
import time

import pytest
from support import (
    metrics,
    prepare_version,
    random_documents,
    read_json,
    start_ranks,
    tiny_recipe,
    write_data,
)

from perdure.pipeline.train.checkpoint import finished_checkpoints

pytestmark = pytest.mark.slow
STOPPED = 42
STEPS = 25
INTERVAL = 10


def version_with_long_evaluation(out, ranks):
    recipe = tiny_recipe(
        out,
        versions__v1__tokens=32 * 8 * STEPS,
        parallel={"data_parallel": ranks},
        # On two ranks, held-out losses are measured on the way too.
        evaluation={"max_tokens": 10_000, "interval": INTERVAL if ranks == 2 else None},
    )
    for number, name in enumerate(("a", "b")):
        documents = [random_documents(10 * number + task, 60, 300) for task in range(2)]
        write_data(out / "data" / name, documents, random_documents(99 + number, 500, 300), 300)
    return prepare_version(recipe)


def stopped(version, ranks, number, when):
    """Starts ranks, sends the starter a signal as soon as `when` holds, and returns what they said."""
    code = (
        "import sys; from pathlib import Path; from perdure.pipeline.train import ranks; from perdure.pipeline.errors "
        f"import Stopped\ntry: ranks.start(Path({str(version)!r}), {ranks})\nexcept Stopped: sys.exit({STOPPED})"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        while not when():
            assert process.poll() is None, process.communicate()
            time.sleep(0.002)
        process.send_signal(number)
        said, errors = process.communicate(timeout=300)
    assert process.returncode == STOPPED, errors
    assert "Traceback" not in errors
    assert not list((version / "checkpoints").glob(".step_*"))
    return [line for line in said.splitlines() if line.startswith("stopped by")]


def newest(version):
    return [int(path.name[5:]) for path in finished_checkpoints(version / "checkpoints")]


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_signal_saves_once_and_the_rest_is_as_if_it_had_not_come(tmp_path, ranks):
    whole = version_with_long_evaluation(tmp_path / "whole", ranks)
    outcome = start_ranks(whole, ranks)
    assert outcome.returncode == 0, outcome.stderr
    cut = version_with_long_evaluation(tmp_path / "cut", ranks)

    lines = cut / "metrics.jsonl"
    # On two ranks that is where a measurement begins, whose losses are those of no step yet.
    first = INTERVAL if ranks == 2 else 2
    said = stopped(
        cut, ranks, signal.SIGTERM, lambda: lines.exists() and len(lines.read_text().splitlines()) >= first
    )
    (step,) = newest(cut)[-1:]
    assert said == [f"stopped by SIGTERM at step {step}: saved; run the same command again to go on"]
    assert first <= step < STEPS and len(metrics(cut)) == step

    before = newest(cut)
    said = stopped(cut, ranks, signal.SIGUSR1, lambda: list((cut / "checkpoints").glob(".step_*")))
    (step,) = newest(cut)[-1:]
    assert said == [f"stopped by SIGUSR1 at step {step}: saved; run the same command again to go on"]
    assert step > before[-1] and len(metrics(cut)) == step

    said = stopped(cut, ranks, signal.SIGTERM, lambda: newest(cut)[-1] == STEPS)
    assert len(said) == 1 and not (cut / "_SUCCESS").exists()
    assert newest(cut)[-1] == STEPS

    outcome = start_ranks(cut, ranks)
    assert outcome.returncode == 0, outcome.stderr
    assert f"resume at step {STEPS}" in outcome.stdout
    assert (
        read_json(cut / "version.json")["weights_hash"] == read_json(whole / "version.json")["weights_hash"]
    )
    assert read_json(cut / "eval.json") == read_json(whole / "eval.json")
    for left, right in zip(metrics(whole), metrics(cut), strict=True):
        assert left | {"tokens_per_second": 0} == right | {"tokens_per_second": 0}
