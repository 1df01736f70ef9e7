"""What runs a sweep has, and every mistake in one go."""

import pytest
import yaml
from tiny import tiny_recipe

from perdure.pipeline.core.errors import RecipeError
from perdure.pipeline.recipe import RecipeSource
from perdure.pipeline.recipe.cluster import JobSize
from perdure.pipeline.run.sweep.spec import SweepPlan, load_sweep

RATE, SHARE = "versions.v1.schedule.max_lr", "versions.v1.mixture.replay.share"


@pytest.fixture
def recipe(tmp_path):
    """The tiny recipe as a file, over text that exists."""
    tree = tiny_recipe(tmp_path).model_dump(mode="json", exclude_defaults=True, exclude={"out"})
    for source in tree["sources"].values():
        source["reader"]["path"] = str(tmp_path / "text")
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "text.txt").write_text("text")
    tree["versions"]["v1"]["mixture"] |= {
        "sources": {"b": {}},
        "replay": {"share": 0.1, "sources": {"a": {}}},
    }
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


def problems(path, *over: str, **options) -> list[str]:
    with pytest.raises(RecipeError) as error:
        load_sweep(RecipeSource(path), over, **options)
    return [str(problem) for problem in error.value.problems]


def names(plan: SweepPlan) -> list[str]:
    return [run.name for run in plan.runs]


def test_every_combination_with_every_seed(recipe, tmp_path):
    plan = load_sweep(
        RecipeSource(recipe, out=tmp_path / "out"), [f"{RATE}=0.01,2e-2", f"{SHARE}=0,0.25"], (1, 2)
    )
    assert names(plan)[:4] == [
        "max_lr=0.01,share=0,seed=1",
        "max_lr=0.01,share=0,seed=2",
        "max_lr=0.01,share=0.25,seed=1",
        "max_lr=0.01,share=0.25,seed=2",
    ]
    assert len(plan.runs) == 8
    last = plan.runs[-1]
    assert (last.setting, last.seed) == ({RATE: "2e-2", SHARE: 0.25}, 2)
    assert last.recipe.versions["v1"].schedule.max_lr == 0.02 and last.recipe.seed == 2
    assert last.recipe.directory == tmp_path / "out" / "runs" / last.name
    assert last.recipe.name == "tiny-max_lr-2e-2-share-0-25-seed-2"
    assert plan.runs[0].recipe.versions["v1"].mixture.replay is None


def test_a_file_of_its_own_with_variants(recipe, tmp_path):
    sweep = {
        "recipe": recipe.name,
        "out": str(tmp_path / "here"),
        "variants": {"plain": {}, "random": {"versions.v1.selection": {"score": "random", "k": 0.5}}},
        "over": {"training.seq_length": [32, 64]},
        "seeds": [7],
    }
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(sweep))
    plan = load_sweep(RecipeSource(path))
    assert (plan.name, plan.directory) == ("mine", tmp_path / "here")
    assert names(plan) == [
        f"{variant},seq_length={length},seed=7" for variant in ("plain", "random") for length in (32, 64)
    ]
    assert plan.runs[0].recipe.versions["v1"].selection is None
    assert plan.runs[3].recipe.versions["v1"].selection.score == "random"
    assert plan.runs[3].setting == {"variant": "random", "training.seq_length": 64}
    assert (
        names(load_sweep(RecipeSource(path), [f"{RATE}=0.5"], (8,)))[0]
        == "plain,seq_length=32,max_lr=0.5,seed=8"
    )


def test_members_of_lists_and_whole_sections(recipe):
    clean = [{"type": "length", "min_chars": 5}, {"type": "exact_dedup"}]
    tree = yaml.safe_load(recipe.read_text())
    tree["sources"]["a"]["clean"] = clean
    recipe.write_text(yaml.safe_dump(tree))
    constant = "{type: constant, max_lr: 0.1}"
    plan = load_sweep(
        RecipeSource(recipe), ["sources.a.clean.0.min_chars=5,50", f"versions.v1.schedule={constant}"]
    )
    assert [run.recipe.sources["a"].clean[0].min_chars for run in plan.runs] == [5, 50]
    assert {run.recipe.versions["v1"].schedule.type for run in plan.runs} == {"constant"}
    assert names(plan)[0].startswith("min_chars=5,schedule=") and len(names(plan)[0].rpartition("=")[2]) == 8


