"""Every family: transformers' logits under every layout, and the same tensors out again."""

import pytest
import torch
from safetensors.torch import load_file
from support import on_rank, read_json

from perdure.pipeline.convert.families import FAMILIES
from perdure.pipeline.convert.huggingface import tensor_files, weights_hash, weights_reader

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


@pytest.fixture(scope="module", params=[{}, {"tensor_parallel": 2}, {"pipeline_parallel": 2}], ids=str)
def converted(request, models, tmp_path_factory):
    """All models through our trainer's model under one layout."""
    root = tmp_path_factory.mktemp("converted")
    jobs = [[str(directory), str(root / name)] for name, (directory, _) in models.items()]
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
    assert read_json(exported / "config.json") == read_json(source / "config.json")
    assert read_json(exported / "generation_config.json") == read_json(source / "generation_config.json")
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


def test_every_family_has_a_model_here():
    assert {family for family, _ in MODELS.values()} == FAMILIES.keys()
