"""Small inputs and the command line over them."""

import json
import random
from pathlib import Path

import pytest
import torch
import yaml
from pyarrow import parquet
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from perdure.pipeline.cli import entry
from perdure.pipeline.core.files import read_json

EOS = "<|endoftext|>"
WORDS = (
    "bottle bridge careful engine forest harbor letter machine market music paper planet reason river signal winter yellow"
).split()
PHRASES = {
    "ja": (
        ["町の図書館は", "小さな船は", "隣の家族は", "冬の嵐は"],
        ["北からの手紙を", "港の壁を", "三つの木の椅子を", "パンの値段を"],
        ["静かに直しました。", "毎年調べています。", "忘れてしまいました。", "詳しく書いています。"],
    ),
    "zh": (
        ["城里的图书馆", "一条小船", "我们的邻居", "那场冬天的暴风雨"],
        ["慢慢地修理了", "每年都测量", "已经忘记了", "仔细描述了"],
        ["港口的墙。", "三把木头椅子。", "北方寄来的信。", "面包的价格。"],
    ),
}
"""Parts of sentences; every sentence takes one of each."""

Answer = tuple[int, str, str]
"""Exit status, standard output, standard error."""


def english(number: int, words: int = 40) -> str:
    return f"Document number {number}. {' '.join(random.Random(number).choices(WORDS, k=words))}."


def fluent(language: str, seed: int, sentences: int) -> str:
    rng = random.Random(seed)
    return "".join(rng.choice(part) for _ in range(sentences) for part in PHRASES[language])


def write_lines(path: Path, texts: list[str], **options) -> None:
    rows = [{"id": f"{path.stem}-{number}", "text": text} for number, text in enumerate(texts)]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, **options) + "\n" for row in rows), encoding="utf-8")


def write_tokenizer(directory: Path, byte_level: bool = True, eos: str | None = EOS) -> Path:
    """400 tokens learnt from English text: of bytes, or of the characters that occur, with no token for any other."""
    tokenizer = Tokenizer(models.BPE())
    alphabet = pre_tokenizers.ByteLevel.alphabet() if byte_level else []
    tokenizer.pre_tokenizer = (
        pre_tokenizers.ByteLevel(add_prefix_space=False) if byte_level else pre_tokenizers.Metaspace()
    )
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=[EOS], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([english(number) for number in range(50)], trainer)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=eos).save_pretrained(directory)
    return directory


def write_model(directory: Path, **changes) -> Path:
    """A small Llama with random weights, wide enough apart that a wrong tensor shows."""
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=400, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=256, initializer_range=0.2, **changes,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(directory)
    return write_tokenizer(directory)


def change_json(path: Path, **changes) -> None:
    path.write_text(json.dumps(read_json(path) | changes))


class Case:
    """A directory with a recipe in it, and the commands run there."""

    def __init__(self, directory: Path, capsys: pytest.CaptureFixture):
        self.directory, self.capsys = directory, capsys
        self.tree = {
            "name": "case",
            "out": str(directory / "out"),
            "sources": {"a": {"reader": {"type": "jsonl", "path": "in"}, "clean": [], "heldout_fraction": 0.05}},
            "data": {"tasks": 1, "workers": 1},
            "tokenizer": {"type": "huggingface", "path": "tok"},
            "model": {
                "type": "llama", "num_layers": 1, "hidden_size": 32, "ffn_hidden_size": 64, "num_attention_heads": 2,
                "num_query_groups": 1,
            },
            "training": {"seq_length": 64, "micro_batch_size": 2, "global_batch_size": 4, "async_checkpoint": False},
            "evaluation": {"contamination": None},
            "versions": {
                "v": {
                    "start": {"type": "init"},
                    "tokens": 256,
                    "mixture": {"sources": {"a": {}}},
                    # Nothing is learnt: what comes out must be what went in.
                    "schedule": {"type": "constant", "max_lr": 1e-30},
                }
            },
        }  # fmt: skip

    def perdure(self, verb: str, *arguments: str) -> Answer:
        if verb != "import":
            recipe = self.directory / "r.yaml"
            if not recipe.exists():
                recipe.write_text(yaml.safe_dump(self.tree, sort_keys=False))
            arguments = ("r.yaml", *arguments)
        status = entry.main([verb, *arguments])
        said = self.capsys.readouterr()
        return status, said.out, said.err

    def data(self) -> str:
        """What the data stage says when it succeeds."""
        status, out, err = self.perdure("data")
        assert status == 0, err
        return out

    def documents(self, source: str = "a") -> list[dict]:
        """The rows of a source's documents."""
        (found,) = self.directory.glob(f"out/data/{source}@*/docs.parquet")
        return parquet.read_table(found).to_pylist()
