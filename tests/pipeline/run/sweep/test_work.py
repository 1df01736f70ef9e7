"""A real sweep: killed and started again, edited, with a run that fails."""

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from perdure.pipeline.core.files import read_json
from perdure.pipeline.core.manifest import is_finished
from perdure.pipeline.train import fence

pytestmark = pytest.mark.slow

STEP = 32 * 4
TREE = {
    "name": "tiny",
    "sources": {
        "old": {"reader": {"type": "jsonl", "path": "old.jsonl"}, "heldout_fraction": 0.2},
        "new": {"reader": {"type": "jsonl", "path": "new.jsonl"}, "heldout_fraction": 0.2},
    },
    "data": {"workers": 1},
    "tokenizer": {"type": "train", "vocab_size": 300, "sources": ["old"]},
    "model": {
        "type": "llama",
        **{"num_layers": 1, "hidden_size": 16, "ffn_hidden_size": 32},
        **{"num_attention_heads": 2, "num_query_groups": 1},
    },
    "training": {
        **{"seq_length": 32, "micro_batch_size": 4, "global_batch_size": 4},
        **{"checkpoint_interval": 2, "async_checkpoint": False},
    },
    "versions": {
        "base": {
            "start": {"type": "init"},
            "tokens": STEP * 4,
            "mixture": {"sources": {"old": {}}},
            "schedule": {"type": "constant", "max_lr": 0.01},
        },
        "update": {
            "start": {"type": "update", "parent": "base"},
            "tokens": STEP * 6,
            "mixture": {"sources": {"new": {}}, "replay": {"share": 0.5, "sources": {"old": {}}}},
            "schedule": {"type": "constant", "max_lr": 0.01},
        },
    },
    "evaluation": {"max_tokens": 500},
}
SHARES = [0, 0.25, 0.75]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("a sweep")
    rng = random.Random(5)
    for name in ("old", "new"):
        words = ["".join(rng.choices("abcdefghijklmnop", k=rng.randint(2, 8))) for _ in range(100)]
        lines = [json.dumps({"text": " ".join(rng.choices(words, k=50))}) for _ in range(40)]
        (directory / f"{name}.jsonl").write_text("\n".join(lines))
    (directory / "tiny.yaml").write_text(yaml.safe_dump(TREE))
    write(directory, SHARES)
    return directory


def write(folder: Path, shares: list[float], **more) -> None:
    sweep = {"recipe": "tiny.yaml", "out": "out", "over": {"versions.update.mixture.replay.share": shares}}
    (folder / "sweep.yaml").write_text(yaml.safe_dump(sweep | more))


def start(folder: Path, *options: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "perdure.pipeline.cli", "sweep", "sweep.yaml", *options]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, cwd=folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def versions(out: Path) -> dict[str, tuple[int, bool]]:
    """Starts of every version that was begun, and whether it is whole."""
    return {
        path.parent.name: (fence.newest(path.parent)[0], is_finished(path.parent))
        for path in out.glob("versions/*/fence")
    }


def kill_when(process: subprocess.Popen, happened) -> None:
    while not happened():
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.005)
    process.kill()
    process.communicate()


@pytest.mark.timeout(1200)
def test_killed_twice_edited_and_failing_it_does_no_run_twice(folder):
    out = folder / "out"
    kill_when(start(folder), lambda: sum(whole for _, whole in versions(out).values()) >= 2)
    first = versions(out)
    # The second time in the middle of a version's training, right after a checkpoint.
    kill_when(
        start(folder),
        lambda: (
            len(versions(out)) > len(first) + 1
            and any(
                not is_finished(path.parents[2])
                for path in out.glob("versions/*/checkpoints/step_*/_SUCCESS")
            )
        ),
    )
    second = versions(out)
    assert (
        sum(whole for _, whole in first.values())
        < sum(whole for _, whole in second.values())
        < len(SHARES) + 1
    )
    # Meanwhile a value is added.
    write(folder, [*SHARES, 0.9])
    process = start(folder)
    said, errors = process.communicate()
    assert process.returncode == 0, errors
    found = read_json(out / "sweep.json")
    assert [run["status"] for run in found["runs"]] == ["whole"] * (len(SHARES) + 1)
    assert [row["setting"] for row in found["rows"]] == [
        {key: value} for key in found["over"] for value in [*SHARES, 0.9]
    ]
    for run, row in zip(found["runs"], found["rows"]):
        report = read_json(out / run["directory"] / "report.json")
        assert report["versions"][1]["planned_steps"] == 6
        expected = dict(zip(report["domains"], report["loss_matrix"][-1]))
        assert {domain: spread["mean"] for domain, spread in row["losses"].items()} == expected
        assert None not in expected.values() and (out / run["directory"] / "report" / "index.html").exists()
    third = versions(out)
    assert len(third) == len(SHARES) + 2 and all(whole for _, whole in third.values())  # one base for all
    # Nothing that was whole before a kill was begun again; the others once more for each kill that met them.
    for earlier, later in ((first, second), (second, third)):
        assert {name: later[name][0] for name, (_, whole) in earlier.items() if whole} == {
            name: starts for name, (starts, whole) in earlier.items() if whole
        }
    assert sum(starts for starts, _ in third.values()) <= len(SHARES) + 2 + 2
    assert said.count(": whole, skipped") == sum(whole for _, whole in second.values()) - 1
    assert "small" not in said and f"{len(SHARES) + 1} of {len(SHARES) + 1} runs whole" in said
    table = [line.split() for line in said.splitlines() if line.startswith("share ")]
    rows = [["share", str(share), "1", "of", "1"] for share in [*SHARES, 0.9]]
    assert [line[:5] for line in table] == rows * 2  # in nats per token, and in bits per byte

    board = EventAccumulator(str(out / "runs" / "share=0.9" / "tb"))
    board.Reload()
    (event,) = board.Scalars("heldout_loss/update/old")
    assert event.value == pytest.approx(found["rows"][-1]["losses"]["old"]["mean"])
    (event,) = board.Scalars("heldout_bits_per_byte/update/old")
    in_bits = found["rows"][-1]["in_bits_per_byte"]["losses"]["old"]["mean"]
    assert event.value == pytest.approx(in_bits) and in_bits != found["rows"][-1]["losses"]["old"]["mean"]
    assert "_hparams_/session_start_info" in board.Tags()["scalars"] or board.summary_metadata

    # A value that diverges, and one that does not, on top of what is there.
    rate = [
        "--over",
        "versions.update.schedule.max_lr=1e30,0.01",
        "--over",
        "versions.update.mixture.replay.share=0.9",
    ]
    process = start(folder, *rate)
    said, errors = process.communicate()
    assert process.returncode == 1
    assert errors.strip().splitlines()[-1].startswith("error: 1 of 2 runs failed: share=0.9,max_lr=1e30; ")
    assert "1 of 2 runs whole" in said and versions(out).keys() > third.keys()
    assert read_json(out / "sweep.json")["rows"][0]["losses"] == {"old": None, "new": None}
