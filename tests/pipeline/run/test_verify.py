"""`perdure verify`: what it reads, and what it says of a wrong directory."""

import pytest

from perdure.pipeline.cli.entry import main
from perdure.pipeline.core import remembered_hashes
from perdure.pipeline.core.files import read_json, write_json
from perdure.pipeline.core.integrity import require_whole
from perdure.pipeline.core.manifest import finish
from perdure.pipeline.core.remembered_hashes import VERIFIED
from perdure.pipeline.model.exports import version_files


@pytest.mark.parametrize(
    ("place", "said"), [("absent", "no such directory"), (".", "nothing of Perdure's is here")]
)
def test_a_wrong_directory_is_named_in_one_line(tmp_path, capsys, place, said):
    assert main(["verify", str(tmp_path / place)]) == 1
    error = capsys.readouterr().err
    assert said in error and "--debug" not in error and len(error.splitlines()) == 1


def test_everything_is_read_whatever_was_compared_before(tmp_path, capsys, monkeypatch):
    """A record that says of a damaged file that it was found right: a start believes it, a verification does not."""
    monkeypatch.setattr(remembered_hashes, "TICK_SECONDS", -1)
    directory = tmp_path / "data" / "web@0123abcd"
    directory.mkdir(parents=True)
    (directory / "0.bin").write_bytes(b"right")
    finish(directory, {"source": "web"})
    recorded = read_json(directory / VERIFIED)["0.bin"]["hash"]
    (directory / "0.bin").write_bytes(b"wrong")
    state = remembered_hashes.file_state(directory / "0.bin", directory.resolve())
    write_json(directory / VERIFIED, {"0.bin": {"hash": recorded, "files": [state]}})
    require_whole(directory)
    assert main(["verify", str(tmp_path)]) == 1
    assert f"damaged  {directory / '0.bin'}: damaged: SHA-256" in capsys.readouterr().err


def test_a_finished_version_has_hashes_of_all_that_is_its_own(tmp_path):
    """Weights have one of their own; plan and checkpoints have theirs; what reports and TensorBoard write may change."""
    own = ["recipe.yaml", "inputs.json", "version.json", "metrics.jsonl", "passage.json", "chosen.json"]
    own += ["eval.json", "eval_initial.json", "eval_documents.parquet", "eval_initial_documents.parquet"]
    own += ["eval_probes.parquet", "hf/config.json", "hf/tokenizer.json", "hf/model.safetensors.index.json"]
    others = [
        "hf/model.safetensors",
        "plan/plan.json",
        "checkpoints/step_000005/state.json",
        "tb/events",
        "fence",
    ]
    for name in (*own, *others):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("{}")
    assert sorted(set(version_files(tmp_path))) == sorted(own)
