import json
import shutil
from collections import Counter
from copy import deepcopy

import pytest
import sentencepiece
from datatrove.data import Document
from datatrove.pipeline.writers.jsonl import JsonlWriter
from tokenizers import Tokenizer, normalizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from perdure.pipeline.core.errors import PerdureError
from perdure.pipeline.core.files import read_json
from perdure.pipeline.core.hashes import hash_file
from perdure.pipeline.core.manifest import finish
from perdure.pipeline.core.tokenizers import load_tokenizer
from perdure.pipeline.data.cleaning.normalise import text_hash
from perdure.pipeline.data.context import StageContext
from perdure.pipeline.data.encode import encode_texts
from perdure.pipeline.data.stage import run_data
from perdure.pipeline.data.tokenizer.train import build_tokenizer, tokenizer_inputs, train
from perdure.pipeline.recipe import HuggingFaceTokenizer, Recipe, SentencePieceTokenizer, TrainedTokenizer

SAMPLES = [
    "Plain words, and 12345 numbers.",
    "naïve  façade\n\tdef f(x):\n        return x",
    "新しい文 🙂",
    " lead",
    "",
]


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> "Path":  # noqa: F821
    """A Hugging Face tokenizer directory as models come with."""
    directory = tmp_path_factory.mktemp("tokenizer")
    train(600, iter(SAMPLES * 20)).save(str(directory / "tokenizer.json"))
    (directory / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": {"content": "<|endoftext|>"}})
    )
    return directory


def build(spec, directory):
    context = StageContext(directory, 1, lambda: pytest.fail("nothing is learnt"))
    return load_tokenizer(build_tokenizer(context, spec, directory / "built", {}, tokenizer_inputs(spec)))


def test_a_trained_tokenizer_is_reversible_and_deterministic():
    first, second = (train(400, iter(SAMPLES * 20)) for _ in range(2))
    assert first.to_str() == second.to_str()
    assert first.token_to_id("<|endoftext|>") == 0
    for text in [*SAMPLES, "\x00\x7f unseen: Ωж"]:
        assert first.decode(first.encode(text).ids) == text


def test_transformers_loads_what_was_trained(make_recipe, texts):
    from perdure.pipeline.data.stage import run_data

    recipe = make_recipe({"news": texts})
    run_data(recipe)
    (directory,) = recipe.directory.glob("tokenizer@*")
    ours, theirs = load_tokenizer(directory), AutoTokenizer.from_pretrained(directory)
    assert theirs.eos_token_id == ours.eos_id and len(theirs) == ours.vocab_size
    assert ours.hash == hash_file(directory / "tokenizer.json")
    for text in [*texts[:5], *SAMPLES]:
        assert theirs(text)["input_ids"] == ours.tokenizer.encode(text, add_special_tokens=False).ids


def test_a_vocabulary_that_the_text_cannot_fill_is_said(make_recipe, texts, said):
    tree = make_recipe({"a": texts[:5]}).model_dump(mode="json")
    tree["tokenizer"]["vocab_size"] = 100_000
    run_data(Recipe.model_validate(tree))
    (line,) = (line for line in said if line.startswith("tokenizer"))
    assert " tokens (vocab_size = 100,000: the text has no more pairs to merge), documents end" in line


def test_held_out_documents_do_not_train_the_tokenizer(make_recipe, texts):
    from perdure.pipeline.data.cleaning.normalise import is_heldout, text_hash
    from perdure.pipeline.data.stage import run_data

    recipe = make_recipe({"news": texts}, tasks=1)
    run_data(recipe)
    (directory,) = recipe.directory.glob("tokenizer@*")
    kept = [text for text in texts if not is_heldout(text_hash(text), 0.2)]
    assert 0 < len(kept) < len(texts)
    assert (
        load_tokenizer(directory).tokenizer.to_str()
        == train(400, iter(kept)).to_str()
        != train(400, iter(texts)).to_str()
    )


