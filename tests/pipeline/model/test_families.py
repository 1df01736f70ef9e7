"""Every family: transformers' logits under every layout, and the same tensors out again."""

import shutil

import pytest
import torch
from safetensors.torch import load_file
from support import metrics, on_rank, start_ranks
from tiny import prepare_version, tiny_recipe

from perdure.pipeline.core.files import read_json, write_json
from perdure.pipeline.core.hashes import hash_file
from perdure.pipeline.data.tokenizer.extend import extend
from perdure.pipeline.data.tokenizer.train import train
from perdure.pipeline.model.families import FAMILIES
from perdure.pipeline.model.huggingface import tensor_files, weights_hash, weights_reader
from perdure.pipeline.model.vocabulary import EMBEDDINGS

pytestmark = pytest.mark.slow
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
MODELS = {
    "llama": ("llama", {"tie_word_embeddings": True}),
    "llama3": ("llama", {"rope_parameters": LLAMA3, "head_dim": 24}),
    "mistral": ("mistral", {"sliding_window": 256, "head_dim": 16}),
    "qwen2": ("qwen2", {"tie_word_embeddings": True}),
    "qwen3": ("qwen3", {"head_dim": 16}),
}
TOKENS = [[(7 * position + 3 * row) % 299 + 1 for position in range(200)] for row in range(2)]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A small random model of each family, biases and norms included, in several shards; and its logits."""
    from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

    found = {}
    for number, (name, (family, options)) in enumerate(MODELS.items()):
        config = AutoConfig.for_model(
            family,
            vocab_size=300,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=512,
            **options,
        )
        torch.manual_seed(number)
        model = AutoModelForCausalLM.from_config(config).eval()
        model.generation_config = GenerationConfig(temperature=0.7, do_sample=True)
        with torch.no_grad():
            for tensor in model.parameters():
                tensor.normal_(1.0 if tensor.dim() == 1 else 0.0, 0.3 if tensor.dim() == 1 else 0.1)
            logits = model(torch.tensor(TOKENS)).logits
        directory = tmp_path_factory.mktemp(name)
        model.save_pretrained(directory, max_shard_size="50KB")
        found[name] = directory, logits
    return found


EXTENDED = ("llama", "llama3")
"""Models, one with tied embeddings and one without, whose vocabulary is extended."""


@pytest.fixture(scope="module")
def extended(models, tmp_path_factory):
    """Their directories with a tokenizer of less than 300 tokens, beside one that has 150 more."""
    base = train(290, iter(["abcdefgh abc cde fgh " * 20]))
    words = [f"{a}{b}{c}{b}{a}" for a in "mnop" for b in "qrst" for c in "uvwxyz"]
    texts = [" ".join(words)] * 4
    longer, pieces = extend(base, 150, lambda: iter(texts), "model")
    first = max(base.get_vocab().values()) + 1
    assert first < 300
    found = {}
    for name in EXTENDED:
        found[name] = directory = tmp_path_factory.mktemp(f"{name}-extended")
        shutil.copytree(models[name][0], directory / "model")
        base.save(str(directory / "model/tokenizer.json"))
        (directory / "tokenizer").mkdir()
        longer.save(str(directory / "tokenizer/tokenizer.json"))
        base_hash = hash_file(directory / "model/tokenizer.json")
        facts = {"base_tokenizer_hash": base_hash, "base_vocab_size": first, "pieces": pieces}
        write_json(directory / "tokenizer/extension.json", facts)
    return found


@pytest.fixture(scope="module", params=[{}, {"tensor_parallel": 2}, {"pipeline_parallel": 2}], ids=str)
def converted(request, models, extended, tmp_path_factory):
    """All models through our trainer's model under one layout."""
    root = tmp_path_factory.mktemp("converted")
    jobs = [[str(directory), str(root / name)] for name, (directory, _) in models.items()]
    for name, directory in extended.items():
        jobs.append([str(directory / "model"), str(root / f"{name}-extended")])
        shutil.copytree(directory / "tokenizer", root / f"{name}-extended" / "tokenizer")
    for name in models:
        shutil.copytree(next(iter(extended.values())) / "tokenizer", root / name / "tokenizer")
    ranks = 2 if request.param else 1
    on_rank("round_trip", jobs, request.param, TOKENS, 40_000, script="convert_ranks.py", ranks=ranks)
    return root


