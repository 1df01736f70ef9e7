"""Made-up texts, and files of them."""

import json
import random
from pathlib import Path

WORDS = [
    a + b + c
    for a in ("ba", "ke", "mi", "to", "su")
    for b in ("ran", "lo", "ti", "ve")
    for c in ("d", "n", "s")
]


def write_jsonl(path: Path, rows: list[dict]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def random_text(seed: int, words: int = 60) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=words))
