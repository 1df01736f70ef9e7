"""Preflight: all mistakes at once, types and sense together; and a preview whose numbers are right."""

import json
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import yaml
from safetensors.numpy import save_file

from perdure.pipeline.checks.check import load_checked, problems
from perdure.pipeline.checks.finished import data_budgets
from perdure.pipeline.checks.memory import memory_per_rank
from perdure.pipeline.checks.preview import moves_across, preview
from perdure.pipeline.checks.sizes import finished_sources
from perdure.pipeline.cli.preview_text import plot, print_preview
from perdure.pipeline.core.errors import PerdureError, RecipeError
from perdure.pipeline.core.files import read_json
from perdure.pipeline.core.hashes import hash_file
from perdure.pipeline.model.shape import config_shape, config_vocab_size, tensor_sizes
from perdure.pipeline.recipe import Mixture, load_recipe
from perdure.pipeline.run.run import _data
from tests.support import tiny_recipe

LARGE = ("tokenizer.vocab_size=131072",)
TEMPLATE = Path(__file__).parents[3] / "data_recipes" / "template.yaml"
SOURCES = "versions.base.mixture.sources"
DOMAIN_ORDER = "versions.base.mixture.domain_order"
PERPLEXITY_MODEL = "versions.base.mixture.perplexity_model"
LOWEST = "{lowest_perplexity: {share: .5}}"
CLUSTERS = "sources.code.topics={type: cluster, num_clusters: 2}"
MAPPED = "sources.code.topics={type: metadata, field: subject, map: {Battle: war, Trade: peace}}"
PERDURE = [sys.executable, "-P", "-m", "perdure.pipeline.cli"]


def found(*overrides: str, out: Path | None = None) -> dict[str, tuple]:
    """Path -> (value, remedy) of the problems of the template with overrides."""
    try:
        load_checked(TEMPLATE, overrides, out)
    except RecipeError as error:
        return {problem.path: (problem.value, problem.remedy) for problem in error.problems}
    return {}


