"""Averages of a run's checkpoints, under every layout: against the exports of those checkpoints, summed here in fp64."""

import shutil
from functools import partial

import pytest
import torch
import yaml
from run_recipe import perdure
from safetensors.torch import load_file
from support import on_rank, start_ranks
from tiny import prepare_version, tiny_recipe

from perdure.pipeline.model.huggingface import weights_hash, weights_reader
from tests.pipeline.train.plain_layouts import DISTRIBUTED, LAYOUTS

pytestmark = pytest.mark.slow

STEPS, DECAY = 8, 0.75
WEIGHTS = [[2, 0.5], [4, 0.125], [6, 0.25], [8, 0.125]]


@pytest.fixture(scope="module", params=["fp32", "bf16"])
def trained(request, tmp_path_factory):
    """A version with checkpoints at 2, 4, 6 and 8 and a running average, and the precision."""
    recipe = tiny_recipe(
        tmp_path_factory.mktemp(request.param),
        versions__v1__tokens=32 * 8 * STEPS,
        versions__v1__keep={"every": 2},
        parallel=DISTRIBUTED,
        training__precision=request.param,
        training__ema=DECAY,
    )
    version = prepare_version(recipe)
    outcome = start_ranks(version, 2)
    assert outcome.returncode == 0, outcome.stderr
    return version, request.param


on_averaging_rank = partial(on_rank, script="averaging_ranks.py")


def averaged(version, to, weights, shape="uniform", layout="tp1"):
    """The export of an average under a layout."""
    (place := to / layout).mkdir()
    tree = yaml.safe_load((version / "recipe.yaml").read_text()) | {"parallel": LAYOUTS[layout]}
    (place / "recipe.yaml").write_text(yaml.safe_dump(tree))
    shutil.copy(version / "inputs.json", place)
    ranks = 1 if layout == "tp1" else 2
    on_averaging_rank("export_average", place, version, weights, shape, place / "hf", ranks=ranks)
    return place / "hf"


def test_the_average_is_the_sum_of_the_fp32_weights_under_every_layout(trained, tmp_path):
    """Bit for bit that of the stored tensors, rounded to the export's type."""
    version, precision = trained
    on_averaging_rank(
        "summed_plainly",
        version,
        WEIGHTS,
        "optimizer.state.fp32_param." if precision == "bf16" else "",
        tmp_path / "expected.safetensors",
    )
    expected = load_file(tmp_path / "expected.safetensors")
    exports = {layout: averaged(version, tmp_path, WEIGHTS, layout=layout) for layout in LAYOUTS}
    found = weights_reader(exports["tp1"])
    for name, tensor in expected.items():
        assert torch.equal(found(name), tensor.to(found(name).dtype)), name
    assert len(expected) == 10
    assert len({weights_hash(export) for export in exports.values()}) == 1


def test_one_checkpoint_is_its_export_bit_for_bit(trained, tmp_path):
    """That of `perdure export`, in all tensors, those that are stored as several or joined, too."""
    version, _ = trained
    result = perdure("export", version.parents[1], "v1", "--step", 4, "--to", tmp_path / "four")
    assert result.returncode == 0, result.stderr
    for layout in ("tp1", "tp2"):
        one = averaged(version, tmp_path, [[4, 1.0]], layout=layout)
        assert weights_hash(one) == weights_hash(tmp_path / "four")
        assert (one / "config.json").read_bytes() == (tmp_path / "four" / "config.json").read_bytes()


def test_the_running_average_is_taken_from_where_it_is_kept(trained, tmp_path):
    version, _ = trained
    on_averaging_rank(
        "summed_plainly", version, [[STEPS, 1.0]], "optimizer.state.ema.", tmp_path / "expected.safetensors"
    )
    found = weights_reader(averaged(version, tmp_path, [[STEPS, 1.0]], "ema", "pp2"))
    plain = weights_reader(version / "hf")
    for name, tensor in load_file(tmp_path / "expected.safetensors").items():
        assert torch.equal(found(name), tensor.to(found(name).dtype)), name
        assert not torch.equal(found(name), plain(name))