def test_names_tell_fields_of_the_same_name_apart(recipe):
    mixture = "versions.v1.mixture"
    over = [f"{mixture}.replay.sources.a.weight=1,2", f"{mixture}.sources.b.weight=3"]
    assert names(load_sweep(RecipeSource(recipe), over)) == ["a.weight=1,b.weight=3", "a.weight=2,b.weight=3"]


def test_all_mistakes_at_once_a_line_each(recipe):
    assert problems(recipe) == ["over = {}: nothing to sweep: name a field and its values, variants or seeds"]
    assert problems(recipe, "versions.v2.tokens=1", "sed=1", "seed=1,2", "name=x", seeds=(3, 3)) == [
        "over = 'versions.v2.tokens': no such version; there is `v1`",
        "over = 'sed': unknown field; did you mean `seed`?",
        "over = 'seed': seeds are swept by `seeds`, or --seeds 1,2,3",
        "over = 'name': no field to sweep: every run has its own",
        "seeds = 3: stands twice; remove one",
    ]
    assert problems(recipe, f"{SHARE}=0.1,1.5,-1", "training.seq_lenght=8,16", seeds=(1, 2)) == [
        "training.seq_lenght = 8: unknown field; did you mean `seq_length`?",
        f"{SHARE} = 1.5: should be less than 1; did you mean 0.015?",
        f"{SHARE} = -1: should be greater than or equal to 0",
    ]
    assert problems(recipe, f"{SHARE}=0,0.0,0.1,0.10") == [
        "run = 'share=0.0': the same recipe as that of share=0; remove one",
        "run = 'share=0.1': the same recipe as that of share=0.1; remove one",
    ]
    assert problems(recipe, f"{SHARE}=0,0.1", f"{SHARE}=0.2") == [
        f"--over = '{SHARE}=0.2': `{SHARE}` stands twice; give all of its values at once"
    ]
    assert problems(recipe, "a.b", "c={") == [
        "--over = 'a.b': should read path.to.field=value,value",
        "--over = 'c={': should read path.to.field=value,value",
    ]


def test_a_mistake_of_sense_names_the_run(recipe):
    found = problems(recipe, "training.micro_batch_size=2,3")
    assert len(found) == 1 and found[0].startswith("micro_batch_size=3: training.global_batch_size = 8: ")


def test_a_sweep_file_with_mistakes(recipe, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({"recipe": recipe.name, "over": {RATE: []}, "seed": [1]}))
    assert problems(path) == [
        f"over.{RATE} = []: should not be empty",
        "seed = [1]: unknown field; did you mean `seeds`?",
    ]
    path.write_text(yaml.safe_dump({"recipe": "nothing.yaml", "seeds": [1]}))
    assert problems(path)[0].endswith("cannot be read: No such file or directory")


def test_on_a_cluster_replicas_fill_the_nodes(recipe):
    plan = load_sweep(RecipeSource(recipe), [f"{RATE}=0.01"], size=JobSize(2, 0, 2))
    assert plan.runs[0].recipe.parallel.data_parallel == 4
    assert plan.directory.is_absolute()
    found = problems(recipe, "parallel.tensor_parallel=1,2", size=JobSize(3, 0, 1))
    assert found[1:] == [
        "tensor_parallel=2: parallel = 'tensor 2 x pipeline 1': should divide the 3 ranks of 3 nodes x 1"
    ]
    assert found[0].startswith("tensor_parallel=1: training.global_batch_size = 8: ")


def test_a_table_needs_no_text_and_data_speak_for_their_own_run_alone(recipe, monkeypatch):
    def refuse(_recipe):
        raise AssertionError("asked for all runs at once")

    monkeypatch.setattr("perdure.pipeline.checks.check.against_data", refuse)
    assert len(load_sweep(RecipeSource(recipe), [f"{RATE}=0.01,0.02"]).runs) == 2
    tree = yaml.safe_load(recipe.read_text())
    for source in tree["sources"].values():
        source["reader"]["path"] = "gone"
    recipe.write_text(yaml.safe_dump(tree))
    assert len(problems(recipe, f"{RATE}=0.01,0.02")) == 2
    assert len(load_sweep(RecipeSource(recipe), [f"{RATE}=0.01,0.02"], checked=False).runs) == 2
    assert len(problems(recipe, f"{RATE}=fast", checked=False)) == 1
