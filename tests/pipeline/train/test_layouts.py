"""One recipe under every layout, in real processes: same tokens, same selection, same losses, same answers."""

import json

import pytest
from pyarrow import parquet
from support import metrics, on_rank, start_ranks
from tiny import prepare_version, tiny_recipe

from perdure.pipeline.checks.memory import memory_per_rank
from perdure.pipeline.core.files import read_json
from perdure.pipeline.model.layout import layout_of
from perdure.pipeline.recipe import Recipe
from tests.pipeline.train.golden import GOLDEN

pytestmark = pytest.mark.slow

LAYOUTS = {
    "tp1": {},
    "tp2": {"tensor_parallel": 2},
    "tp2_sequence": {"tensor_parallel": 2, "sequence_parallel": True},
    "pp2": {"pipeline_parallel": 2},
    "tp2_pp2": {"tensor_parallel": 2, "pipeline_parallel": 2, "recompute": True},
    "dp2_distributed": {
        "data_parallel": 2,
        "distributed_optimizer": True,
        "overlap_grad_reduce": True,
        "overlap_param_gather": True,
        "recompute": "selective",
    },
}


INTERVAL = 7
PROBES = [
    {"id": "cloze", "kind": "new", "question": "t5 ___ t9", "choices": ["t7", "t8 t9", "t3"], "answer": "t7"},
    {"id": "long", "kind": "updated", "question": "t4 " * 40, "choices": ["t5", "t6"], "answer": "t5"},
    {"id": "plain", "kind": "invariant", "question": "t7", "choices": ["t8", "t1 t2 t3"], "answer": "t8"},
]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    finished = {}
    facts = tmp_path_factory.mktemp("probes") / "facts.jsonl"
    facts.write_text("".join(json.dumps(probe) + "\n" for probe in PROBES))
    for name, parallel in LAYOUTS.items():
        recipe = tiny_recipe(
            tmp_path_factory.mktemp(name),
            parallel=parallel,
            versions__v1__selection={"k": 0.6, "reference": "/unused"},
            evaluation__probes=[str(facts)],
            evaluation__interval=INTERVAL,
        )
        directory = prepare_version(recipe, scored=True)
        outcome = start_ranks(directory, layout_of(recipe).world_size)
        assert outcome.returncode == 0, outcome.stderr
        finished[name] = directory
    return finished


@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name != "tp1"])
def test_layouts_agree(runs, layout):
    expected, found = metrics(runs["tp1"]), metrics(runs[layout])
    assert len(found) == len(expected) == 20
    for left, right in zip(expected, found):
        assert left["stream"] == right["stream"]
        assert left["selection"] == right["selection"]
        assert right["loss"] == pytest.approx(left["loss"], abs=1e-4)
        assert right["grad_norm"] == pytest.approx(left["grad_norm"], abs=1e-4)


@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name != "tp1"])
def test_layouts_export_the_same_model_and_measure_the_same_loss(runs, layout):
    from perdure.pipeline.model.huggingface import tensor_files, weights_reader

    expected, found = runs["tp1"] / "hf", runs[layout] / "hf"
    assert tensor_files(expected).keys() == tensor_files(found).keys()
    for name in tensor_files(expected):
        difference = weights_reader(expected)(name) - weights_reader(found)(name)
        assert difference.abs().max() < 1e-4
    for domain, result in read_json(runs["tp1"] / "eval.json")["domains"].items():
        other = read_json(runs[layout] / "eval.json")["domains"][domain]
        assert other["loss"] == pytest.approx(result["loss"], abs=1e-4)
        assert other["tokens"] == result["tokens"]


def test_losses_are_the_golden_ones(runs):
    """A refactor must not move them; a change of the method must say so and set new ones.

    On one machine they repeat bit for bit; another processor's matrix kernels may round differently.
    """
    assert [line["loss"] for line in metrics(runs["tp1"])] == pytest.approx(GOLDEN, rel=1e-5)


def test_the_selected_share_is_k(runs):
    for line in metrics(runs["tp1"]):
        assert line["selected_fraction"] == pytest.approx(0.6, abs=0.01)
        assert line["loss_selected"] != line["loss_unselected"]
    passage = read_json(runs["tp1"] / "passage.json")
    assert (
        len(passage["tokens"])
        == len(passage["loss"])
        == len(passage["reference_loss"])
        == len(passage["selected"])
    )
    for layout in LAYOUTS:
        assert read_json(runs[layout] / "passage.json")["selected"] == passage["selected"]
    # What selection took of the last samples: every token of new data once, in every layout.
    chosen = read_json(runs["tp1"] / "chosen.json")
    assert sum(chosen["excess_selected"]) == chosen["selected"] and len(chosen["excess_edges"]) == 49
    assert chosen["selected"] + sum(chosen["excess_other"]) == chosen["tokens"] and chosen["topics"] == {}
    assert chosen["selected"] == pytest.approx(0.6 * chosen["tokens"], rel=0.02)
    for layout in LAYOUTS:
        other = read_json(runs[layout] / "chosen.json")
        assert (other["tokens"], other["selected"]) == (chosen["tokens"], chosen["selected"])


