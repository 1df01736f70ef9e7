"""The tokens in the shards against AutoTokenizer's on an export, over hundreds of generated tokenizer directories."""

import json
import random
import shutil
from collections import Counter
from functools import cache
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import AutoTokenizer
from transformers.utils import logging

from perdure.pipeline.core.errors import PerdureError
from perdure.pipeline.core.files import read_json
from perdure.pipeline.core.tokenizers import LOADED, load_tokenizer
from perdure.pipeline.data.shard import encode
from perdure.pipeline.data.tokenizer.auto import as_loaded
from perdure.pipeline.data.tokenizer.train import build_tokenizer, tokenizer_inputs
from perdure.pipeline.model.export import OURS
from perdure.pipeline.recipe import HuggingFaceTokenizer

CONFIGURATIONS = 280
EOS = "<|end|>"
LEARNT = [
    "The cat sat on the mat, and the dog didn't. It cost 1,234.50 euros!",
    "naïve façade\n\tdef f(x):\n        return x",
    "新しい文を読む。日本語の文章",
    "Привет, мир! Это текст.",
    "नमस्ते दुनिया",
] * 8
TEXTS = [
    *LEARNT[:5],
    "",
    " ",
    "   lead and trail   ",
    "\n\n a \n  b\t\tc\n",
    "x" * 40 + " " * 30 + "y",
    "emoji 🙂👩‍👩‍👧‍👦 🇯🇵 and \u0301 marks e\u0301",
    "control \x00\x07\u200b\u200e\ufeff signs",
    f"spelled {EOS} and <unk>[UNK]<s> <0x41> inside, {EOS}{EOS} twice<pad>",
    "an added<tool> <tool>,<tool>s tool xtoolx TOOL  <Extra>  <extra> here",
    "▁already▁marked Ġtoken ##ing don't I'LL",
    "ＦＵＬＬ width ﬁne ①",
    "مرحبا بالعالم 안녕하세요 สวัสดี",
]
CLASSES = [
    *[None, "PreTrainedTokenizerFast", "TokenizersBackend", "LlamaTokenizer", "LlamaTokenizerFast"],
    *[
        "Qwen2Tokenizer",
        "GemmaTokenizer",
        "GPT2Tokenizer",
        "BertTokenizer",
        "T5TokenizerFast",
        "UnheardOfTokenizer",
    ],
    *["CodeLlamaTokenizer", "GPTNeoXTokenizerFast", "CohereTokenizer", "CTRLTokenizer", "Siglip2Tokenizer"],
]


