"""Small inputs that version 0.1 answered wrongly, each through the command line as its user would meet it.

Each stands for a kind, and the kind has its own tests beside the code. A test here is named after what was wrong.
"""

import gzip
import json
import random
import re
import stat
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pytest
import torch
import yaml
import zstandard
from pyarrow import parquet
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from perdure.pipeline.cli import entry
from perdure.pipeline.core.files import read_json
from tests.support import start_ranks

pytestmark = pytest.mark.slow

EOS = "<|endoftext|>"
WORDS = "bottle bridge careful engine forest harbor letter machine market music paper planet reason river signal winter yellow".split()
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


@pytest.fixture
def case(tmp_path, monkeypatch, capsys) -> Case:
    monkeypatch.chdir(tmp_path)
    made = Case(tmp_path, capsys)

    def start(directory: Path, world_size: int, task: str = "train") -> None:
        outcome = start_ranks(directory, world_size, task)
        assert outcome.returncode == 0, outcome.stderr

    monkeypatch.setattr("perdure.pipeline.train.ranks.start", start)
    return made


@pytest.fixture
def tokenized(case) -> Case:
    """A case over 120 English documents in `in/a.jsonl`."""
    write_tokenizer(case.directory / "tok")
    write_lines(case.directory / "in" / "a.jsonl", [english(number) for number in range(120)])
    return case


@pytest.fixture
def with_model(case) -> Callable[..., Case]:
    """A case over a model directory, made with other fields of its configuration."""

    def make(**changes) -> Case:
        write_model(case.directory / "model", **changes)
        write_lines(case.directory / "in" / "a.jsonl", [english(number) for number in range(60)])
        case.tree["tokenizer"] = {"type": "huggingface", "path": "model"}
        case.tree["model"] = {"type": "huggingface", "path": "model"}
        return case

    return make


# --------------------------------------------------------------- what is trained and exported is what the files mean


def largest_difference(case: Case) -> float:
    """Of logits between the initial model and its untrained export, both by transformers."""
    assert case.perdure("data")[0] == 0 and case.perdure("train", "--version", "v")[0] == 0
    tokens = torch.arange(3, 67)[None]
    both = [
        AutoModelForCausalLM.from_pretrained(case.directory / path, dtype=torch.float32).eval()
        for path in ("model", "out/versions/v/hf")
    ]
    with torch.no_grad():
        first, second = (model(tokens).logits for model in both)
    return float((first - second).abs().max())


def test_01_a_head_of_its_own_beside_tied_embeddings(with_model):
    case = with_model(tie_word_embeddings=False)
    change_json(case.directory / "model" / "config.json", tie_word_embeddings=True)
    assert largest_difference(case) < 1e-5


def test_15_an_index_of_files_that_are_gone(with_model):
    case = with_model(tie_word_embeddings=False)
    names = load_file(case.directory / "model" / "model.safetensors")
    index = {"metadata": {}, "weight_map": dict.fromkeys(names, "model-00001-of-00005.safetensors")}
    (case.directory / "model" / "model.safetensors.index.json").write_text(json.dumps(index))
    status, _, err = case.perdure("import", "model")
    assert status == 0, err
    assert largest_difference(case) < 1e-5


def test_18_tensors_that_nothing_reads(with_model):
    case = with_model(tie_word_embeddings=False)
    path = case.directory / "model" / "model.safetensors"
    biases = {
        f"model.layers.{layer}.self_attn.{part}_proj.bias": torch.zeros(64 if part in "qo" else 32)
        for layer in range(2)
        for part in "qkvo"
    }
    save_file(load_file(path) | biases, path, {"format": "pt"})
    said = [*case.perdure("import", "model")[1:], *case.perdure("check")[1:]]
    assert "bias" in "".join(said[:2]) and "bias" in "".join(said[2:])


def test_05_characters_without_tokens(case):
    write_tokenizer(case.directory / "tok", byte_level=False)
    texts = [english(number) for number in range(100)] + [
        "Приветмирэтодлинныйтекст" * 12,
        "日本語のテキストです" * 30,
    ]
    write_lines(case.directory / "in" / "a.jsonl", texts)
    said = case.data()
    assert "102 documents in, 100 out" in said
    assert re.search(r"2 \w*(no|without|lost)\w*_?\w*", said), said
    assert all(row["num_tokens"] > 5 for row in case.documents())


@pytest.mark.parametrize(
    ("written", "steps"), [("0100", 3), ("1:40", None), ("0o100", None), ("0x40", None), ("1_00", 3)]
)
def test_16_numbers_that_yaml_reads_in_its_own_way(tokenized, written, steps):
    text = yaml.safe_dump(tokenized.tree | {"versions": tokenized.tree["versions"]}, sort_keys=False)
    (tokenized.directory / "r.yaml").write_text(
        text.replace("seq_length: 64", f"seq_length: {written}").replace("tokens: 256", "tokens: 1200")
    )
    status, out, err = tokenized.perdure("check")
    if status:
        assert (status, "seq_length" in err and "Traceback" not in err) == (2, True)
    else:  # as people read it
        assert steps is not None and re.search(rf"^ *{steps} steps,", out, re.MULTILINE)