@pytest.mark.parametrize("tasks", [1, 3])
def test_large_sources_are_sampled_by_hash_whatever_the_tasks(tmp_path, texts, tasks):
    def in_turn(steps, tasks, directory):
        for rank in range(tasks):
            data = None
            for step in deepcopy(steps):
                data = step.run(data, rank, tasks)
            list(data)
        return [Counter(), Counter(documents=1, words=2), Counter()]

    clean = tmp_path / "clean"
    with JsonlWriter(str(clean), "${rank}.jsonl.zst", compression="zstd") as writer:
        for number, text in enumerate(texts):
            writer.write(Document(text, str(number)), number % tasks)
    words = sum(len(text.split()) for text in texts)
    finish(clean, {"counts": {"words": {"out": words}}})
    spec = TrainedTokenizer(type="train", vocab_size=400, sources=["a"], sample_words=words // 4)
    context = StageContext(tmp_path, tasks, lambda: in_turn, reserved_fraction=0.2)
    built = build_tokenizer(context, spec, tmp_path / "built", {"a": clean}, tokenizer_inputs(spec))
    chosen = [text for text in texts if 0.2 <= text_hash(text) / 2**64 < 0.2 + 0.8 * (words // 4) / words]
    assert 5 < len(chosen) < 25
    assert load_tokenizer(built).tokenizer.to_str() == train(400, iter(chosen)).to_str()
    assert read_json(built / "manifest.json")["sample"] == {"documents": 1, "words": 2, "of_words": words}
    assert not list(tmp_path.glob("work/*"))


def test_a_hugging_face_tokenizer_is_copied_byte_for_byte(trained, tmp_path):
    loaded = build(HuggingFaceTokenizer(type="huggingface", path=trained), tmp_path)
    assert (loaded.eos_id, loaded.hash) == (0, hash_file(trained / "tokenizer.json"))
    assert (tmp_path / "built/tokenizer_config.json").read_bytes() == (
        trained / "tokenizer_config.json"
    ).read_bytes()


@pytest.mark.parametrize("content", [b"[1]", b"", b"{}", None])
def test_a_damaged_tokenizer_is_never_loaded(trained, tmp_path, content):
    build(HuggingFaceTokenizer(type="huggingface", path=trained), tmp_path)
    file = tmp_path / "built" / "tokenizer.json"
    file.unlink() if content is None else file.write_bytes(content)
    with pytest.raises(PerdureError, match=r"tokenizer.json: (damaged|truncated|missing).*; delete "):
        load_tokenizer(file.parent)


def test_the_separator_can_be_chosen(trained, tmp_path):
    loaded = build(HuggingFaceTokenizer(type="huggingface", path=trained, eos_token="Ġ"), tmp_path)
    assert loaded.eos_id == loaded.tokenizer.token_to_id("Ġ") != 0
    assert AutoTokenizer.from_pretrained(tmp_path / "built").eos_token_id == loaded.eos_id


SPELLED = "GPT ends a text with <|endoftext|>, HTML strikes <s>it</s> out"


@pytest.mark.parametrize("parse", [False, True])
def test_a_spelled_special_token_is_text_unless_asked_for(trained, tmp_path, parse):
    spec = HuggingFaceTokenizer(type="huggingface", path=trained, parse_special_tokens=parse)
    loaded = build(spec, tmp_path)
    *ids, last = next(encode_texts(loaded, [Document(SPELLED, "0")])).tokens
    assert last == loaded.eos_id and ids.count(loaded.eos_id) == parse
    assert loaded.tokenizer.decode(ids, skip_special_tokens=False) == SPELLED
    file = str(tmp_path / "built/tokenizer.json")
    theirs = PreTrainedTokenizerFast(tokenizer_file=file, split_special_tokens=not parse)
    assert theirs.encode(SPELLED, add_special_tokens=False) == ids


def test_bad_separators_and_paths_are_refused(trained, tmp_path):
    with pytest.raises(PerdureError, match=r"eos_token = '<end>': .* has no token '<end>'"):
        build(HuggingFaceTokenizer(type="huggingface", path=trained, eos_token="<end>"), tmp_path)
    shutil.copy(trained / "tokenizer.json", tmp_path)
    with pytest.raises(PerdureError, match=r"eos_token = None: .* names no end-of-sequence token"):
        build(HuggingFaceTokenizer(type="huggingface", path=tmp_path), tmp_path)
    with pytest.raises(PerdureError, match=r"no `tokenizer.json` in it"):
        build(HuggingFaceTokenizer(type="huggingface", path=tmp_path / "no"), tmp_path)
    with pytest.raises(PerdureError, match="no such file"):
        build(SentencePieceTokenizer(type="sentencepiece", path=tmp_path / "no"), tmp_path)
    with pytest.raises(PerdureError, match="not a sentencepiece model"):
        build(SentencePieceTokenizer(type="sentencepiece", path=trained / "tokenizer.json"), tmp_path)


@pytest.fixture(scope="module", params=["unigram", "bpe", "bytes", "identity"])
def model(request, tmp_path_factory) -> "Path":  # noqa: F821
    """A small sentencepiece model of each kind."""
    directory = tmp_path_factory.mktemp("sentencepiece")
    options = {
        "unigram": {"model_type": "unigram"},
        "bpe": {"model_type": "bpe"},
        "bytes": {"model_type": "bpe", "byte_fallback": True, "remove_extra_whitespaces": False},
        "identity": {
            "model_type": "unigram",
            "normalization_rule_name": "identity",
            "add_dummy_prefix": False,
        },
    }[request.param]
    sentences = [
        f"the {a} {b}s over {a}{b} and {b}, ﬁne {a.upper()}"
        for a in ("cat", "dog", "owl")
        for b in ("jump", "run", "fly")
    ]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences * 20),
        model_prefix=str(directory / "m"),
        vocab_size=330 if request.param == "bytes" else 60,
        hard_vocab_limit=False,
        minloglevel=2,
        **options,
    )
    return directory / "m.model"


def test_a_sentencepiece_model_becomes_an_equal_fast_tokenizer(model, tmp_path):
    loaded = build(SentencePieceTokenizer(type="sentencepiece", path=model), tmp_path)
    original = sentencepiece.SentencePieceProcessor(model_file=str(model))
    assert (loaded.eos_id, loaded.vocab_size) == (original.eos_id(), original.vocab_size())
    texts = [
        "the owl runs",
        "The  DOG\n\njumps ﬁne  over",
        "a",
        " zebra flying ",
        "the <s>cat</s> <unk> <0x41> </s>",
        *SAMPLES,
    ]
    for text in texts:
        assert loaded.tokenizer.encode(text, add_special_tokens=False).ids == original.encode(text), text
    assert AutoTokenizer.from_pretrained(tmp_path / "built").eos_token_id == loaded.eos_id
    assert loaded.tokenizer.decode(original.encode("the owl runs")) == "the owl runs"


def test_an_unfaithful_conversion_is_noticed(model):
    from perdure.pipeline.data.tokenizer.sentencepiece import convert, verify

    tokenizer: Tokenizer = convert(model)[0]
    verify(tokenizer, model, ["the cat jumps"])
    tokenizer.normalizer = normalizers.Lowercase()
    with pytest.raises(PerdureError, match="differs from sentencepiece on 'the CAT"):
        verify(tokenizer, model, ["the CAT jumps"])


@pytest.mark.parametrize("model", ["bpe"], indirect=True)
def test_a_sentencepiece_recipe_end_to_end(make_recipe, model, texts):
    from perdure.pipeline.data.stage import run_data

    recipe = make_recipe({"news": texts}, tokenizer={"type": "sentencepiece", "path": str(model)})
    assert run_data(recipe)["news"].is_dir()
