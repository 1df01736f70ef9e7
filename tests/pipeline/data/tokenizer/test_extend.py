"""Vocabulary extension: reachable new tokens behind unchanged old ones."""

import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, trainers
from transformers import AutoTokenizer

from perdure.pipeline.core.errors import PerdureError
from perdure.pipeline.core.files import read_json
from perdure.pipeline.core.hashes import hash_file
from perdure.pipeline.core.manifest import finish
from perdure.pipeline.core.tokenizers import load_tokenizer
from perdure.pipeline.data.context import StageContext
from perdure.pipeline.data.tokenizer.directory import problem
from perdure.pipeline.data.tokenizer.extend import extend
from perdure.pipeline.data.tokenizer.train import build_tokenizer, tokenizer_inputs, train
from perdure.pipeline.recipe import ExtendedTokenizer, HuggingFaceTokenizer


def prose(seed: int, alphabet: str, count: int = 120) -> list[str]:
    rng = random.Random(seed)
    words = ["".join(rng.choices(alphabet, k=rng.randint(2, 9))) for _ in range(150)]
    return [" ".join(rng.choices(words, k=rng.randint(5, 40))) + ".\n" for _ in range(count)]


OLD, NEW = prose(1, "abcdefgh"), prose(2, "mnopäöüß")


def byte_level() -> Tokenizer:
    return train(500, iter(OLD))


