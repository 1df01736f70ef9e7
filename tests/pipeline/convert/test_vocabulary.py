"""Which tokenizers may follow on which: the same, or one that extends it."""

import json

import pytest
import torch

from perdure.pipeline.convert.vocabulary import Extension, extended_reader, extension_between
from perdure.pipeline.errors import PerdureError
from perdure.pipeline.manifest import hash_file, write_json
from perdure.pipeline.run import _vocab_size


@pytest.fixture
def directories(tmp_path):
    """A model of 300 embeddings, and a tokenizer that extends its tokenizer by two tokens."""
    model, tokenizer = tmp_path / "model", tmp_path / "tokenizer"
    for directory, content in ((model, "old"), (tokenizer, "new")):
        directory.mkdir()
        (directory / "tokenizer.json").write_text(content)
    (model / "config.json").write_text(json.dumps({"model_type": "llama", "vocab_size": 300}))
    base = hash_file(model / "tokenizer.json")
    facts = {"base_tokenizer_hash": base, "base_vocab_size": 299, "pieces": [[0, 2], [1]]}
    write_json(tokenizer / "extension.json", facts)
    return model, tokenizer


def test_an_extension_of_the_models_tokenizer_is_found(directories):
    assert extension_between(*directories) == Extension(299, [[0, 2], [1]])
    assert _vocab_size(*directories, 301) == 301
    assert _vocab_size(*directories, 299) == 300  # a model may have spare rows


def test_a_model_that_has_the_tokenizer_already_is_left_alone(directories):
    model, tokenizer = directories
    (model / "tokenizer.json").write_text("new")
    assert extension_between(model, tokenizer) is None
    with pytest.raises(PerdureError, match="300 embeddings, but the tokenizer has 301 tokens"):
        _vocab_size(model, tokenizer, 301)


def test_any_other_tokenizer_is_refused_naming_the_hashes(directories):
    model, tokenizer = directories
    base = hash_file(model / "tokenizer.json")[:8]
    (model / "tokenizer.json").write_text("other")
    ours, theirs = (hash_file(path / "tokenizer.json")[:8] for path in (tokenizer, model))
    with pytest.raises(PerdureError) as refusal:
        extension_between(model, tokenizer)
    assert all(digest in str(refusal.value) for digest in (base, ours, theirs))
    (tokenizer / "extension.json").unlink()
    with pytest.raises(PerdureError, match=rf"\({theirs}\) is not the run's \({ours}\)"):
        extension_between(model, tokenizer)


def test_rows_of_new_tokens_are_means():
    weight = torch.arange(12.0).view(4, 3)
    read = extended_reader(
        {"model.embed_tokens.weight": weight, "x": weight}.get, Extension(3, [[0, 2], [1]]), 5
    )
    assert torch.equal(read("x"), weight)
    found = read("model.embed_tokens.weight")
    assert torch.equal(found[:3], weight[:3])
    assert found[3:].tolist() == [[3.0, 4.0, 5.0], [3.0, 4.0, 5.0]]
