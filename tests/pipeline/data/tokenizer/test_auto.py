"""The tokens in the shards against AutoTokenizer's on an export, over hundreds of generated tokenizer directories."""

import json
import shutil
from collections import Counter
from pathlib import Path

import pytest
from datatrove.data import Document
from tokenizers import Tokenizer
from transformers import AutoTokenizer
from transformers.utils import logging

from perdure.pipeline.core.errors import PerdureError
from perdure.pipeline.core.files import read_json
from perdure.pipeline.core.tokenizers import LOADED, load_tokenizer
from perdure.pipeline.data.context import StageContext
from perdure.pipeline.data.encode import encode_texts
from perdure.pipeline.data.tokenizer.auto import as_loaded
from perdure.pipeline.data.tokenizer.train import build_tokenizer, tokenizer_inputs
from perdure.pipeline.model.export import OURS
from perdure.pipeline.recipe import HuggingFaceTokenizer
from tests.pipeline.data.tokenizer.generated import EOS, LEARNT, base, generate

CONFIGURATIONS = 280
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


def build(spec: HuggingFaceTokenizer, config: dict, to: Path) -> Path:
    context = StageContext(to.parent, 1, lambda: pytest.fail("nothing is learnt"))
    built = build_tokenizer(context, spec, to, {}, tokenizer_inputs(spec))
    as_loaded(built, config)
    return built


def ours(built: Path) -> list[list[int]]:
    documents = [Document(text, str(number)) for number, text in enumerate(TEXTS)]
    return [encoded.tokens[:-1] for encoded in encode_texts(load_tokenizer(built), documents)]


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
    ids = next(encode_texts(load_tokenizer(built), [Document(" cat", "0")])).tokens[:-1]
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
