"""Tokenizer directories of many kinds, generated from a number."""

import json
import random
from functools import cache
from pathlib import Path

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

from perdure.pipeline.recipe import HuggingFaceTokenizer

EOS = "<|end|>"
LEARNT = [
    "The cat sat on the mat, and the dog didn't. It cost 1,234.50 euros!",
    "naïve façade\n\tdef f(x):\n        return x",
    "新しい文を読む。日本語の文章",
    "Привет, мир! Это текст.",
    "नमस्ते दुनिया",
] * 8
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


def change_model(tree: dict, kind: str, rng: random.Random) -> None:
    """Changes what `tokenizer.json` does to a text, in some of its parts."""

    def often(share: float) -> bool:
        return rng.random() < share

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


def change_config(config: dict, rng: random.Random) -> None:
    """Fills in `tokenizer_config.json`."""
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
        if rng.random() < 0.2:
            config[key] = rng.choice(values)


def generate(number: int, directory: Path) -> tuple[HuggingFaceTokenizer, dict]:
    """Writes the directory of a configuration; returns it with what its model's `config.json` says."""
    rng = random.Random(number)
    kind = KINDS[number % len(KINDS)]
    tree, config, often = json.loads(base(kind)), {"eos_token": EOS}, lambda share: rng.random() < share
    size = 1 + max(entry["id"] for entry in tree["added_tokens"])
    size = max(size, len(tree["model"]["vocab"]))
    change_model(tree, kind, rng)
    for content in rng.sample(["<tool>", "tool", "<Extra>", " here", "<tool>s"], rng.choice([0, 0, 1, 3])):
        tree["added_tokens"].append({"id": size} | token(content, rng))
        size += 1
    change_config(config, rng)
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
