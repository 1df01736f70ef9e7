"""Recipes changed by chance: `check` says what is wrong, in one piece and bounded time, and what it accepts runs."""

import resource
from collections import Counter

import pytest
import yaml
from mutations import ODD, Outcome, check, originals, trials, write_inputs
from support import start_ranks

from perdure.pipeline.cli import entry
from perdure.pipeline.model.layout import layout_of
from perdure.pipeline.plan.plan import num_steps
from perdure.pipeline.recipe import load_recipe

COUNT, RUNS = 250, 2
SECONDS, BYTES = 5, 1 << 30
"""Most of the processor for one, and of memory for all together."""


@pytest.fixture(scope="module")
def tried(tmp_path_factory):
    """Recipes with what became of them."""
    directory = tmp_path_factory.mktemp("mutations")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(directory)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
        found = list(trials(directory, 0, COUNT))
        return directory, found, found[-1][-1].memory - before


def test_every_recipe_is_accepted_or_refused_in_words(tried):
    _, found, _ = tried
    wrong = {seed: outcome.said[-2000:] for seed, _, _, outcome in found if outcome.status not in (0, 2)}
    assert not wrong
    assert all(outcome.said.strip() for *_, outcome in found)
    statuses = Counter(outcome.status for *_, outcome in found)
    assert statuses[2] > COUNT // 2 and statuses[0] > COUNT // 50


def test_time_and_memory_are_bounded(tried):
    _, found, memory = tried
    assert {seed: outcome.seconds for seed, *_, outcome in found if outcome.seconds > SECONDS} == {}
    assert memory < BYTES


def test_the_recipes_themselves_are_accepted(tmp_path):
    write_inputs(tmp_path)
    for number, tree in enumerate(originals(tmp_path)):
        path = tmp_path / f"{number}.yaml"
        path.write_text(yaml.safe_dump(tree, sort_keys=False))
        assert check(path, tmp_path / "out").status == 0, tree["name"]


@pytest.mark.parametrize("value", [value for value in ODD if not isinstance(value, str)], ids=repr)
def test_odd_values_everywhere_at_once(tmp_path, monkeypatch, value):
    """Each section of the recipe with every kind of mixture replaced by one value."""
    monkeypatch.chdir(tmp_path)
    write_inputs(tmp_path)
    tree = originals(tmp_path)[-1]
    for section in tree:
        path = tmp_path / "r.yaml"
        path.write_text(yaml.safe_dump(tree | {section: value}, sort_keys=False))
        outcome = check(path, tmp_path / "out")
        assert outcome.status in (0, 2), (section, outcome.said[-2000:])


def small(path, outcome: Outcome) -> bool:
    """Whether a recipe was accepted and runs in seconds."""
    if outcome.status:
        return False
    recipe = load_recipe(path)
    steps = sum(num_steps(recipe, version) for version in recipe.versions.values())
    tokens = recipe.training.seq_length * recipe.training.global_batch_size
    one = layout_of(recipe).world_size == recipe.data.workers == 1
    return (
        recipe.name.startswith("rich") and steps <= 40 and tokens <= 4096 and one and recipe.data.tasks <= 2
    )


@pytest.mark.slow
def test_what_is_accepted_runs(tried, monkeypatch, capsys):
    """Data and the first version; only what the text alone can tell may stop them, in words."""
    directory, found, _ = tried

    def start(directory, world_size: int, task: str = "train") -> None:
        outcome = start_ranks(directory, world_size, task)
        assert outcome.returncode == 0, outcome.stderr

    monkeypatch.chdir(directory)
    monkeypatch.setattr("perdure.pipeline.train.ranks.start", start)
    chosen = [(seed, path) for seed, _, path, outcome in found if small(path, outcome)]
    assert len(chosen) >= RUNS
    finished = 0
    for seed, path in chosen[:RUNS]:
        first = next(iter(load_recipe(path).versions))
        status = entry.main(["train", str(path), "--version", first, "--out", str(directory / f"run{seed}")])
        said = capsys.readouterr()
        assert status in (0, 2), (seed, said.err)
        finished += status == 0
    assert finished