@cache
def base(kind: str) -> str:
    """A tokenizer of a kind, as JSON."""
    special = ["<unk>", EOS, "<s>"]
    if kind.startswith("bpe"):
        unknown = {"bpe-unk": "<unk>", "bpe-bytes": "<unk>"}.get(kind)
        tokenizer = Tokenizer(models.BPE(unk_token=unknown, byte_fallback=kind == "bpe-bytes", fuse_unk=True))
        if kind == "bpe-level":
            tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        elif kind == "bpe-bytes":
            special += [f"<0x{byte:02X}>" for byte in range(256)]
            tokenizer.normalizer = normalizers.Sequence(
                [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
            )
        else:
            tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
        alphabet = pre_tokenizers.ByteLevel.alphabet() if kind == "bpe-level" else []
        trainer = trainers.BpeTrainer(vocab_size=500, special_tokens=special, initial_alphabet=alphabet)
    elif kind == "unigram":
        tokenizer = Tokenizer(models.Unigram())
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
        trainer = trainers.UnigramTrainer(vocab_size=150, special_tokens=special, unk_token="<unk>")
    elif kind == "wordpiece":
        tokenizer = Tokenizer(models.WordPiece(unk_token="<unk>"))
        tokenizer.normalizer = normalizers.BertNormalizer(lowercase=False)
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        trainer = trainers.WordPieceTrainer(vocab_size=300, special_tokens=special)
    else:
        tokenizer = Tokenizer(models.WordLevel(unk_token="<unk>"))
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        trainer = trainers.WordLevelTrainer(vocab_size=100, special_tokens=special)
    tokenizer.train_from_iterator(LEARNT, trainer)
    tree = json.loads(tokenizer.to_str())
    if kind == "bpe-bytes":  # pieces for bytes are no added tokens
        tree["added_tokens"] = tree["added_tokens"][:3]
    return json.dumps(tree)


KINDS = ("bpe-level", "bpe-bytes", "bpe-unk", "bpe-neither", "unigram", "wordpiece", "wordlevel")


def token(content: str, rng: random.Random, **fixed) -> dict:
    flags = {
        name: rng.random() < 0.4 for name in ("lstrip", "rstrip", "normalized", "single_word", "special")
    }
    return {"content": content} | flags | fixed


def generate(number: int, directory: Path) -> tuple[HuggingFaceTokenizer, dict]:
    """Writes the directory of a configuration; returns it with what its model's `config.json` says."""
    rng = random.Random(number)
    kind = KINDS[number % len(KINDS)]
    tree, config, often = json.loads(base(kind)), {"eos_token": EOS}, lambda share: rng.random() < share
    size = 1 + max(entry["id"] for entry in tree["added_tokens"])
    size = max(size, len(tree["model"]["vocab"]))
    if often(0.3):
        tree["truncation"] = {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
    if often(0.3):
        tree["padding"] = {
            "strategy": {"Fixed": 64},
            "direction": "Left",
            "pad_to_multiple_of": None,
            "pad_id": 0,
            "pad_type_id": 0,
            "pad_token": "<unk>",
        }
    if often(0.08) and kind.startswith("bpe"):
        tree["model"]["dropout"] = rng.choice([0.3, 0.0])
    if often(0.35):
        steps = [
            {"type": "NFC"},
            {"type": "NFKC"},
            {"type": "Lowercase"},
            {"type": "StripAccents"},
            {"type": "Strip", "strip_left": True, "strip_right": True},
            {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "},
            {"type": "Replace", "pattern": {"String": "cat"}, "content": "dog"},
        ]
        old = [tree["normalizer"]] if tree["normalizer"] else []
        tree["normalizer"] = {"type": "Sequence", "normalizers": [*rng.sample(steps, 2), *old]}
    if (before := tree["pre_tokenizer"]) and often(0.3):
        if before["type"] == "ByteLevel":
            before |= {"add_prefix_space": True, "trim_offsets": often(0.5), "use_regex": often(0.5)}
        elif before["type"] == "Metaspace":
            before |= {"prepend_scheme": rng.choice(["never", "first", "always"]), "split": often(0.5)}
    if often(0.3):
        tree["post_processor"] = {
            "type": "TemplateProcessing",
            "single": [
                {"SpecialToken": {"id": "<s>", "type_id": 0}},
                {"Sequence": {"id": "A", "type_id": 0}},
            ],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [2], "tokens": ["<s>"]}},
        }
    for content in rng.sample(["<tool>", "tool", "<Extra>", " here", "<tool>s"], rng.choice([0, 0, 1, 3])):
        tree["added_tokens"].append({"id": size} | token(content, rng))
        size += 1
    if (name := rng.choice(CLASSES)) is not None:
        config["tokenizer_class"] = name
    for key, values in (
        ("add_prefix_space", (True, False)),
        ("legacy", (True, False)),
        ("clean_up_tokenization_spaces", (True, False)),
        ("do_lower_case", (True, False)),
        ("add_bos_token", (True, False)),
        ("split_special_tokens", (True, False)),
        ("pad_token", ("<pad>", "<unk>")),
        ("unk_token", ("<unk>", "[UNK]")),
        ("bos_token", ("<s>", token("<s>", rng, special=True) | {"__type": "AddedToken"})),
        ("extra_special_tokens", (["<extra>"],)),
        ("model_max_length", (8, 10**9)),
        ("padding_side", ("left",)),
    ):
        if often(0.2):
            config[key] = rng.choice(values)
    if often(0.15):
        listed = {
            str(entry["id"]): {k: v for k, v in entry.items() if k != "id"} for entry in tree["added_tokens"]
        }
        listed[str(size)] = token("<Extra>", rng)
        config["added_tokens_decoder"] = listed
    if often(0.03):
        config["auto_map"] = {"AutoTokenizer": ["code.Slow", "code.Fast"]}
        (directory / "code.py").write_text("raise SystemExit('ran')\n")
    if often(0.15):
        (directory / "added_tokens.json").write_text(json.dumps({"<tool>": size, "TOOL": size + 1}))
    if often(0.2):
        mapped = {"eos_token": rng.choice([EOS, token(EOS, rng, special=True), "<s>"]), "pad_token": "<pad>"}
        (directory / "special_tokens_map.json").write_text(json.dumps(mapped))
    (directory / "tokenizer.json").write_text(json.dumps(tree))
    if often(0.95):
        (directory / "tokenizer_config.json").write_text(json.dumps(config))
    spec = HuggingFaceTokenizer(
        type="huggingface",
        path=directory,
        eos_token=rng.choice([None, None, EOS, "<s>"]),
        parse_special_tokens=often(0.3),
    )
    return spec, {"model_type": rng.choice(["llama", "llama", "mistral", "qwen2", "qwen3"])}


def build(spec: HuggingFaceTokenizer, config: dict, to: Path) -> Path:
    given = {}, 0.0, tokenizer_inputs(spec), 1, lambda: pytest.fail("nothing is learnt")
    built = build_tokenizer(spec, to, *given)
    as_loaded(built, config)
    return built


def ours(built: Path) -> list[list[int]]:
    return [ids[:-1] for ids in encode(load_tokenizer(built), TEXTS)]


def theirs(built: Path, config: dict, to: Path, parse: bool) -> list[list[int]]:
    """What an export's directory gives."""
    shutil.copytree(built, to, ignore=shutil.ignore_patterns(*OURS))
    (to / "config.json").write_text(json.dumps(config))
    auto = AutoTokenizer.from_pretrained(to, trust_remote_code=False)
    return [
        auto(text, add_special_tokens=False, split_special_tokens=not parse)["input_ids"] for text in TEXTS
    ]


def test_tokens_are_autotokenizers_or_refused(tmp_path):
    logging.set_verbosity_error()
    found, reasons, rebuilt, wrong = Counter(), Counter(), 0, []
    for number in range(CONFIGURATIONS):
        directory = tmp_path / str(number)
        directory.mkdir()
        spec, config = generate(number, directory)
        built = tmp_path / f"{number}.built"
        try:
            first = ours(build(spec, config, built))
        except PerdureError as error:
            found["refused"] += 1
            reasons[str(error).replace(str(directory), "").replace(str(built), "")[:70]] += 1
            continue
        rebuilt += (built / LOADED).exists()
        same = first == theirs(built, config, tmp_path / f"{number}.hf", spec.parse_special_tokens)
        again = first == ours(built if number % 8 else build(spec, config, tmp_path / f"{number}.again"))
        found["equal" if same and again else "wrong"] += 1
        if not (same and again):
            wrong.append(number)
    print(CONFIGURATIONS, dict(found), f"{rebuilt} rebuilt", *reasons.most_common(), sep="\n")
    assert not wrong
    assert found["equal"] >= 200 and rebuilt >= 20 and found["refused"] >= 10


def test_added_tokens_that_are_the_same_once_normalised_are_refused(tmp_path):
    spec, config = written(tmp_path, "unigram", {"tokenizer_class": "PreTrainedTokenizerFast"})
    tree = read_json(tmp_path / "tokenizer.json")
    tree["normalizer"] = {"type": "Lowercase"}
    size = len(tree["model"]["vocab"])
    for place, content in enumerate(("tool", "TOOL")):
        tree["added_tokens"].append(
            {"id": size + place}
            | dict.fromkeys(("lstrip", "rstrip", "single_word", "special"), False)
            | {"content": content, "normalized": True}
        )
    (tmp_path / "tokenizer.json").write_text(json.dumps(tree))
    (tmp_path / "added_tokens.json").write_text(json.dumps({"Tool": size + 2}))
    with pytest.raises(PerdureError, match="several of its added tokens are 'tool' once normalised"):
        build(spec, config, tmp_path / "built")


def written(directory: Path, kind: str, config: dict) -> tuple[HuggingFaceTokenizer, dict]:
    """A directory with a tokenizer of a kind, for a Llama."""
    (directory / "tokenizer.json").write_text(base(kind))
    (directory / "tokenizer_config.json").write_text(json.dumps({"eos_token": EOS} | config))
    return HuggingFaceTokenizer(type="huggingface", path=directory), {"model_type": "llama"}


def test_a_class_that_builds_its_tokenizer_anew_decides(tmp_path):
    spec, config = written(tmp_path, "bpe-bytes", {"tokenizer_class": "LlamaTokenizer"})
    built = build(spec, config, tmp_path / "built")
    assert (built / "tokenizer.json").read_text() == base("bpe-bytes")  # whose hash identifies the tokenizer
    stated = Tokenizer.from_str(base("bpe-bytes"))
    # The file puts a blank before every text, the class only where none is.
    ids = next(encode(load_tokenizer(built), [" cat"]))[:-1]
    assert ids == stated.encode("cat", add_special_tokens=False).ids
    assert ids != stated.encode(" cat", add_special_tokens=False).ids
    # Beside a Mistral, transformers goes by the file: one directory cannot be both.
    with pytest.raises(PerdureError, match="made for a llama model; beside a mistral model"):
        as_loaded(built, {"model_type": "mistral"})


def test_a_tokenizer_that_is_as_it_is_written_keeps_its_identity(tmp_path):
    spec, config = written(
        tmp_path, "bpe-level", {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "<pad>"}
    )
    built = build(spec, config, tmp_path / "built")
    facts = read_json(built / "manifest.json")
    assert facts["loaded"] == {"beside": "llama", "sha256": None, "loses_characters": False}
    assert facts["vocab_size"] == len(read_json(built / "tokenizer.json")["model"]["vocab"])
    # One that was made before this was recorded gets it added, and nothing else changes.
    (built / "manifest.json").write_text(json.dumps({k: v for k, v in facts.items() if k != "loaded"}))
    assert as_loaded(built, config) == facts


@pytest.mark.parametrize(
    ("kind", "config", "extra", "match"),
    [
        ("bpe-level", {"tokenizer_class": "CTRLTokenizer"}, {}, "cannot load it|code of its own"),
        ("bpe-level", {"auto_map": {"AutoTokenizer": [None, "code.Fast"]}}, {}, "never run"),
        ("bpe-level", {}, {"dropout": 0.25}, "dropout` of 0.25: it would cut the same text differently"),
        ("wordlevel", {}, {"unk_token": "[none]"}, "not in its vocabulary stops it"),
    ],
)
def test_what_cannot_be_promised_is_refused(tmp_path, kind, config, extra, match):
    spec, model = written(tmp_path, kind, config)
    tree = json.loads(base(kind))
    tree["model"] |= extra
    (tmp_path / "tokenizer.json").write_text(json.dumps(tree))
    with pytest.raises(PerdureError, match=match):
        build(spec, model, tmp_path / "built")