# ------------------------------------------------------------------------------- what is measured is what is held out


def test_25_held_out_text_beyond_the_first_documents(case):
    rng = random.Random(3)
    rows = [english(number, rng.randint(40, 400)) for number in range(250)]
    rows += [fluent("ja", number, rng.randint(5, 30)) for number in range(250)]
    write_lines(case.directory / "in" / "a.jsonl", rows)
    case.tree["sources"]["a"] |= {"clean": [{"type": "language"}], "heldout_fraction": 0.3}
    case.tree["tokenizer"] = {"type": "train", "vocab_size": 2048, "sources": ["a"]}
    case.tree["evaluation"]["max_tokens"] = 5000
    status, _, err = case.perdure("run")
    assert status == 0, err
    held = [row for row in case.documents() if row["split"] == "heldout"]
    measured = parquet.read_table("out/versions/v/eval_documents.parquet").to_pylist()
    shares = [
        sum(row[tokens] for row in rows if row["language"] == "ja") / sum(row[tokens] for row in rows)
        for rows, tokens in ((held, "num_tokens"), (measured, "tokens"))
    ]
    assert shares[1] == pytest.approx(shares[0], abs=0.05)
    assert 4000 < read_json(Path("out/versions/v/eval.json"))["domains"]["a"]["tokens"] <= 5500


# --------------------------------------------------------------------------------------------------- every script


def test_21_a_language_whose_splitter_is_missing_or_unknown(case):
    write_lines(case.directory / "in" / "a.jsonl", [fluent("ja", number, 12) for number in range(60)])
    write_tokenizer(case.directory / "tok")
    case.tree["sources"]["a"]["clean"] = [{"type": "gopher_quality", "language": "jpn", "min_stop_words": 0}]
    status, _, err = case.perdure("check")
    if status == 0:
        assert "60 documents in, 60 out" in case.data()
    else:
        assert status == 2 and "jpn" in err and "pip install" in err


@pytest.mark.parametrize("code", ["zh", "zho"])
def test_22_filters_where_words_have_no_blanks_between_them(case, code):
    write_lines(case.directory / "in" / "a.jsonl", [fluent("zh", number, 30) for number in range(200)])
    write_tokenizer(case.directory / "tok")
    case.tree["sources"]["a"]["clean"] = [{"type": "gopher_quality", "language": code, "min_stop_words": 0}]
    status, _, err = case.perdure("check")
    assert status == 0, err
    kept = int(re.search(r"200 documents in, (\d+) out", case.data())[1])
    assert kept >= 190


def test_24_an_everyday_phrase_is_no_contamination(case):
    write_lines(case.directory / "in" / "a.jsonl", [fluent("ja", number, 8) for number in range(400)])
    question = "駅前の新しい店では毎年調べています。町の図書館は何時に開きますか"
    write_lines(case.directory / "eval.jsonl", [question])
    write_tokenizer(case.directory / "tok")
    case.tree["sources"]["a"]["clean"] = [{"type": "decontaminate", "files": ["eval.jsonl"]}]
    assert "400 documents in, 400 out" in case.data()


# ------------------------------------------------------------------------------------ no document stalls or floods


def write_parquet(directory: Path, **columns: pa.Array) -> None:
    texts = [english(number) for number in range(120)]
    directory.mkdir()
    table = pa.table({"id": [str(number) for number in range(120)], "text": texts} | columns)
    parquet.write_table(table, directory / "a.parquet")


def as_parquet(case: Case, **columns: pa.Array) -> Case:
    write_tokenizer(case.directory / "tok")
    write_parquet(case.directory / "in", **columns)
    case.tree["sources"]["a"]["reader"] = {"type": "parquet", "path": "in"}
    return case


def test_07_parquet_string_views(case):
    texts = pa.array([english(number) for number in range(120)], pa.string_view())
    assert "120 documents in, 120 out" in as_parquet(case, text=texts).data()


def test_08_parquet_dates_beyond_the_year_9999(case):
    dates = pa.array([3_000_000 + number for number in range(120)], pa.int32()).cast(pa.date32())
    assert "120 documents in, 120 out" in as_parquet(case, date=dates).data()


def test_10_parquet_times_in_zones_that_do_not_exist(case):
    moment = datetime(2026, 3, 1, tzinfo=UTC)
    times = pa.array([moment] * 120, pa.timestamp("us", "UTC")).cast(pa.timestamp("us", "Mars/Olympus"))
    assert "120 documents in, 120 out" in as_parquet(case, at=times).data()


def test_11_hidden_files_and_editors_copies(tokenized):
    texts = (tokenized.directory / "in" / "a.jsonl").read_text()
    hidden = tokenized.directory / "in" / ".ipynb_checkpoints"
    hidden.mkdir()
    (hidden / "a-checkpoint.jsonl").write_text(texts)
    (tokenized.directory / "in" / "._a.jsonl").write_bytes(
        b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X\xb0\xff"
    )
    assert "120 documents in, 120 out" in tokenized.data()


