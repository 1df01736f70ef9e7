"""The data stage beside datatrove's own pipelines: same corpus, same tokenizer, two processes each, taking turns."""

import json
import statistics
import sysconfig
from pathlib import Path

import pytest
import yaml
from support import on_rank, tiny_recipe

from perdure.pipeline.data.tokenizer import build_tokenizer
from perdure.pipeline.manifest import finish
from perdure.pipeline.recipe import TrainedTokenizer

SIZE, ROUNDS = 20_000_000, 3
DEFAULT = [{"type": "exact_dedup"}, {"type": "minhash_dedup"}]


def write_corpus(directory: Path) -> int:
    """About `SIZE` characters of the installed packages' source files, in two files; their number."""
    directory.mkdir(parents=True)
    chars = number = 0
    files = [(directory / f"{part}.jsonl").open("w", encoding="utf-8") for part in range(2)]
    for path in sorted(Path(sysconfig.get_path("purelib")).rglob("*.py")):
        text = path.read_text(encoding="utf-8", errors="ignore")
        for start in range(0, len(text), 5000):  # documents of the length of web pages
            files[number % 2].write(
                json.dumps({"text": text[start : start + 5000], "id": str(number)}) + "\n"
            )
            number += 1
        chars += len(text)
        if chars > SIZE:
            break
    for file in files:
        file.close()
    return chars


@pytest.mark.bench
def test_cleaning_and_tokenising_beside_datatrove(tmp_path: Path):
    chars = write_corpus(tmp_path / "corpus")
    clean = tmp_path / "sample"
    clean.mkdir()
    import zstandard

    with (
        zstandard.open(clean / "00000.jsonl.zst", "wt") as file,
        (tmp_path / "corpus" / "0.jsonl").open() as lines,
    ):
        file.writelines(line for _, line in zip(range(500), lines, strict=False))
    finish(clean, {"counts": {"words": {"out": 0}}})
    spec = TrainedTokenizer(type="train", vocab_size=32_000, sources=["a"])
    tokenizer = build_tokenizer(
        spec, tmp_path / "tokenizer", {"a": clean}, 0.0, {}, 1, lambda: pytest.fail("no sample")
    )

    rows = {}
    for name, steps in (("reading and tokenising", []), ("with exact and MinHash deduplication", DEFAULT)):
        recipe = tiny_recipe(
            tmp_path / "unused",
            sources={"a": {"reader": {"type": "jsonl", "path": str(tmp_path / "corpus")}, "clean": steps}},
            tokenizer={"type": "huggingface", "path": str(tokenizer)},
            versions__v1__mixture={"sources": {"a": {}}},
        )
        path = tmp_path / f"{len(steps)}.yaml"
        path.write_text(yaml.safe_dump(recipe.model_dump(mode="json")))
        seconds: dict[str, list[float]] = {"perdure": [], "datatrove": []}
        for turn in range(ROUNDS):
            out = tmp_path / f"{len(steps)}-{turn}"
            ours = ("perdure", path, out / "perdure")
            theirs = (
                "datatrove",
                tmp_path / "corpus",
                tokenizer / "tokenizer.json",
                out / "datatrove",
                bool(steps),
            )
            for key, call in (("perdure", ours), ("datatrove", theirs)):
                seconds[key].append(on_rank(*call, threads=1, script="bench/cleaning.py"))
        rows[name] = {key: chars / statistics.median(values) for key, values in seconds.items()}
    print(f"\n{chars:,} characters, two processes, median of {ROUNDS}")
    print("| work | perdure, MB/s | datatrove, MB/s | ratio |\n|---|---|---|---|")
    for name, rates in rows.items():
        ratio = rates["perdure"] / rates["datatrove"]
        print(f"| {name} | {rates['perdure'] / 1e6:.2f} | {rates['datatrove'] / 1e6:.2f} | {ratio:.2f} |")
    alone = (
        rows["with exact and MinHash deduplication"]["perdure"] / rows["reading and tokenising"]["datatrove"]
    )
    print(f"default steps against datatrove's tokenising alone: {alone:.2f}")
    default = rows["with exact and MinHash deduplication"]
    assert default["perdure"] >= 0.8 * default["datatrove"]