@pytest.mark.parametrize("name", MODELS)
def test_logits_are_those_of_transformers(models, converted, name):
    found = load_file(converted / name / "logits.safetensors")["logits"]
    assert found.abs().max() > 1
    torch.testing.assert_close(found, models[name][1], rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", MODELS)
def test_the_export_has_the_same_tensors_and_config(models, converted, name):
    from transformers import AutoModelForCausalLM

    source, exported = models[name][0], converted / name / "hf"
    assert tensor_files(source).keys() == tensor_files(exported).keys()
    assert weights_hash(source) == weights_hash(exported)
    for file in ("config.json", "generation_config.json"):  # the separator is token 0
        assert read_json(exported / file) == read_json(source / file) | {"eos_token_id": 0}
    model = AutoModelForCausalLM.from_pretrained(exported)
    assert type(model).__name__ == read_json(source / "config.json")["architectures"][0]
    with torch.no_grad():
        torch.testing.assert_close(model(torch.tensor(TOKENS)).logits, models[name][1], rtol=0, atol=1e-6)


def test_exported_files_are_bounded_and_indexed(converted):
    exported = converted / "qwen3" / "hf"
    files = sorted(exported.glob("*.safetensors"))
    assert len(files) > 3
    read = weights_reader(exported)
    for path in files:
        names = [name for name, file in tensor_files(exported).items() if file == path]
        assert names and (len(names) == 1 or sum(read(name).nbytes for name in names) <= 40_000)
    total = read_json(exported / "model.safetensors.index.json")["metadata"]["total_size"]
    assert total == sum(read(name).nbytes for name in tensor_files(exported))


@pytest.mark.parametrize("name", EXTENDED)
def test_new_tokens_start_as_the_mean_of_their_pieces_under_every_layout(extended, converted, name):
    from transformers import AutoModelForCausalLM

    source, to = extended[name] / "model", converted / f"{name}-extended"
    facts = read_json(extended[name] / "tokenizer/extension.json")
    first, pieces = facts["base_vocab_size"], facts["pieces"]
    old, new = weights_reader(source), weights_reader(to / "hf")
    for matrix in {"model.embed_tokens.weight", "lm_head.weight"} & tensor_files(source).keys():
        before, after = old(matrix), new(matrix)
        assert len(after) == first + 150 == read_json(to / "hf/config.json")["vocab_size"]
        assert torch.equal(after[:first], before[:first])
        for number, ids in enumerate(pieces):
            assert torch.equal(after[first + number], before[ids].mean(0))
    others = [key for key in tensor_files(source) if key not in EMBEDDINGS]
    assert all(torch.equal(old(key), new(key)) for key in others)
    found = load_file(to / "logits.safetensors")["logits"]
    with torch.no_grad():
        expected = AutoModelForCausalLM.from_pretrained(to / "hf")(torch.tensor(TOKENS)).logits
    assert found.shape[-1] == first + 150
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


def test_every_family_has_a_model_here():
    assert {family for family, _ in MODELS.values()} == FAMILIES.keys()


def test_training_agrees_between_layouts(models, tmp_path):
    """Norms of query and key are whole on every rank, but each rank sees its own heads' gradients only."""
    lines = {}
    for ranks in (1, 2):
        model = {"type": "huggingface", "path": str(models["qwen3"][0])}
        recipe = tiny_recipe(
            tmp_path / str(ranks),
            model=model,
            parallel__tensor_parallel=ranks,
            versions__v1__tokens=32 * 8 * 4,
        )
        directory = prepare_version(recipe)
        inputs = read_json(directory / "inputs.json") | {"initial_weights": model["path"]}
        write_json(directory / "inputs.json", inputs)
        outcome = start_ranks(directory, ranks)
        assert outcome.returncode == 0, outcome.stderr
        lines[ranks] = metrics(directory)
    assert len(lines[1]) == 4
    for one, two in zip(lines[1], lines[2]):
        assert two["loss"] == pytest.approx(one["loss"], abs=1e-4)
        assert two["grad_norm"] == pytest.approx(one["grad_norm"], rel=1e-4)
    read_one, read_two = (weights_reader(tmp_path / f"{ranks}/versions/v1/hf") for ranks in (1, 2))
    for part in "qk":
        name = f"model.layers.1.self_attn.{part}_norm.weight"
        trained = read_one(name)
        assert not torch.equal(trained, weights_reader(models["qwen3"][0])(name))
        torch.testing.assert_close(read_two(name), trained, rtol=0, atol=1e-4)


def test_no_collective_with_a_time_limit_waits_for_files(tmp_path):
    recipe = tiny_recipe(tmp_path, parallel__tensor_parallel=2)
    assert on_rank("slow_export", prepare_version(recipe), ranks=2) > 10