def sentencepiece_like() -> Tokenizer:
    """As transformers converts Llama 2's: no words, `▁` for spaces, bytes for what the vocabulary lacks."""
    learnt = Tokenizer(models.BPE())
    pieces = [*"abcdefgh.\n", "▁"]
    from tokenizers import pre_tokenizers

    learnt.pre_tokenizer = pre_tokenizers.Metaspace()
    learnt.train_from_iterator(
        iter(OLD), trainers.BpeTrainer(vocab_size=300, initial_alphabet=pieces, show_progress=False)
    )
    model = json.loads(learnt.to_str())["model"]
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    tokens += [token for token in model["vocab"] if token not in tokens]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    merges = [tuple(merge) for merge in model["merges"]]
    tokenizer = Tokenizer(
        models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    return tokenizer


@pytest.fixture(scope="module", params=[byte_level, sentencepiece_like])
def extended(request):
    base = request.param()
    base.add_special_tokens(["<|late|>"])  # as Llama 3: after the vocabulary, where new tokens would begin
    new, pieces = extend(base, 150, lambda: iter(NEW), "model")
    return base, new, pieces


def size(tokenizer: Tokenizer) -> int:
    return max(tokenizer.get_vocab(with_added_tokens=True).values()) + 1


def encode(tokenizer: Tokenizer, text: str) -> list[int]:
    return tokenizer.encode(text, add_special_tokens=False).ids


def test_old_ids_stay_and_new_ones_follow(extended):
    base, new, pieces = extended
    old = base.get_vocab(with_added_tokens=True)
    assert {token: new.token_to_id(token) for token in old} == old
    assert encode(new, "ab<|late|>")[-1] == old["<|late|>"] == size(base) - 1
    assert len(pieces) == 150 and size(new) == size(base) + 150


def test_text_goes_round(extended):
    base, new, _ = extended
    for text in [*NEW, *OLD, "新しい文 🙂 mnop", "mnop  <|late|>abc"]:
        assert new.decode(encode(new, text), skip_special_tokens=False) == base.decode(
            encode(base, text), skip_special_tokens=False
        )
        assert new.decode(encode(new, NEW[0])) == NEW[0]


def test_old_text_is_cut_as_before_and_new_text_into_fewer_tokens(extended):
    base, new, _ = extended
    assert [encode(new, text) for text in OLD] == [encode(base, text) for text in OLD]
    before, after = (sum(len(encode(tokenizer, text)) for text in NEW) for tokenizer in (base, new))
    assert after < 0.7 * before


def test_every_new_token_is_reached_and_its_pieces_are_the_old_cut(extended):
    base, new, pieces = extended
    for number, old in enumerate(pieces, size(base)):
        text = new.id_to_token(number)
        assert [token.id for token in new.model.tokenize(text)] == [number], text
        assert old == [token.id for token in base.model.tokenize(text)]
        assert old and all(index < size(base) for index in old)


def test_new_tokens_are_the_most_frequent_pairs():
    """`mn` occurs thrice, `op`, and each with the space before it, twice, `qr` once."""
    base = train(300, iter(["x"]))
    new, pieces = extend(base, 4, lambda: iter(["mn mn mn op op qr"]), "model")
    first = size(base)
    assert new.id_to_token(first) == "mn"
    assert {new.id_to_token(first + number) for number in range(4)} == {"mn", "op", "Ġmn", "Ġop"}
    assert pieces[0] == [base.token_to_id("m"), base.token_to_id("n")]
    with pytest.raises(PerdureError, match=r"num_tokens = 9: the sources yield only 4 new tokens"):
        extend(base, 9, lambda: iter(["mn mn mn op op qr"]), "model")


def test_missing_characters_of_a_byte_fallback_vocabulary_become_tokens():
    base = sentencepiece_like()
    new, pieces = extend(base, 40, lambda: iter(NEW), "model")
    number = new.token_to_id("ä")
    assert number >= size(base)
    assert pieces[number - size(base)] == [base.token_to_id("<0xC3>"), base.token_to_id("<0xA4>")]


def test_only_bpe_can_be_extended():
    with pytest.raises(PerdureError, match="WordLevel cannot be extended"):
        extend(Tokenizer(models.WordLevel({"a": 0}, "a")), 5, lambda: iter(NEW), "model")


@settings(max_examples=25)
@given(st.lists(st.text("abmnop ", min_size=8, max_size=60), min_size=4, max_size=8), st.integers(0, 99))
def test_any_text_goes_round_and_any_new_token_is_reached(texts, seed):
    base = train(262, iter(prose(seed, "abmn", 5)))
    try:
        new, pieces = extend(base, 4, lambda: iter(texts * 2), "model")
    except PerdureError:
        return  # too little text for four tokens
    for text in texts:
        assert new.decode(encode(new, text)) == text
    for number, old in enumerate(pieces, size(base)):
        piece = new.id_to_token(number)
        assert [token.id for token in new.model.tokenize(piece)] == [number]
        assert "".join(map(base.id_to_token, old)) == piece


def test_the_directory_says_what_it_extends_and_loads_in_transformers(tmp_path):
    (tmp_path / "model").mkdir()
    base = byte_level()
    base.save(str(tmp_path / "model/tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|endoftext|>"}
    (tmp_path / "model/tokenizer_config.json").write_text(json.dumps(config))
    (tmp_path / "model/vocab.json").write_text("{}")
    from datatrove.data import Document
    from datatrove.pipeline.writers.jsonl import JsonlWriter

    with JsonlWriter(str(tmp_path / "new"), "${rank}.jsonl.zst", compression="zstd") as writer:
        for number, text in enumerate(NEW):
            writer.write(Document(text, str(number)), 0)
    spec = ExtendedTokenizer(type="extend", path=tmp_path / "model", num_tokens=50, sources=["new"])
    finish(tmp_path / "new", {"counts": {"words": {"out": 9999}}})
    context = StageContext(tmp_path, 1, lambda: pytest.fail("no sample is needed"))
    given = {"new": tmp_path / "new"}, tokenizer_inputs(spec)
    built = build_tokenizer(context, spec, tmp_path / "built", *given)
    loaded = load_tokenizer(built)
    facts = read_json(built / "extension.json")
    assert facts["base_tokenizer_hash"] == hash_file(tmp_path / "model/tokenizer.json") != loaded.hash
    assert facts["base_vocab_size"] == size(base) == loaded.vocab_size - 50 and len(facts["pieces"]) == 50
    assert not (built / "vocab.json").exists()  # it would list the old vocabulary
    theirs = AutoTokenizer.from_pretrained(built, split_special_tokens=True)
    for text in [*NEW[:5], *OLD[:5], "x<|endoftext|>y"]:
        assert theirs(text)["input_ids"] == encode(loaded.tokenizer, text)


KINDS = {
    "WordLevel": models.WordLevel({"<eos>": 0, "a": 1}, unk_token="<eos>"),
    "WordPiece": models.WordPiece({"<eos>": 0, "a": 1}, unk_token="<eos>"),
    "Unigram": models.Unigram([("<eos>", 0.0), ("a", -1.0)], unk_id=0),
    "BPE with '##'": models.BPE({"<eos>": 0, "a": 1}, [], continuing_subword_prefix="##"),
    "BPE with '</w>'": models.BPE({"<eos>": 0, "a": 1}, [], end_of_word_suffix="</w>"),
    "": models.BPE({"<eos>": 0, "a": 1}, []),
}
"""Models by how a refusal names them; the last one can be extended."""


@pytest.mark.parametrize("named", KINDS)
def test_check_knows_which_tokenizers_can_be_extended(tmp_path, named):
    Tokenizer(KINDS[named]).save(str(tmp_path / "tokenizer.json"))
    spec = ExtendedTokenizer(type="extend", path=tmp_path, num_tokens=1, sources=["a"], eos_token="<eos>")
    found = problem(spec)
    assert (found is None) == (named == "")
    assert found is None or found.remedy.startswith(f"{named} cannot be extended; only BPE")
    plain = HuggingFaceTokenizer(type="huggingface", path=tmp_path, eos_token="<eos>")
    assert problem(plain) is None
