"""Model directories as files: bounded memory, bounded shards, nothing unpickled, broken ones refused."""

import json
import os
import pickle
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file

from perdure.pipeline.core.errors import PerdureError
from perdure.pipeline.model.huggingface import copy_model, tensor_files, weights_hash, weights_reader

SHARDS, TENSORS, MIB = 12, 4, 1 << 20
MEASURE = r"""
import re, sys
from pathlib import Path
from perdure.pipeline.model.huggingface import copy_model, weights_hash

def resident(what):
    return int(re.search(what + r":\s+(\d+)", Path("/proc/self/status").read_text())[1]) * 1024

source, to = map(Path, sys.argv[1:])
weights_hash(to.parent)
before = resident("VmRSS")
Path("/proc/self/clear_refs").write_text("5")  # the high-water mark begins anew
copy_model(source, to, 40 << 20)
copied = resident("VmHWM")
weights_hash(to)
print(copied - before, resident("VmHWM") - before)
"""


@pytest.fixture(scope="module")
def sharded(tmp_path_factory):
    """Twelve files of 40 MiB, four tensors each."""
    directory = tmp_path_factory.mktemp("sharded")
    weight_map = {}
    for shard in range(SHARDS):
        name = f"model-{shard + 1:05d}-of-{SHARDS:05d}.safetensors"
        tensors = {f"layers.{shard}.{i}": torch.full((10, MIB // 4), shard + i / 8) for i in range(TENSORS)}
        save_file(tensors, directory / name, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(tensors, name)
    (directory / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": weight_map})
    )
    (directory / "config.json").write_text("{}")
    return directory


def test_memory_stays_below_one_and_a_half_shards_and_a_layer(sharded, tmp_path):
    """480 MiB pass through; the peak of resident memory, mapped files included, grows by a shard or so."""
    command = [sys.executable, "-c", MEASURE, str(sharded), str(tmp_path / "copy")]
    save_file({"x": torch.zeros(8)}, tmp_path / "model.safetensors")
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    copied, hashed = map(int, result.stdout.split())
    shard, layer = 40 * MIB, 10 * MIB
    assert shard < copied <= 1.5 * shard + layer
    assert hashed <= 1.5 * shard + layer


def test_a_copy_has_the_same_tensors_in_files_of_the_size_asked_for(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    tensors = {f"t{number}": torch.randn(100, number + 1) for number in range(20)}
    save_file(tensors, source / "model.safetensors")
    (source / "generation_config.json").write_text('{"top_k": 5}')
    for bound, files in ((1 << 30, 1), (30_000, None)):
        copy_model(source, to := tmp_path / f"copy{bound}", bound)
        assert weights_hash(to) == weights_hash(source)
        assert (to / "generation_config.json").read_text() == '{"top_k": 5}'
        found = list(to.glob("*.safetensors"))
        assert len(found) == files if files else len(found) > 2
        assert all(path.stat().st_size < bound + 2000 for path in found)
        assert not list(to.glob(".*"))


class Planted:
    def __reduce__(self):
        return os.mkdir, (os.environ["PLANTED"],)


@pytest.fixture
def planted(tmp_path, monkeypatch):
    """A directory whose pickles, if read, make the directory `ran`."""
    monkeypatch.setenv("PLANTED", str(tmp_path / "ran"))
    directory = tmp_path / "model"
    directory.mkdir()
    for name in ("pytorch_model.bin", "optimizer.pt", "training_args.bin", "scheduler.pt"):
        (directory / name).write_bytes(pickle.dumps(Planted()))
    return directory


def test_a_model_that_is_only_a_pickle_is_refused_unread(planted, tmp_path):
    with pytest.raises(PerdureError, match=r"pytorch_model\.bin: a pickle can run code .* convert"):
        weights_reader(planted)
    assert not (tmp_path / "ran").exists()
    pickle.loads((planted / "pytorch_model.bin").read_bytes())
    assert (tmp_path / "ran").exists()  # the plant works


def test_pickles_beside_safetensors_are_never_read(planted, tmp_path):
    from transformers import LlamaConfig, LlamaForCausalLM

    from perdure.pipeline.data.score.losses import load_model

    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    LlamaForCausalLM(LlamaConfig(vocab_size=16, **sizes)).save_pretrained(planted)
    weights_hash(planted)
    copy_model(planted, tmp_path / "copy", 1 << 30)
    load_model(planted, "fp32", "cpu")
    (planted / "model.safetensors").rename(planted / "other.safetensors")
    with pytest.raises(PerdureError, match="cannot be loaded"):
        load_model(planted, "fp32", "cpu")
    assert not (tmp_path / "ran").exists()
    assert not any(path.suffix in (".bin", ".pt") for path in (tmp_path / "copy").iterdir())


def test_broken_directories_are_one_line(sharded, tmp_path):
    with pytest.raises(PerdureError, match=r"no model\.safetensors"):
        tensor_files(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"half a fi")
    with pytest.raises(PerdureError, match="not readable as safetensors"):
        weights_reader(tmp_path)
    with pytest.raises(PerdureError, match=r"has no tensor model\.norm"):
        weights_reader(sharded)("model.norm")
    (tmp_path / "model.safetensors").rename(tmp_path / "other.safetensors")
    index = tmp_path / "model.safetensors.index.json"
    for name in ("model-1.safetensors", "../model.safetensors"):
        index.write_text(json.dumps({"metadata": {}, "weight_map": {"x": name}}))
        with pytest.raises(PerdureError, match="not in the directory; copy it again"):
            tensor_files(tmp_path)
