"""Checkpoints as they may come from others: code in pickles, and files half written."""

import os
import pickle
import shutil

import pytest
import torch
from support import start_ranks
from tiny import prepare_version, tiny_recipe
from torch.distributed.checkpoint.metadata import BytesStorageMetadata

from perdure.pipeline.core.errors import PerdureError
from perdure.pipeline.train.pickles import refuse_code

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cut(tmp_path_factory):
    """A version that has a checkpoint of step 5 and is not finished."""
    version = prepare_version(tiny_recipe(tmp_path_factory.mktemp("cut"), versions__v1__tokens=32 * 8 * 5))
    outcome = start_ranks(version, 1)
    assert outcome.returncode == 0, outcome.stderr
    for file in ("_SUCCESS", "version.json"):
        (version / file).unlink()
    return version


class Planted:
    """Runs a command when it is unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return (os.system, (f"touch {self.mark}",))


def plant(checkpoint, file, mark):
    """Puts a pickle that runs a command where Megatron or torch would read it."""
    if file == "common.pt":
        torch.save({"state": Planted(mark)}, checkpoint / file)
        return
    with (checkpoint / ".metadata").open("rb") as stream:
        metadata = pickle.load(stream)
    if file == ".metadata":
        metadata.planner_data = Planted(mark)
    else:  # a weight that claims to be an object
        index = next(
            index for index in metadata.storage_data if index.fqn == "decoder.final_layernorm.weight"
        )
        place = metadata.storage_data[index]
        torch.save(Planted(mark), checkpoint / "__9_9.distcp")
        place.relative_path, place.offset = "__9_9.distcp", 0
        place.length = (checkpoint / "__9_9.distcp").stat().st_size
        metadata.state_dict_metadata[index.fqn] = BytesStorageMetadata()
    with (checkpoint / ".metadata").open("wb") as stream:
        pickle.dump(metadata, stream)


@pytest.mark.parametrize("file", [".metadata", "common.pt", "object"])
def test_code_in_a_checkpoint_is_not_run(cut, tmp_path, file):
    checkpoint, mark = tmp_path / "step_000005", tmp_path / "mark"
    shutil.copytree(cut / "checkpoints" / "step_000005", checkpoint)
    refuse_code(checkpoint)
    plant(checkpoint, file, mark)
    with pytest.raises(PerdureError, match="holds something other than data"):
        refuse_code(checkpoint)
    assert not mark.exists()
    if file == ".metadata":  # that it would have run
        with (checkpoint / ".metadata").open("rb") as stream:
            pickle.load(stream)
        assert mark.exists()


def test_a_planted_or_half_written_checkpoint_is_one_line(cut, tmp_path):
    version, mark = tmp_path / "version", tmp_path / "mark"
    shutil.copytree(cut, version)
    plant(version / "checkpoints" / "step_000005", ".metadata", mark)
    (version / "checkpoints" / "step_000005" / "hashes.json").unlink()  # whoever plants code can do that, too
    (version / "checkpoints" / ".step_000010.7").mkdir()
    outcome = start_ranks(version, 1)
    assert outcome.returncode != 0 and not mark.exists()
    assert ".step_000010.7: half-written, so it is removed" in outcome.stdout
    (line,) = [line for line in outcome.stderr.splitlines() if line.startswith("error:")]
    assert "step_000005/.metadata: holds something other than data (posix.system)" in line
    assert not (version / "checkpoints" / ".step_000010.7").exists()
