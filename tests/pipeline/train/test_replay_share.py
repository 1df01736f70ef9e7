"""Replay beside selection, trained for real: the share that is measured, and runs whose share meant what is read."""

import shutil

import pytest
import yaml
from support import metrics, run_versions
from tiny import tiny_recipe

from perdure.pipeline.core.errors import PerdureError
from perdure.pipeline.core.files import read_json, write_json
from perdure.pipeline.core.paths import VersionPaths

pytestmark = pytest.mark.slow

STEP = 32 * 8
SHARE = 0.2


def recipe_of(out, k=0.6, **replay):
    mixture = {
        "sources": {"a": {}},
        "replay": {"share": SHARE, "sources": {"b": {}}} | replay,
        "max_repetition": 100,
    }
    v1 = {"start": {"type": "init"}, "tokens": 20 * STEP, "mixture": mixture}
    v1 |= {"schedule": {"type": "constant", "max_lr": 0.01}, "selection": {"k": k, "score": "random"}}
    return tiny_recipe(out, versions={"v1": v1})


@pytest.fixture(scope="module")
def read(tmp_path_factory):
    recipe = recipe_of(tmp_path_factory.mktemp("read"), share_of="read")
    run_versions(recipe)
    return recipe


def measured(recipe) -> tuple[float, float]:
    """Shares of replay in the samples read, and in the tokens trained on."""
    directory = recipe.directory / "versions" / "v1"
    lines, plan = metrics(directory), read_json(directory / "plan" / "plan.json")
    counts = plan["phases"][0]["counts"]
    replayed, trained = (sum(line[key] for line in lines) for key in ("replayed_tokens", "trained_tokens"))
    assert trained == sum(line["selected_tokens"] + line["replayed_tokens"] for line in lines)
    return counts["replay/b"] / sum(counts.values()), replayed / trained


def test_the_share_is_that_of_the_tokens_trained_on_whatever_is_selected(read, tmp_path):
    """160 samples, so that a sample more or less is within 0.01."""
    of_read, of_trained = measured(read)
    assert of_read == 0.2 and of_trained == pytest.approx(5 / 17, abs=0.015)  # 29%, as it was
    for k, share_read in ((0.6, 3 / 23), (1.0, 1 / 5)):
        recipe = recipe_of(tmp_path / str(k), k=k)
        run_versions(recipe)
        of_read, of_trained = measured(recipe)
        assert of_read == pytest.approx(share_read, abs=1e-12) and of_trained == pytest.approx(
            SHARE, abs=0.015
        )


def test_a_run_of_an_earlier_release_is_continued_bit_for_bit_by_its_old_meaning(read, tmp_path):
    """As 0.1 left it half trained: no `share_of` anywhere, and metrics that count padding and no replayed tokens."""
    out = tmp_path / "out"
    shutil.copytree(read.directory, out)
    cut = out / "versions" / "v1"
    for step, path in VersionPaths(cut).finished_checkpoints().items():
        if step > 15:
            shutil.rmtree(path)
    for name in ("_SUCCESS", "manifest.json", "version.json", "eval.json"):
        (cut / name).unlink()
    tree = yaml.safe_load((cut / "recipe.yaml").read_text())
    assert tree["versions"]["v1"]["mixture"]["replay"].pop("share_of") == "read"
    (cut / "recipe.yaml").write_text(yaml.safe_dump(tree))
    inputs = read_json(cut / "inputs.json")
    assert "share_of" not in inputs["identity"]["version"]["mixture"]["replay"]
    data = {name: str(out / "data" / name) for name in inputs["data"]}
    write_json(cut / "inputs.json", inputs | {"data": data})
    with pytest.raises(PerdureError, match=r"v1\.mixture\.replay\.share_of: read keeps it"):
        run_versions(recipe_of(out))
    said = run_versions(recipe_of(out, share_of="read"))
    assert any("version v1" in line for line in said)
    expected = read.directory / "versions" / "v1"
    timed = ("tokens_per_second",)
    lines = [
        [{key: value for key, value in line.items() if key not in timed} for line in metrics(directory)]
        for directory in (expected, cut)
    ]
    assert lines[0] == lines[1] and len(lines[0]) == 20
    assert (
        read_json(cut / "version.json")["weights_hash"]
        == read_json(expected / "version.json")["weights_hash"]
    )