def test_what_is_recomputed_is_the_same_and_is_not_kept(tmp_path):
    """In fp32 on a CPU torch's norm hands back its input's gradient in two parts, which `selective` adds first; else it, too,
    has the bits of `none` (tests/gpu/test_overlap.py)."""
    recipe = tiny_recipe(tmp_path, training__document_mask=True)
    cases = {word: with_recompute(recipe, word) for word in ("none", "selective", "full")}
    steps = dict(
        zip(
            cases,
            on_rank(
                "train_cases",
                prepare_version(recipe),
                [{"parallel": {"recompute": word}} for word in cases],
                3,
            ),
            strict=True,
        )
    )
    told = {word: memory_per_rank(case)["activations"] for word, case in cases.items()}
    layers, tokens, hidden, ffn = 4, 2 * 32, 32, 64
    for plain, selective, full in zip(*steps.values(), strict=True):
        assert plain | {"kept": 0} == full | {"kept": 0}
        for name in ("loss", "grad_norm"):
            assert selective[name] == pytest.approx(plain[name], rel=1e-6)
        # Both norms' outputs and what each divides by, and the SwiGLU's product. On a CPU a norm keeps its result without
        # weight, too.
        assert plain["kept"] - selective["kept"] == layers * tokens * (2 * (2 * hidden + 1) + ffn) * 4
        # `perdure check` tells a layer that is worked at, and leaves out what attention and norms keep besides: here its output
        # twice.
        rest = {"none": 0, "selective": 2 * hidden + ffn, "full": 4 * hidden + 2 * 32 + 2 * 16 + 3 * ffn}
        for word, case in (("selective", selective), ("full", full)):
            saved = told["none"] - told[word] + (rest[word] + layers * 2 * hidden) * tokens * 4
            assert saved == pytest.approx(plain["kept"] - case["kept"], rel=0.1)


def with_recompute(recipe: Recipe, word: str) -> Recipe:
    return recipe.model_copy(update={"parallel": recipe.parallel.model_copy(update={"recompute": word})})


@pytest.mark.parametrize("layout", list(LAYOUTS))
def test_layouts_measure_the_same_documents_and_answers(runs, layout):
    expected, found = (runs[name] / "eval_documents.parquet" for name in ("tp1", layout))
    evaluation = read_json(runs[layout] / "eval.json")["domains"]
    left, right = parquet.read_table(expected).to_pylist(), parquet.read_table(found).to_pylist()
    for one, other in zip(left, right, strict=True):
        for key in ("loss", "separator_loss"):
            assert other[key] == pytest.approx(one[key], abs=1e-4 * one["tokens"])
        assert 0 < other["separator_loss"] < other["loss"]
        assert {k: v for k, v in one.items() if "loss" not in k} == {
            k: v for k, v in other.items() if "loss" not in k
        }
    for domain, result in evaluation.items():
        own = [row for row in right if row["domain"] == domain]
        total = sum(row["loss"] for row in own)
        assert total / result["tokens"] == pytest.approx(result["loss"], rel=1e-12)
        assert (len(own), sum(row["bytes"] for row in own)) == (result["documents"], result["bytes"])

    left, right = (
        parquet.read_table(runs[name] / "eval_probes.parquet").to_pylist() for name in ("tp1", layout)
    )
    assert [row["id"] for row in right] == ["cloze", "long", "plain"]
    for one, other in zip(left, right, strict=True):
        assert other["scores"] == pytest.approx(one["scores"], abs=1e-4)
        assert len(set(other["scores"])) == len(other["scores"])


@pytest.mark.parametrize("layout", list(LAYOUTS))
def test_layouts_measure_the_same_while_they_train(runs, layout):
    expected, found = metrics(runs["tp1"]), metrics(runs[layout])
    measured = {line["step"] - 1: line["heldout_before"] for line in found if line["heldout_before"]}
    assert list(measured) == [0, 7, 14]
    assert measured[0] == {
        domain: result["loss"]
        for domain, result in read_json(runs[layout] / "eval_initial.json")["domains"].items()
    }
    for step, losses in measured.items():
        assert losses == pytest.approx(expected[step]["heldout_before"], abs=1e-4)