LLAMA3 = {
    **{"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
    **{"original_max_position_embeddings": 8192, "rope_theta": 5000.0},
}


@pytest.fixture
def llama(tmp_path) -> Path:
    """A small Hugging Face model: config, and weights that are 0."""
    directory = tmp_path / "llama"
    directory.mkdir()
    config = {
        "model_type": "llama",
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 5000,
        "rope_parameters": {"rope_type": "default", "rope_theta": 5000.0},
    }
    write_model(directory, config)
    return directory


def write_model(directory: Path, config: dict) -> None:
    """A config, and a tensor of zeros for whatever it asks for; no weights if it asks for nothing sensible."""
    (directory / "config.json").write_text(json.dumps(config))
    with suppress(PerdureError):
        sizes = tensor_sizes(config_shape(directory), config_vocab_size(directory))
        zeros = {name: np.zeros(size, np.float16) for name, size in sizes.items()}
        save_file(zeros, directory / "model.safetensors")


def test_the_template_has_no_problems():
    assert found() == {}


# Eight mistakes of both kinds: override, path, value, and a part of the remedy.
EIGHT = [
    ("training.seq_lenght=512", "training.seq_lenght", 512, "did you mean `seq_length`?"),
    ("training.precision=fp8", "training.precision", "fp8", "'fp32' or 'bf16'"),
    ("model.num_layers=four", "model.num_layers", "four", "should be a valid integer"),
    ("versions.base.schedule.warmup=2", "versions.base.schedule.warmup", 2, "less than or equal to 1"),
    ("data.wrokers=2", "data.wrokers", 2, "did you mean `workers`?"),
    ("tokenizer.sources=[prose, coed]", "tokenizer.sources.1", "coed", "did you mean `code`?"),
    ("versions.update.start.parent=bose", "versions.update.start.parent", "bose", "did you mean `base`?"),
    ("training.global_batch_size=12", "training.global_batch_size", 12, "multiple of micro_batch_size"),
]


def test_eight_different_mistakes_are_all_listed_with_status_2_and_nothing_heavy_is_imported(tmp_path):
    """What takes long is what is imported: torch alone takes more than all the rest."""
    tree = yaml.safe_load(TEMPLATE.read_text())
    for override, *_ in EIGHT:
        path, value = override.split("=")
        *parents, last = path.split(".")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = yaml.safe_load(value)
    recipe = tmp_path / "bad.yaml"
    recipe.write_text(yaml.safe_dump(tree, sort_keys=False))

    code = (
        f"import sys; from perdure.pipeline.cli import entry; status = entry.main(['check', {str(recipe)!r}])\n"
        "print(*sorted({'torch', 'transformers', 'datatrove', 'megatron'} & set(sys.modules))); sys.exit(status)"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, cwd=tmp_path)

    assert done.returncode == 2
    assert done.stdout == "\n"
    assert "8 problems" in done.stderr
    lines = done.stderr.splitlines()[1:]
    assert len(lines) == 8
    for _, path, value, remedy in EIGHT:
        (line,) = (line for line in lines if line.startswith(f"  {path} = {value!r}: "))
        assert remedy in line


@pytest.mark.parametrize("left_out", range(8))
def test_any_seven_of_them_are_seven(left_out):
    some = [mistake for number, mistake in enumerate(EIGHT) if number != left_out]
    assert found(*(override for override, *_ in some)).keys() == {path for _, path, _, _ in some}


REWEIGHT = "versions.base.mixture.reweight"
BOTH = "versions.base.mixture.sources={code: {}, prose: {}}"


@pytest.mark.parametrize(
    ("overrides", "path", "remedy"),
    [
        (
            ["sources.code.reader.packages=[stdlib, numpie]"],
            "sources.code.reader.packages.1",
            "did you mean `numpy`?",
        ),
        (["sources.code.reader.packages=[zzqq]"], "sources.code.reader.packages.0", "pip install zzqq"),
        (
            ["sources.code.reader={type: jsonl, path: data_recipez}"],
            "sources.code.reader.path",
            "no such file",
        ),
        (
            ["sources.code.reader={type: text, path: /gone/x}"],
            "sources.code.reader.path",
            "no directory /gone",
        ),
        (
            ["sources.code.reader={type: huggingface, path: /gone/x}"],
            "sources.code.reader.path",
            "no directory /gone",
        ),
        (["tokenizer.sources=[prose, coed]"], "tokenizer.sources.1", "did you mean `code`?"),
        (["tokenizer={type: huggingface, path: gone}"], "tokenizer.path", "no such directory"),
        (["tokenizer={type: sentencepiece, path: gone.model}"], "tokenizer.path", "no such file"),
        (["model={type: huggingface, path: gone}"], "model.path", "no such directory"),
        (["model.num_query_groups=3"], "model.num_query_groups", "divide num_attention_heads (4)"),
        (["model.hidden_size=132"], "model.hidden_size", "even multiple of num_attention_heads (4)"),
        (["parallel.tensor_parallel=4"], "parallel.tensor_parallel", "model.num_query_groups (2)"),
        (["parallel.tensor_parallel=3"], "parallel.tensor_parallel", "padded vocabulary (4,096)"),
        (["parallel.pipeline_parallel=3"], "parallel.pipeline_parallel", "layers (4)"),
        (["parallel.data_parallel=3"], "training.global_batch_size", "8 x 3 = 24"),
        (["training.adam_beta2=1"], "training.adam_beta2", "below 1"),
        (
            ["versions.base.start={type: update, parent: base}"],
            "versions.base.start.parent",
            "this version itself",
        ),
        (["versions.base.start={type: update, parent: update}"], "versions.base.start.parent", "comes later"),
        (["versions.base.mixture.sources={prosa: {}}"], "versions.base.mixture.sources.prosa", "`prose`"),
        (
            ["versions.update.mixture.replay.sources={xyz: {}}"],
            "versions.update.mixture.replay.sources.xyz",
            "there is `code`, `prose`",
        ),
        (
            ["versions.update.mixture.perplexity_model=null"],
            "versions.update.mixture.perplexity_model",
            "required by",
        ),
        (
            ["versions.base.mixture.perplexity_model=x"],
            "versions.base.mixture.perplexity_model",
            "has no use",
        ),
        (
            ["versions.update.selection.reference=update"],
            "versions.update.selection.reference",
            "version itself",
        ),
        (
            ["versions.update.selection.reference=refrence"],
            "versions.update.selection.reference",
            "`reference`?",
        ),
        (
            ["versions.update.selection.reference=./gone"],
            "versions.update.selection.reference",
            "no such directory",
        ),
        (["versions.base.schedule.min_lr=1"], "versions.base.schedule.min_lr", "at most max_lr (0.001)"),
        (["versions.base.schedule.warmup=1"], "versions.base.schedule.warmup", "below 1"),
        (
            ["versions.update.schedule.constant_lr=1"],
            "versions.update.schedule.constant_lr",
            "at most max_lr",
        ),
        (["versions.update.schedule.min_lr=6e-4"], "versions.update.schedule.min_lr", "at most constant_lr"),
        (
            ["versions.update.schedule.cooldown=.9"],
            "versions.update.schedule.constant_until",
            "at least cooldown",
        ),
        (
            ["versions.update.schedule.warmup=.2"],
            "versions.update.schedule.constant_until",
            "no step to anneal",
        ),
        (
            ["versions.update.start={type: branch, parent: base, step: 99}"],
            "versions.update.start.step",
            "at most 98, the steps of `base`",
        ),
        (["versions.base.keep=[98, 99]"], "versions.base.keep.1", "at most 98"),
        (["versions.base.schedule={type: decay}"], "versions.base.schedule.max_lr", "no parent"),
        (
            ["versions.update.schedule={type: decay, min_lr: 1}"],
            "versions.update.schedule.min_lr",
            "at most max_lr (0.0001)",  # where `base` ends
        ),
        (
            ["versions.base.schedule={type: wsd, max_lr: 1, min_lr: 0, decay_shape: inverse}"],
            "versions.base.schedule.min_lr",
            "above 0: the decay is inverse",
        ),
        (
            ["versions.base.schedule={type: wsd, max_lr: 1, min_lr: 0, decay_ends: [.5, .5]}"],
            "versions.base.schedule.decay_ends",
            "should rise",
        ),
        (
            ["versions.update.mixture.replay.from_parents=true"],
            "versions.update.mixture.replay.from_parents",
            "cannot stand beside `sources`",
        ),
        (
            ["versions.base.mixture.replay={share: .5, from_parents: true}"],
            "versions.base.mixture.replay.from_parents",
            "an `init` version has no parents",
        ),
        (
            ["versions.base.mixture.replay={share: .5}"],
            "versions.base.mixture.replay.sources",
            "`from_parents",
        ),
        (
            ["versions.base.mixture.switches=[{sources: {code: {}}}]"],
            "versions.base.mixture.switches.0",
            "exactly one of",
        ),
        (
            ["versions.base.mixture.switches=[{at: .5, sources: {coda: {}}}]"],
            "versions.base.mixture.switches.0.sources.coda",
            "did you mean `code`?",
        ),
        (
            ["versions.base.mixture.switches=[{at_tokens: 1_000_000, sources: {code: {}}}]"],
            "versions.base.mixture.switches.0",
            "the version ends at step 98",
        ),
        (
            ["versions.base.mixture.switches=[{at_lr: .01, sources: {code: {}}}]"],
            "versions.base.mixture.switches.0",
            "the learning rate never falls so far",
        ),
        (
            [
                "versions.base.mixture.switches=[{at: .5, sources: {code: {}}}, {at: .2, sources: {prose: {}}}]"
            ],
            "versions.base.mixture.switches.1",
            "should come after step 49",
        ),
        (
            ["versions.base.mixture.switches=[{at: .5, sources: {prose: {order: given}}}]"],
            "versions.base.mixture.switches.0.sources.prose.order",
            "began as shuffled",
        ),
        (
            [
                "versions.base.mixture.sources={code: {}, prose: {}}",
                f"{REWEIGHT}={{interval: 9, alpha: .5, weights: {{code: 2}}}}",
            ],
            f"{REWEIGHT}.alpha",
            "alpha times the largest weight (2) should be below 1",
        ),
        (
            [
                "versions.base.mixture.sources={code: {}, prose: {}}",
                f"{REWEIGHT}={{interval: 9, alpha: .1, floor: .5}}",
            ],
            f"{REWEIGHT}.floor",
            "below 1/2",
        ),
        ([f"{REWEIGHT}={{interval: 9, alpha: .1}}"], REWEIGHT, "there is one new source"),
        (
            [BOTH, f"{REWEIGHT}={{interval: 9, alpha: .1, groups: {{all: [code, pros]}}}}"],
            f"{REWEIGHT}.groups.all",
            "no such new source; did you mean `prose`?",
        ),
        (
            [BOTH, f"{REWEIGHT}={{interval: 9, alpha: .1, groups: {{one: [code, prose], two: [code]}}}}"],
            f"{REWEIGHT}.groups.two",
            "stands in `one` already",
        ),
        (
            [BOTH, f"{REWEIGHT}={{interval: 9, alpha: .1, groups: {{one: [code, prose, code]}}}}"],
            f"{REWEIGHT}.groups.one",
            "stands in `one` already",
        ),
        (
            [BOTH, f"{REWEIGHT}={{interval: 9, alpha: .1, groups: {{one: [code]}}}}"],
            f"{REWEIGHT}.groups",
            "no group has two sources",
        ),
        (
            [BOTH, f"{REWEIGHT}={{interval: 9, alpha: .1, groups: {{one: []}}}}"],
            f"{REWEIGHT}.groups.one",
            "not be empty",
        ),
        (
            [BOTH, f"{REWEIGHT}={{interval: 9, alpha: .1, floor: .5, groups: {{one: [code, prose]}}}}"],
            f"{REWEIGHT}.floor",
            "below 1/2, for 2 sources of a group",
        ),
        ([f"{SOURCES}={{prosa/x: {{}}}}"], f"{SOURCES}.prosa/x", "did you mean `prose`?"),
        ([f"{SOURCES}={{code/x: {{}}}}"], f"{SOURCES}.code/x", "no topics; set sources.code.topics"),
        ([f"{SOURCES}={{code/cluster-02: {{}}}}", CLUSTERS], f"{SOURCES}.code/cluster-02", "no such topic"),
        ([f"{SOURCES}={{code/wars: {{}}}}", MAPPED], f"{SOURCES}.code/wars", "did you mean `war`?"),
        ([f"{SOURCES}={{code: {{}}, code/war: {{}}}}", MAPPED], f"{SOURCES}.code/war", "overlaps `code`"),
        (
            [f"{SOURCES}={{code/war: {{}}, code@de: {{}}}}", MAPPED],
            f"{SOURCES}.code@de",
            "overlaps `code/war`",
        ),
        ([f"{SOURCES}={{prose: {LOWEST}}}"], PERPLEXITY_MODEL, "required by lowest_perplexity"),
        (
            [f"{SOURCES}={{prose: {{lowest_perplexity: {{}}}}}}"],
            f"{SOURCES}.prose.lowest_perplexity",
            "exactly one of `tokens` and `share`",
        ),
        (
            [
                "versions.base.mixture.switches=[{at: .5, sources: {prose/war: {}}}]",
                "sources.prose.topics={type: metadata, field: x, map: {Battle: war}}",
            ],
            "versions.base.mixture.switches.0.sources.prose/war",
            "overlaps `prose` of earlier steps",
        ),
        ([f"{DOMAIN_ORDER}=random"], DOMAIN_ORDER, "there is one new source"),
        (
            [f"{SOURCES}={{code: {{}}, prose: {{}}}}", f"{DOMAIN_ORDER}=given", "versions.base.tokens=9"],
            DOMAIN_ORDER,
            "1 steps are fewer than its 2 domains",
        ),
        (
            [
                f"{SOURCES}={{code: {{}}, prose: {{}}}}",
                f"{DOMAIN_ORDER}=given",
                f"{REWEIGHT}={{interval: 9, alpha: .1}}",
            ],
            DOMAIN_ORDER,
            "cannot stand beside `reweight`",
        ),
        (
            [f"{REWEIGHT}={{interval: 9, alpha: .1, weights: {{coda: 1}}}}"],
            f"{REWEIGHT}.weights.coda",
            "no such new source",
        ),
        (["out=/dev/null/x"], "out", "is a file"),
    ],
)
def test_each_mistake_of_sense(overrides, path, remedy):
    assert remedy in found(*overrides)[path][1]


def test_a_broken_part_hides_no_mistake_elsewhere_and_invents_none():
    broken = [
        "model=3",
        "tokenizer.vocab_size=x",
        "versions.base.mixture.sources.prose.weight=-1",
        "parallel=[]",
    ]
    expected = {"model", "tokenizer.vocab_size", "versions.base.mixture.sources.prose.weight", "parallel"}
    assert found(*broken).keys() == expected
    more = found(*broken, "versions.update.start.parent=x", "versions.update.schedule.min_lr=1")
    assert more.keys() == expected | {"versions.update.start.parent", "versions.update.schedule.min_lr"}


def test_no_part_can_break_the_check():
    """Every field of the template, one at a time, replaced by something of a wrong type."""

    def paths(node, prefix=()):
        for key, value in node.items():
            yield ".".join((*prefix, key))
            if isinstance(value, dict):
                yield from paths(value, (*prefix, key))

    for path in paths(yaml.safe_load(TEMPLATE.read_text())):
        names = found(f"{path}=[{{}}]").keys()
        assert any(name.startswith(path) for name in names), path


def test_buckets_need_an_order_by_perplexity():
    source = "versions.update.mixture.sources.code"
    assert found(f"{source}.buckets=10", f"{source}.order=hard_to_easy") == {}
    # The template's model for perplexities has no use then, either.
    problems = found(f"{source}.buckets=10", f"{source}.order=given")
    assert problems[f"{source}.buckets"] == (10, "has no use with `order: given`; needs one by perplexity")


def test_parts_subsets_and_an_order_of_domains_are_accepted():
    sources = f"{SOURCES}={{code/war: {{}}, code/unlabelled: {{}}, prose: {{}}}}"
    assert found(sources, MAPPED, f"{DOMAIN_ORDER}=similarity") == {}
    subset = f"versions.reference.mixture.sources={{code: {LOWEST}}}"
    assert found(subset, "versions.reference.mixture.perplexity_model=base") == {}


def test_scores_say_whether_they_need_a_reference():
    where = "versions.update.selection"
    assert found(f"{where}.score=random", f"{where}.reference=null") == {}
    remedy = "has no use with `score: highest_loss`, which needs no reference"
    assert found(f"{where}.score=highest_loss")[f"{where}.reference"] == ("reference", remedy)
    remedy = "required by `score: intersection`: an earlier version, or a model directory"
    assert found(f"{where}.score=intersection", f"{where}.reference=null")[f"{where}.reference"] == (
        None,
        remedy,
    )


def test_smoothing_is_for_scores_of_the_reference_alone():
    where = "versions.update.selection"
    assert found(f"{where}.score=reference_loss", f"{where}.smoothing=8") == {}
    (problem,) = found(f"{where}.smoothing=8").items()
    assert problem[0] == f"{where}.smoothing" and problem[1][0] == 8
    assert problem[1][1].startswith("has no use with `score: excess`: it averages what a reference says")


def test_windows_of_scoring_must_move_on():
    assert found("scoring.overlap=256")["scoring.overlap"] == (
        256,
        "should be below the context of 256 tokens",
    )
    assert found("scoring.overlap=255") == {}


def test_a_similar_path_is_suggested(tmp_path):
    (tmp_path / "corpus").mkdir()
    reader = f"sources.code.reader={{type: jsonl, path: {tmp_path}/corpvs}}"
    assert f"did you mean `{tmp_path}/corpus`?" in found(reader)["sources.code.reader.path"][1]
    reader = f"sources.code.reader={{type: jsonl, path: {tmp_path}/corpus}}"
    assert "no file fits" in found(reader)["sources.code.reader.path"][1]
    (tmp_path / "corpus" / "x.jsonl").write_text("{}\n")
    assert found(reader) == {}


def test_a_hugging_face_model_is_accepted_and_its_shape_is_used(llama):
    model = f"model={{type: huggingface, path: {llama}}}"
    assert found(model) == {}
    assert "num_query_groups of" in found(model, "parallel.tensor_parallel=4")["parallel.tensor_parallel"][1]
    assert "layers (3)" in found(model, "parallel.pipeline_parallel=2")["parallel.pipeline_parallel"][1]


@pytest.mark.parametrize(
    ("changes", "remedy"),
    [
        ({"model_type": "gpt2"}, "model_type is 'gpt2'; should be llama or mistral or qwen2 or qwen3"),
        ({"rope_parameters": {"rope_type": "yarn"}}, "rotary scaling 'yarn'"),
        ({"rope_parameters": {"rope_type": "llama3"}}, "factor of the rotary embedding is None"),
        ({"rope_parameters": LLAMA3 | {"partial_rotary_factor": 0.5}}, "partial_rotary_factor 0.5"),
        ({"quantization_config": {"bits": 4}}, "the weights are quantised"),
        ({"rope_parameters": None, "rope_scaling": {"type": "linear"}}, "rotary scaling 'linear'"),
        ({"attention_bias": True}, "attention_bias is True"),
        ({"hidden_size": None}, "hidden_size is null; should be a whole number"),
        ({"vocab_size": 4000}, "(4,000 tokens) is smaller than the tokenizer's (4,096)"),
    ],
)
def test_a_model_that_cannot_be_used_is_refused(llama, changes, remedy):
    write_model(llama, json.loads((llama / "config.json").read_text()) | changes)
    assert remedy in found(f"model={{type: huggingface, path: {llama}}}")["model.path"][1]
    reference = f"versions.update.selection.reference={llama}"
    assert remedy in found(reference)["versions.update.selection.reference"][1]


def test_samples_must_fit_into_a_sliding_window(llama):
    model = f"model={{type: huggingface, path: {llama}}}"
    config = json.loads((llama / "config.json").read_text())
    for changes, window in (
        ({"model_type": "mistral", "sliding_window": 64}, 64),
        ({"model_type": "mistral"}, 4096),
        ({"model_type": "mistral", "sliding_window": None}, None),
        ({"model_type": "qwen2", "sliding_window": 64, "use_sliding_window": False}, None),
        ({"model_type": "qwen2", "sliding_window": 64, "use_sliding_window": True}, None),  # from layer 28 on
        (
            {"model_type": "qwen2", "sliding_window": 64, "use_sliding_window": True, "max_window_layers": 0},
            64,
        ),
        ({"model_type": "qwen3", "sliding_window": 64}, None),
    ):
        write_model(llama, config | changes)
        for length in (window or 8192, (window or 8192) + 1):
            problem = found(model, f"training.seq_length={length}").get("training.seq_length")
            assert (problem is not None) == (window is not None and length > window), (changes, length)


def test_weights_in_a_pickle_are_refused(llama):
    (llama / "model.safetensors").rename(llama / "pytorch_model.bin")
    remedy = found(f"model={{type: huggingface, path: {llama}}}")["model.path"][1]
    assert "convert the model to safetensors" in remedy


@pytest.mark.parametrize(
    ("file", "remedy"), [("config.json", "no `config.json`"), ("model.safetensors", "no weights")]
)
def test_an_incomplete_model_directory_is_refused(llama, file, remedy):
    (llama / file).unlink()
    assert remedy in found(f"model={{type: huggingface, path: {llama}}}")["model.path"][1]


def test_a_directory_without_a_readable_tokenizer_is_refused(llama):
    tokenizer = f"tokenizer={{type: huggingface, path: {llama}}}"
    assert "`tokenizer.json`" in found(tokenizer)["tokenizer.path"][1]
    (llama / "tokenizer.json").write_text("{}")
    assert "cannot be read" in found(tokenizer)["tokenizer.path"][1]


def test_a_reference_with_another_tokenizer_is_refused_with_both_hashes(llama, tmp_path):
    from tokenizers import Tokenizer, models

    for directory, word in ((llama, "a"), (tmp_path / "other", "b")):
        directory.mkdir(exist_ok=True)
        Tokenizer(models.WordLevel({word: 0}, unk_token=word)).save(str(directory / "tokenizer.json"))
    overrides = [
        f"tokenizer={{type: huggingface, path: {llama}, eos_token: a}}",
        f"versions.update.selection.reference={llama}",
    ]
    assert found(*overrides) == {}
    overrides[0] = f"tokenizer={{type: huggingface, path: {tmp_path}/other, eos_token: b}}"
    value, remedy = found(*overrides)["versions.update.selection.reference"]
    assert value == str(llama)
    for directory in (llama, tmp_path / "other"):
        assert hash_file(directory / "tokenizer.json")[:8] in remedy


def test_an_output_without_permission_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("os.access", lambda path, mode: Path(path) != tmp_path)
    assert "no permission to write" in found(out=tmp_path / "out")["out"][1]


@pytest.mark.slow
def test_repetition_and_labels_are_judged_once_the_data_is_there(tmp_path, capsys):
    from perdure.pipeline.data.stage import run_data

    rows = [
        {
            "text": f"{number} is a number, and {number + 1} is the next. " * 9,
            "kind": ["odd", "even"][number % 2],
        }
        for number in range(40)
    ]
    (tmp_path / "text.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    numbers = {
        "reader": {"type": "jsonl", "path": str(tmp_path / "text.jsonl")},
        "clean": [{"type": "exact_dedup"}],
        "heldout_fraction": 0.2,
        "topics": {"type": "metadata", "field": "kind"},
    }

    def recipe_of(tokens: int, sources: dict, **mixture):
        return tiny_recipe(
            tmp_path / "out",
            sources={"a": numbers, "b": numbers},
            versions__v1__tokens=tokens,
            versions__v1__mixture={"sources": sources, **mixture},
        )

    recipe = recipe_of(200_000, {"a": {"weight": 0.999}, "b": {"weight": 0.001}})
    assert problems(recipe) == []
    assert preview(recipe)["sources"][0]["estimated"]
    print_preview(preview(recipe))
    told = " ".join(capsys.readouterr().out.split())
    assert "times over (more than max_repetition = 4, beyond which a run is refused)" in told
    run_data(recipe, lambda line: None)
    (problem,) = problems(recipe)
    assert problem.path == "versions.v1.mixture.max_repetition"
    assert problem.value == 4.0
    assert "`a` would repeat" in problem.remedy
    source = preview(recipe)["sources"][0]
    assert not source["estimated"]
    assert source["repetitions"]["v1"] == pytest.approx(0.999 * 200_192 / source["tokens"])

    def remedies(tokens: int, sources: dict, **mixture) -> list[str]:
        return [problem.remedy for problem in problems(recipe_of(tokens, sources, **mixture))]

    directory = next((tmp_path / "out").glob("data/a@*"))
    odd = read_json(directory / "manifest.json")["counts"]["topics"]["odd"]["train"]["tokens"]
    assert remedies(odd, {"a/odd": {}}) == []
    (row,) = preview(recipe_of(odd, {"a/odd": {}}))["versions"][0]["mixture"]
    assert (row["source"], row["available"]) == ("a/odd", odd)
    assert remedies(odd, {"a/old": {}}) == ["no such topic in `a`; did you mean `odd`?"]
    with pytest.raises(RecipeError) as refused:  # before the first version trains
        _data(recipe_of(odd, {"a/old": {}}), Path("my.yaml"), lambda line: None)
    assert [problem.path for problem in refused.value.problems] == ["versions.v1.mixture.sources.a/old"]
    assert remedies(odd, {"a@de": {}}) == ["no such language in `a`: none of its documents has one"]
    assert remedies(5 * odd, {"a/odd": {}})[0].startswith("`a/odd` would repeat 5.")
    counts = finished_sources(recipe)
    subset = lambda tokens: recipe_of(9, {"a": {"lowest_perplexity": {"tokens": tokens}}}).versions["v1"]  # noqa: E731
    (problem,) = data_budgets(counts, "v1", subset(10**6))
    assert problem.path == "versions.v1.mixture.sources.a.lowest_perplexity.tokens"
    assert "`a` has only" in problem.remedy
    assert [*data_budgets(counts, "v1", subset(100))] == []


# ------------------------------------------------------------------------------------------ preview


def test_preview_of_the_template():
    data = preview(load_recipe(TEMPLATE))
    base, reference, update = data["versions"]
    assert (base["steps"], base["samples"], base["tokens"]) == (98, 98 * 16, 98 * 16 * 256)
    assert update["lineage_tokens"] == base["tokens"] + update["tokens"]
    assert reference["parent"] == "base"
    assert [(m["part"], m["source"], m["share"], m["order"]) for m in update["mixture"]] == [
        ("new", "code", 0.9375, "easy_to_hard"),
        ("replay", "prose", 0.0625, "shuffled"),  # of what is read: 0.1 of what is trained on, as k is 0.6
    ]
    assert (update["replay_share"], update["replay_share_trained"]) == (0.0625, pytest.approx(0.1))
    assert base["learning_rate"][0] == [0, 0.0]
    assert base["learning_rate"][-1] == [98, pytest.approx(1e-4)]
    steps = 98 + 25 + 98
    assert data["total"] == {"steps": steps, "tokens": steps * 4096, "steps_to_do": steps}
    assert json.loads(json.dumps(data)) == data


def test_what_replay_and_moving_shares_come_to_is_told(capsys):
    def told(*overrides):
        print_preview(preview(load_recipe(TEMPLATE, overrides)))
        return " ".join(capsys.readouterr().out.split())

    replay, rule = (
        "versions.update.mixture.replay",
        "versions.update.mixture.reweight={interval: 9, alpha: .1",
    )
    both = "versions.update.mixture.sources={prose: {}, code: {}}"
    assert "replay 6.2% of what is read, 10.0% of what is trained on" in told()
    assert "replay 10.0% of what is read, 15.6% of what is trained on" in told(f"{replay}.share_of=read")
    assert "of what is trained on" not in told("versions.update.selection.k=1")
    alone = told(both, f"{rule}}}")
    assert "note: shares move between code, prose, so that one may take most of another's" in alone
    grouped = told(both, f"{rule}, groups: {{all: [code, prose]}}}}")
    assert "inside groups, whose totals are fixed (all: prose, code)" in grouped and "note:" not in grouped


@pytest.mark.parametrize(
    ("sources", "across"),
    [
        (["web@zh/law", "web@zh/sea"], []),
        (["web@zh/law", "web@en/law"], ["en", "zh"]),
        (["web/law", "web/sea"], []),
        (["web/law", "news/law"], ["news", "web"]),
        (["web@zh", "news@en"], ["news", "web", "en", "zh"]),
    ],
)
def test_shares_that_would_move_between_sources_or_languages_are_named(sources, across):
    tree: dict = {"sources": {key: {} for key in sources}, "reweight": {"interval": 9, "alpha": 0.1}}
    assert moves_across(Mixture.model_validate(tree)) == across
    tree["reweight"]["groups"] = {"some": sources}
    assert moves_across(Mixture.model_validate(tree)) == []


def test_an_existing_model_keeps_its_own_vocabulary(llama):
    model = preview(load_recipe(TEMPLATE, [f"model={{type: huggingface, path: {llama}}}"]))["model"]
    assert (model["vocab_size"], model["padded_vocab_size"]) == (4096, 5120)


def test_ranks_are_placed_as_megatron_places_them():
    from megatron.core.parallel_state import RankGenerator

    parallel = ["parallel.tensor_parallel=2", "parallel.pipeline_parallel=2", "parallel.data_parallel=2"]
    layout = preview(load_recipe(TEMPLATE, parallel))["parallel"]
    assert layout["world_size"] == 8
    generator = RankGenerator(tp=2, ep=1, dp=2, pp=2, cp=1, order="tp-cp-ep-dp-pp")
    for group, axis, others in (
        ("tp", "tensor", ("pipeline", "data")),
        ("pp", "pipeline", ("tensor", "data")),
        ("dp", "data", ("tensor", "pipeline")),
    ):
        for ranks in generator.get_ranks(group):
            places = [layout["ranks"][rank] for rank in ranks]
            assert [place[axis] for place in places] == [0, 1]
            assert all(len({place[other] for place in places}) == 1 for other in others)


def test_memory_of_one_rank():
    def memory(*overrides):
        return memory_per_rank(load_recipe(TEMPLATE, overrides))

    alone = memory()
    parameters = preview(load_recipe(TEMPLATE))["model"]["parameters"]
    assert alone["parameters"] == parameters
    assert (alone["weights"], alone["gradients"], alone["optimizer"]) == (
        4 * parameters,
        4 * parameters,
        8 * parameters,
    )
    bf16 = memory("training.precision=bf16")
    assert (bf16["weights"], bf16["gradients"], bf16["optimizer"]) == (
        2 * parameters,
        4 * parameters,
        12 * parameters,
    )
    replicas = ("parallel.data_parallel=2",)
    assert memory(*replicas)["optimizer"] == alone["optimizer"]
    assert memory(*replicas, "parallel.distributed_optimizer=true")["optimizer"] == alone["optimizer"] // 2
    for divided in ("true", "false"):
        assert memory(*replicas, f"parallel.distributed_optimizer={divided}")["save"] == 12 * parameters // 2
    # 8 x 256 tokens and 4096 words: 32 MiB of logits; with 128 Ki words more than the implementations hold at a time.
    by_implementation = {
        name: memory(f"training.loss_implementation={name}")["activations"]
        for name in ("auto", "torch", "chunked", "triton")
    }
    layers_alone = by_implementation["torch"] - 8 * 2048 * 4096
    assert by_implementation["auto"] == by_implementation["chunked"] == by_implementation["torch"]
    assert by_implementation["triton"] == layers_alone + 4 * 2048 * 4096
    large = {
        name: memory(f"training.loss_implementation={name}", *LARGE)["activations"]
        for name in by_implementation
    }
    assert large["torch"] - large["auto"] == 8 * 2048 * 131_072 - (128 << 20)
    assert large["chunked"] - large["triton"] == (512 << 20) - (128 << 20)
    split = ("parallel.tensor_parallel=2", "training.loss_implementation=torch")
    saved = memory(*split)["activations"] - memory(*split, "parallel.sequence_parallel=true")["activations"]
    assert saved == 2048 * 4 * (4 * 128 // 2) * 4  # four layers
    norms = (2 * 4 + 1) * 128
    assert memory("parallel.tensor_parallel=2")["parameters"] == (parameters - norms) // 2 + norms
    layers = (parameters - 4096 * 128 - 128) // 2
    assert memory("parallel.pipeline_parallel=2")["parameters"] == layers + 4096 * 128 + 128
    assert alone["total"] == sum(alone[part] for part in ("weights", "gradients", "optimizer", "activations"))


def test_plot():
    assert plot([0, 1, 2, 4], height=2) == ["   █", " ▄██"]
    assert plot([0.0, 0.0], height=1) == ["  "]
