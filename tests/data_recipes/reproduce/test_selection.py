"""Tables of selection on noisy text from reports made by hand."""

from pathlib import Path

from perdure.data_recipes.reproduce import selection
from perdure.pipeline.recipe import load_recipe

VERSIONS = ["base", "reference", selection.CONTROL, *selection.ARMS]


def made_up(shift: float) -> dict:
    losses = {name: 4.0 + shift + number / 10 for number, name in enumerate(VERSIONS)}
    return {
        "versions": [{"id": name} for name in VERSIONS],
        "domains": ["noisy", "clean"],
        "loss_matrix": [[9.0, 9.0], *([1.0, loss] for loss in losses.values())],
        "stability_gap": {
            name: {"tokens": [0, 2048], "loss": {"clean": [5.0, loss]}} for name, loss in losses.items()
        },
    }


def test_gains_are_against_plain_training_of_the_same_seed():
    rows = selection.gains([made_up(0.0), made_up(0.5)]).splitlines()
    assert rows[0] == "| version | seed 1 | seed 2 | mean | less `plain` |"
    assert rows[2] == "| `base` | 4.000 | 4.500 | 4.250 (0.354) | -0.200 (0.000) |"
    assert rows[5] == "| `excess` | 4.300 | 4.800 | 4.550 (0.354) | +0.100 (0.000) |"
    assert len(rows) == 2 + len(VERSIONS)


def test_what_is_kept_of_noise():
    rates = [{"clean": 0.8, "noise": 0.2, "html": 0.2}, {"clean": 0.6, "noise": 0.3, "html": 0.3}]
    each = [{row: {"rates": found, "separation": 0.75} for row in selection.ROWS} for found in rates]
    rows = selection.kept(each).splitlines()
    assert rows[0] == "| chosen by | clean | noise | html | noise / clean | AUC |"
    assert rows[2] == (
        "| `excess` | 0.700 (0.141) | 0.250 (0.071) | 0.250 (0.071) | 0.38 (0.18) | 0.750 (0.000) |"
    )
    picture = selection.kinds_kept(each)
    assert ">html<" in picture and ">noise<" not in picture
    assert ">excess<" in selection.clean_loss([made_up(0.0), made_up(0.5)], "bits per byte")


def test_arms_are_the_recipes():
    recipe = load_recipe(Path(__file__).parents[3] / "data_recipes" / "noisy_web.yaml")
    assert list(recipe.versions) == VERSIONS and recipe.evaluation.interval
    for arm in selection.ARMS:
        assert recipe.versions[arm].selection is not None
    chosen = recipe.versions["smoothed"].selection
    assert selection.ARMS["smoothed"] == f"{chosen.score} +-{chosen.smoothing}"
    assert selection.SMOOTHING == chosen.smoothing == 16