def test_12_files_of_other_names_beside_those_that_are_read(case):
    write_tokenizer(case.directory / "tok")
    directory = case.directory / "in"
    for number, name in enumerate(("a.jsonl", "b.json", "c.JSONL", "d.ndjson")):
        write_lines(directory / name, [english(30 * number + place) for place in range(30)])
    (directory / "b.json.gz").write_bytes(gzip.compress((directory / "b.json").read_bytes()))
    (directory / "b.json").unlink()
    checked = "".join(case.perdure("check")[1:])
    said = case.data()
    unread = [name for name in ("b.json.gz", "c.JSONL", "d.ndjson") if name in checked and name in said]
    assert f"{120 - 30 * len(unread)} documents in" in said


def test_13_zstandard_with_a_long_window(case):
    write_tokenizer(case.directory / "tok")
    write_lines(case.directory / "a.jsonl", [english(number) for number in range(120)])
    parameters = zstandard.ZstdCompressionParameters(window_log=31, enable_ldm=True)
    (case.directory / "in").mkdir()
    packer = zstandard.ZstdCompressor(
        compression_params=parameters
    ).compressobj()  # without a size, which bounds the window
    packed = packer.compress((case.directory / "a.jsonl").read_bytes()) + packer.flush()
    (case.directory / "in" / "a.jsonl.zst").write_bytes(packed)
    assert "120 documents in, 120 out" in case.data()


def test_14_lone_surrogates_and_nan(case):
    write_tokenizer(case.directory / "tok")
    lines = [
        f'{{"text": "{english(number)} \\ud83d"}}\n'
        if number % 2
        else f'{{"text": "{english(number)}", "score": NaN}}\n'
        for number in range(120)
    ]
    (case.directory / "in").mkdir()
    (case.directory / "in" / "a.jsonl").write_text("".join(lines))
    assert "120 documents in, 120 out" in case.data()


def test_20_one_corpus_under_two_names(tokenized):
    (tokenized.directory / "link").symlink_to("in")
    again = tokenized.tree["sources"]["a"] | {"reader": {"type": "jsonl", "path": "link"}}
    tokenized.tree["sources"]["b"] = again
    tokenized.tree["versions"]["v"]["mixture"]["sources"]["b"] = {}
    for said in ("".join(tokenized.perdure("check")[1:]), tokenized.data()):
        assert re.search(r"(?i)\bsame\b|twice", said), said


# ----------------------------------------------------------------------------------------- check keeps its promise


def test_17_no_separator_is_found_by_check(case):
    write_tokenizer(case.directory / "tok", eos=None)
    write_lines(case.directory / "in" / "a.jsonl", [english(number) for number in range(120)])
    status, _, err = case.perdure("check")
    assert status == 2 and "tokenizer.eos_token" in err


def test_19_a_file_added_after_training_is_said_by_check(tokenized):
    status, _, err = tokenized.perdure("run")
    assert status == 0, err
    write_lines(tokenized.directory / "in" / "b.jsonl", [english(number) for number in range(500, 520)])
    status, out, err = tokenized.perdure("check")
    assert status == 2 and "versions.v" in err, out


def test_23_one_mistake_of_a_probe_file_once_and_all_kinds_at_once(tokenized):
    rows = [
        {"id": number, "kind": "old", "question": f"Which number follows {number}?", "choices": [str(number + 1), str(number + 2)], "answer": 0}
        for number in range(40)
    ]  # fmt: skip
    (tokenized.directory / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    tokenized.tree["evaluation"]["probes"] = ["p.jsonl"]
    status, _, err = tokenized.perdure("check")
    problems = [line for line in err.splitlines() if line.startswith("  ")]
    assert status == 2 and len(problems) <= 4
    assert all(field in err for field in ("kind", "answer")) and "40" in err


@pytest.mark.parametrize("mask", [0o022, 0o077])
def test_26_files_follow_the_umask(tokenized, mask):
    (tokenized.directory / "r.yaml").write_text(yaml.safe_dump(tokenized.tree))
    command = [sys.executable, "-m", "perdure.pipeline.cli", "run", "r.yaml"]
    done = subprocess.run(command, umask=mask, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = {path: stat.S_IMODE(path.stat().st_mode) for path in (tokenized.directory / "out").rglob("*")}
    wrong = {
        str(path): oct(mode)
        for path, mode in found.items()
        if mode != (0o777 if path.is_dir() else 0o666) & ~mask
    }
    assert len(found) > 20 and not wrong


def test_27_tasks_that_do_not_exist(tokenized):
    (tokenized.directory / "tasks").mkdir()
    task = {
        "task": "arithmetic_small",
        "dataset_path": "json",
        "output_type": "multiple_choice",
        "doc_to_text": "{{q}}",
    }
    (tokenized.directory / "tasks" / "small.yaml").write_text(yaml.safe_dump(task))
    tokenized.tree["evaluation"]["harness"] = {"include_path": "tasks", "tasks": ["arithmetic_smal"]}
    status, _, err = tokenized.perdure("check")
    assert status == 2 and "arithmetic_small" in err and "evaluation.harness.tasks" in err
