"""A run directory that version 0.1 made, killed between two checkpoints of its second version, is continued as if nothing
happened."""

import contextlib
import json
import tarfile
from pathlib import Path

import pytest
import torch
from run_recipe import perdure

from perdure.pipeline.core.files import read_json

pytestmark = pytest.mark.slow

KEPT = Path(__file__).parent / "kept"
UNDISTURBED = read_json(KEPT / "run-0.1.json")
"""What 0.1 made of the same recipe without the kill: hashes of weights, losses of every step, and the kind of CPU it had."""


def losses_of(out: Path, version: str) -> list[float]:
    lines = (out / "versions" / version / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["loss"] for line in lines]


@pytest.fixture(scope="module")
def continued(tmp_path_factory):
    """The run's directory, and what `perdure run` said when it went on."""
    directory = tmp_path_factory.mktemp("kept")
    with tarfile.open(KEPT / "run-0.1.tar.xz") as archive:
        archive.extractall(directory, filter="data")
    with contextlib.chdir(directory):  # its paths are relative
        result = perdure("run", "kept.yaml")
    assert result.returncode == 0, result.stderr
    return directory / "out", result.stdout


def test_nothing_finished_is_made_again(continued):
    out, said = continued
    assert "version base: finished" in said
    assert all(len(list((out / "data").glob(f"{source}@*"))) == 1 for source in ("prose", "code"))
    steps = [
        json.loads(line)["step"] for line in (out / "versions/update/metrics.jsonl").read_text().splitlines()
    ]
    assert steps == list(range(1, 17))


@pytest.mark.parametrize("version", ["update", "selected"])
def test_it_ends_as_if_undisturbed(continued, version):
    out, _ = continued
    expected = UNDISTURBED["versions"][version]
    losses = losses_of(out, version)
    assert losses == pytest.approx(expected["loss"], abs=1e-4)
    # Kinds of CPU round otherwise, those of one name by different makers, too: `selected` begins with weights of the record.
    first = losses_of(out, "selected")[0], UNDISTURBED["versions"]["selected"]["loss"][0]
    if torch.backends.cpu.get_cpu_capability() != UNDISTURBED["cpu"] or first[0] != first[1]:
        pytest.skip("this CPU rounds otherwise than that of the record: compared to 1e-4 alone")
    assert losses == expected["loss"]
    assert read_json(out / "versions" / version / "version.json")["weights_hash"] == expected["weights_hash"]
