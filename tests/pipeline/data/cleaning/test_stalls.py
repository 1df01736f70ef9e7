"""No text takes longer than in proportion to its length; what does all the same is dropped by name."""

import ast
import importlib
import json
import pkgutil
import re
import time
from functools import partial
from pathlib import Path

import pytest
import regex
from datatrove.data import Document
from datatrove.pipeline.base import PipelineStep
from datatrove.utils.text import simplify_text
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from perdure.pipeline import data, recipe
from perdure.pipeline.data.cleaning import time_limit
from perdure.pipeline.data.cleaning.counted import Block, CountedStep
from perdure.pipeline.data.cleaning.normalise import MOST_MARKS, count_words, normalise
from perdure.pipeline.data.cleaning.steps import block
from perdure.pipeline.data.cleaning.steps.length import LengthFilter
from perdure.pipeline.data.cleaning.steps.pii import AddressReplacer
from perdure.pipeline.data.features import letters, uni_and_bigrams
from perdure.pipeline.data.read.python import prose_of
from perdure.pipeline.data.tokenizer.extend import extend
from perdure.pipeline.data.tokenizer.train import LONGEST_WORD, train

UNITS = [
    *(
        "a",
        "a.",
        "a-",
        "a_",
        "a@",
        "a.a@",
        "a@a.",
        "@",
        "1",
        "1.",
        "1,",
        "0.0.0.",
        "-",
        "--a",
        "'s",
        ":",
        "::",
        "[1",
        "[]",
    ),
    *(
        " ",
        "\n",
        " \n",
        "\n ",
        "\r",
        "\t",
        "\n\n",
        "a ",
        "a\n",
        "中",
        "。",
        "é",
        "e\u0301",
        "\u0301",
        "\u0301\u0316",
        "\u0f73\u0f71",
    ),
    *("http://a/", "<", "{", "}", "(", '"', "😀", "\u200b", "x=y;", "A.B", "\0", "_label_"),
]
SHORT, LONG = 2_000, 32_000
WORDS = ["lorem", "ipsum", "dolor", "sit", "amet"]


def seconds(call, text) -> float:
    begun = time.process_time()
    call(text)
    return time.process_time() - begun


def slow(call, unit: str) -> bool:
    """Whether sixteen times the text takes far more than sixteen times as long, short times aside."""
    short, long = (f"x{unit * (size // len(unit))}y" for size in (SHORT, LONG))
    bound = 60 * max(seconds(call, short), 5e-4)
    return all(seconds(call, long) > bound for _ in range(2))


def expressions() -> dict[str, object]:
    """All regular expressions of the data stage: those that modules hold, and those that their functions name."""
    found = {}
    for info in pkgutil.iter_modules(data.__path__):
        module = importlib.import_module(f"{data.__name__}.{info.name}")
        for name, value in vars(module).items():
            if isinstance(value, re.Pattern | regex.Pattern):
                found[f"{info.name}.{name}"] = value
        for node in ast.walk(ast.parse(Path(module.__file__).read_text())):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and getattr(node.func.value, "id", "") == "re"
            ):
                pattern = node.args[0]
                if isinstance(pattern, ast.Constant) and isinstance(pattern.value, str):
                    found[f"{info.name}:{node.lineno}"] = re.compile(pattern.value)
    return found


def test_all_expressions_are_linear():
    found = {name: pattern for name, pattern in expressions().items() if isinstance(pattern.pattern, str)}
    assert len(found) >= 9
    assert [
        (name, unit)
        for name, pattern in found.items()
        for unit in UNITS
        if slow(partial(pattern.sub, ""), unit)
    ] == []
    assert slow(lambda text: re.sub(r"a+@", "", text), "a")  # such as this one


@pytest.fixture(scope="module")
def calls(tmp_path_factory):
    """What a document goes through besides splitting words, which takes time by spaCy's rules."""
    signature = block(recipe.MinhashDedup(type="minhash_dedup"), tmp_path_factory.mktemp("minhash")).sign
    return {
        "normalise": normalise,
        "words": count_words,
        "pii": AddressReplacer(remove_emails=True, remove_ips=True).format,
        "simplify": lambda text: simplify_text(normalise(text)),
        "shingles": signature.get_shingles,
        "letters": letters,
        "bigrams": uni_and_bigrams,
        "docstrings": prose_of,
    }


@pytest.mark.parametrize(
    "name", ["normalise", "words", "pii", "simplify", "shingles", "letters", "bigrams", "docstrings"]
)
def test_what_a_document_goes_through_is_linear(calls, name):
    assert [unit for unit in UNITS if slow(calls[name], unit)] == []


