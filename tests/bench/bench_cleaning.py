"""The data stage beside datatrove's own pipelines: same corpus, same tokenizer, two processes each, taking turns."""

import json
import shutil
from functools import partial
from pathlib import Path

import yaml
from corpus import source_files
from support import on_rank
from tiny import tiny_recipe
from turns import in_turns, ratio

from perdure.pipeline.core.manifest import finish
from perdure.pipeline.data.context import StageContext
from perdure.pipeline.data.tokenizer.train import build_tokenizer
from perdure.pipeline.recipe import TrainedTokenizer

FULL = {"size": 20_000_000, "turns": 6}
TINY = {"size": 200_000, "turns": 1}
DEFAULT = [{"type": "exact_dedup"}, {"type": "minhash_dedup"}]


def write_corpus(directory: Path, size: int) -> int:
    """About `size` characters of the installed packages' source files, in two files; their number."""
    directory.mkdir(parents=True)
    chars = number = 0
    files = [(directory / f"{part}.jsonl").open("w", encoding="utf-8") for part in range(2)]
    for text in source_files(size):
        for start in range(0, len(text), 5000):  # documents of the length of web pages
            files[number % 2].write(
                json.dumps({"text": text[start : start + 5000], "id": str(number)}) + "\n"
            )
            number += 1
        chars += len(text)
    for file in files:
        file.close()
    return chars


def make_tokenizer(directory: Path, corpus: Path) -> Path:
    """Of 32,000 tokens, learnt from the first documents."""
    import zstandard

    sample = directory / "sample"
    sample.mkdir()
    with zstandard.open(sample / "00000.jsonl.zst", "wt") as file, (corpus / "0.jsonl").open() as lines:
        file.writelines(line for _, line in zip(range(500), lines, strict=False))
    finish(sample, {"counts": {"words": {"out": 0}}})
    spec = TrainedTokenizer(type="train", vocab_size=32_000, sources=["a"])
    context = StageContext(directory, 1, list)
    return build_tokenizer(context, spec, directory / "tokenizer", {"a": sample}, {})


def measure(directory: Path, size: int, turns: int) -> dict:
    """Megabytes a second from documents to tokens, with and without deduplication."""
    corpus = directory / "corpus"
    chars = write_corpus(corpus, size)
    tokenizer = make_tokenizer(directory, corpus)
    runs = {}
    for name, steps in (("alone", []), ("deduplicated", DEFAULT)):
        recipe = tiny_recipe(
            directory / "unused",
            sources={"a": {"reader": {"type": "jsonl", "path": str(corpus)}, "clean": steps}},
            tokenizer={"type": "huggingface", "path": str(tokenizer)},
            versions__v1__mixture={"sources": {"a": {}}},
        )
        path = directory / f"{name}.yaml"
        path.write_text(yaml.safe_dump(recipe.model_dump(mode="json")))
        calls = {
            "perdure": (path,),
            "datatrove": (corpus, tokenizer / "tokenizer.json", bool(steps)),
        }
        for whose, arguments in calls.items():
            runs[f"{whose} {name}"] = partial(_rate, directory / "out", chars, whose, *arguments)
    rates = in_turns(runs, turns)
    pairs = {
        "alone": ("perdure alone", "datatrove alone"),
        "deduplicated": ("perdure deduplicated", "datatrove deduplicated"),
        "both": ("perdure deduplicated", "datatrove alone"),
    }
    ratios = {name: ratio(*(rates[one] for one in pair)) for name, pair in pairs.items()}
    return {"chars": chars, "turns": turns, "rates": rates, "ratios": ratios}


def _rate(out: Path, chars: int, whose: str, *arguments) -> float:
    """Characters a second, in processes of their own."""
    shutil.rmtree(out, ignore_errors=True)
    return chars / on_rank(whose, out, *arguments, threads=1, script="bench/cleaning.py")


def required(found: dict) -> dict[str, bool]:
    ratios = found["ratios"]
    return {
        f"{what} at 0.8 of datatrove's speed at least": ratios[name]["median"] >= 0.8
        for name, what in (("alone", "tokenising"), ("deduplicated", "deduplicating and tokenising"))
    }