def test_heaps_of_marks_are_cut_and_others_kept():
    assert (
        normalise("x" + "\u0301\u0316" * 300 + "y")
        == normalise("x" + "\u0301\u0316" * (MOST_MARKS // 2)) + "y"
    )
    for text in ("हिन्दी में", "e\u0301" * 5000, "x" + "\u0316" * MOST_MARKS + "y", "中" * 5000):
        assert len(normalise(text)) >= len(text) / 2
    for unit in ("\u0301\u0316", "\u0f73", "\u0344", "\u0301"):
        for count in (MOST_MARKS - 1, MOST_MARKS, MOST_MARKS + 1, 3 * MOST_MARKS):
            for lead in range(0, 300, 60):
                once = normalise("z" * lead + "é" + unit * count + " ü")
                assert normalise(once) == once and once.endswith(" ü") and len(once) < lead + MOST_MARKS + 5


def ordinary(vocab_size: int, texts) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=alphabet,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def test_tokenizers_learn_from_words_of_any_length_in_linear_time():
    texts = [f"{' '.join(WORDS)} {number} 中文字符 {'y' * (LONGEST_WORD - 1)}" for number in range(50)]
    assert json.loads(train(400, iter(texts)).to_str()) == json.loads(ordinary(400, texts).to_str())
    for unit in ("a", "中", "ab", "-", " "):
        long = [seconds(partial(train, 400), iter([*texts, unit * size])) for size in (20_000, 320_000)]
        assert long[1] < 60 * max(long[0], 5e-3), unit
    assert "y" * LONGEST_WORD in train(400, iter(["y" * 100_000, "y " * 9])).decode(list(range(400)))


def test_so_does_vocabulary_extension(tmp_path):
    base = train(300, iter([" ".join(WORDS)] * 9))
    begun = time.process_time()
    extend(base, 4, lambda: iter(["z" * 200_000, "zzzz qqqq"] * 2), tmp_path / "tokenizer.json")
    assert time.process_time() - begun < 20  # 200,000 tokens in one run took minutes


class Sleepy(LengthFilter):
    """A step that hangs on one document, in Python or in a regular expression."""

    def filter(self, document):
        while document.text == "python":
            pass
        if document.text == "expression":
            re.match(r"(a|aa)+$", "a" * 200 + "b")
        return super().filter(document)


class Forgetful(PipelineStep):
    """A step that formats by `format`, as datatrove's formatters do."""

    def format(self, text):
        while text == "python":
            pass
        return text

    def run(self, data, rank=0, world_size=1):
        for document in data:
            document.text = self.format(document.text)
            yield document


@pytest.mark.parametrize("step", [Sleepy(1, None), Forgetful()], ids=["filter", "formatter"])
def test_a_document_that_takes_too_long_is_named_counted_and_passed_over(tmp_path, monkeypatch, step):
    monkeypatch.setattr(time_limit, "SECONDS", 0.2)
    counted = CountedStep(Block("other", step), "01_x", tmp_path)
    hangs = ["python", "expression"] if isinstance(step, Sleepy) else ["python"]
    texts = ["a b", *hangs, "c d e"]
    kept = list(counted.run(Document(text=text, id=text) for text in texts))
    assert [document.text for document in kept] == ["a b", "c d e"]
    counts = {key: value.total for key, value in counted.stats.stats.items() if value.total}
    assert counts["dropped:too_slow"] == len(hangs) and counts["in"] == len(texts) and counts["out"] == 2
    rows = [json.loads(line) for line in (tmp_path / "00000.jsonl").open()]
    assert sorted((row["id"], row["reason"]) for row in rows) == [
        (text, "too_slow") for text in sorted(hangs)
    ]


def test_words_that_spacy_takes_too_long_for(tmp_path, monkeypatch):
    """Its rules for addresses of the web take quadratic time."""
    from datatrove.utils.text import split_into_words

    split_into_words("what is imported once")
    monkeypatch.setattr(time_limit, "SECONDS", 0.3)
    monkeypatch.setattr(time_limit, "SECONDS_PER_CHARACTER", 0)
    prose = "The fox and the hound have been with us for that long. "
    counted = CountedStep(
        block(recipe.GopherQuality(type="gopher_quality", min_doc_words=5), tmp_path), "01_x", tmp_path
    )
    documents = [
        Document(text=text, id=str(number))
        for number, text in enumerate([prose * 3, "http://a/" * 20_000, prose * 4])
    ]
    assert [document.id for document in counted.run(iter(documents))] == ["0", "2"]
