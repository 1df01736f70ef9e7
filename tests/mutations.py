"""Recipes that chance has changed, each through `perdure check` as its user would call it.

`python -m tests.mutations 3000 [first seed]` tries many and prints outcomes, the longest time and the largest memory.
"""

import contextlib
import copy
import io
import json
import random
import resource
import sys
import tempfile
import traceback
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from time import process_time
from typing import Any

import yaml

from perdure.pipeline.cli import entry

RECIPES = Path(__file__).parents[1] / "data_recipes"
ODD = [
    *(None, True, False, 0, -1, 1, 2, 7, 1.5, -0.5, 1e-320, 1e-9, 1e300, -1e300, float("inf"), float("nan")),
    *(
        10**12,
        10**20,
        2**31,
        2**63,
        -(2**70),
        "",
        " ",
        "-",
        ".",
        "/",
        "..",
        "~",
        "~nobody/x",
        "/dev/null",
        "/proc",
    ),
    *(
        "x" * 300,
        "y" * 20_000,
        "é",
        "日本",
        "a\u0000b",
        "\ud800",
        "a\nb",
        "\x1b[31m",
        "{}",
        "1e9",
        "1B",
        "10%",
        "0x10",
    ),
    *([], {}, [[]], {"type": "x"}, {"type": None}, [None], {"": {}}, {"type": "init"}, {"type": "branch"}),
]
"""Values that nobody means, or that are right somewhere else."""


@dataclass(frozen=True)
class Outcome:
    """What `perdure check` did with one recipe: its exit status, what it said, seconds of the processor, bytes of memory."""

    status: int
    said: str
    seconds: float
    memory: int


def write_inputs(directory: Path) -> None:
    """Texts for `originals`."""
    rng = random.Random(0)
    words = ["".join(rng.choices("abcdefgh", k=rng.randint(2, 6))) for _ in range(80)]
    rows = [
        {"id": str(n), "text": " ".join(rng.choices(words, k=60)), "subject": "war peace".split()[n % 2]}
        for n in range(120)
    ]
    for row in rows:
        asked, answered = row["text"][:30], row["text"][30:]
        row["date"] = f"{2022 + int(row['id']) % 3}-{1 + int(row['id']) % 12:02d}"
        row["messages"] = [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]
        row |= {"prompt": asked, "chosen": answered[:40], "rejected": f"Not {answered[:40]}"}
    (directory / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (directory / "b.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[::-1]))


def originals(directory: Path) -> list[dict]:
    """The recipes that we ship over text of `write_inputs`, and one with every kind of mixture, all small enough to run."""
    found = []
    for path in sorted(RECIPES.glob("*.yaml")):
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
        if "extends" not in tree:
            found.append(_small(tree, directory))
    return [*found, *[_rich(directory)] * 4]


def _small(tree: dict, directory: Path) -> dict:
    tree["model"] = _rich(directory)["model"]
    tree["tokenizer"] = {"type": "train", "vocab_size": 300, "sources": list(tree["sources"])[:1]}
    for source in tree["sources"].values():
        fields = ("messages_field", "prompt_field", "chosen_field", "rejected_field")
        conversations = {name: value for name, value in source["reader"].items() if name in fields}
        source["reader"] = {"type": "jsonl", "path": str(directory / "a.jsonl")} | conversations
        if conversations:
            tree["tokenizer"]["chat_template"] = str(RECIPES / "chat.jinja")
        source["clean"] = [{"type": "length", "min_chars": 5}]
        source.pop("subset", None)
    for section in ("evaluation", "parallel"):
        tree.pop(section, None)
    return tree


def _rich(directory: Path) -> dict:
    def source(name: str) -> dict:
        reader = {"type": "jsonl", "path": str(directory / name), "text_field": "text", "id_field": "id"}
        return {
            "reader": reader,
            "clean": [{"type": "length", "min_chars": 5}, {"type": "exact_dedup"}],
            "heldout_fraction": 0.1,
        }

    topics = {"type": "metadata", "field": "subject", "map": {"war": "war", "peace": "peace"}}
    schedule = {"type": "cosine", "max_lr": 1e-3, "min_lr": 1e-4, "warmup": 0.1}
    decay = {"type": "decay", "min_lr": 1e-5, "shape": "linear"}
    return {
        "name": "rich",
        "seed": 7,
        "sources": {"a": source("a.jsonl"), "b": source("b.jsonl") | {"topics": topics}},
        "data": {"tasks": 1, "workers": 1},
        "tokenizer": {"type": "train", "vocab_size": 300, "sources": ["a", "b"]},
        "model": {
            "type": "llama", "num_layers": 1, "hidden_size": 16, "ffn_hidden_size": 32, "num_attention_heads": 2,
            "num_query_groups": 1, "norm_epsilon": 1e-5, "init_std": 0.02,
        },
        "parallel": {"tensor_parallel": 1, "pipeline_parallel": 1, "data_parallel": 1},
        "training": {
            "seq_length": 32, "micro_batch_size": 2, "global_batch_size": 4, "adam_beta1": 0.9, "adam_eps": 1e-8,
            "clip_grad": 1.0, "checkpoint_interval": 2, "async_checkpoint": False, "log_interval": 1,
        },
        "versions": {
            "base": {
                "start": {"type": "init"},
                "tokens": 512,
                "mixture": {
                    "sources": {"a": {"weight": 2.0, "order": "given"}},
                    "switches": [{"at": 0.5, "sources": {"a": {"order": "given"}, "b": {}}}],
                },
                "schedule": {"type": "wsd", "max_lr": 1e-3, "min_lr": 1e-4, "decay": 0.5},
                "keep": [2],
            },
            "update": {
                "start": {"type": "update", "parent": "base", "moments": "keep"},
                "tokens": 256,
                "mixture": {"sources": {"b/war": {}, "b/peace": {}}, "replay": {"share": 0.25, "sources": {"a": {}}}},
                "schedule": schedule,
                "selection": {"score": "random", "k": 0.5},
            },
            "branch": {"start": {"type": "branch", "parent": "base", "step": 2}, "tokens": 256, "schedule": decay},
            "again": {
                "start": {"type": "update", "parent": "update"},
                "tokens": 256,
                "mixture": {
                    "sources": {"a": {}, "b": {}},
                    "domain_order": "random",
                    "replay": {"share": 0.2, "from_parents": True},
                },
                "schedule": {"type": "infinite", "max_lr": 1e-3, "constant_lr": 5e-4, "min_lr": 1e-4},
            },
        },
        "evaluation": {"max_tokens": 500},
    }  # fmt: skip


def mutated(tree: dict, rng: random.Random) -> dict:
    """A copy of a recipe with one to three changes."""
    tree = copy.deepcopy(tree)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        _mutate(tree, rng)
    return tree


def _places(node: Any) -> list[tuple[Any, Any]]:
    """Every place below a node: the mapping or list, and the key."""
    keys = list(node) if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ()
    return [place for key in keys for place in [(node, key), *_places(node[key])]]


def _mutate(tree: dict, rng: random.Random) -> None:
    places = _places(tree)
    if not places:
        return
    (node, key), (other, where) = rng.choice(places), rng.choice(places)
    match rng.randrange(12):
        case 0:
            del node[key]
        case 1 if isinstance(node, dict):  # renamed, at the end
            value = node.pop(key)
            node[rng.choice([f"{key}x", f"{key}"[1:], f"{key}".upper(), "", "x" * 300, "ü", f"{where}"])] = (
                value
            )
        case 2 if isinstance(node, dict):  # twice
            node[f"{key}-2"] = copy.deepcopy(node[key])
        case 3:  # what stands elsewhere
            node[key] = copy.deepcopy(other[where])
        case 4:  # nested
            node[key] = rng.choice([[node[key]], {"type": node[key]}, {str(key): node[key]}])
        case 5 if isinstance(node[key], list) and node[key]:
            node[key] = node[key] * rng.choice((2, 50))
        case 6 | 7 | 9 | 10 if isinstance(node[key], int | float):
            factor = rng.choice((-1, 0.5, 2, 1.001, 1e-6, 1e6, 1e12))
            changed = node[key] * factor
            node[key] = int(changed) if isinstance(node[key], int) and abs(changed) < 1e300 else changed
        case 8 | 11 if isinstance(node[key], str):
            names = [key for mapping, key in places if isinstance(mapping, dict)]
            node[key] = rng.choice([*names, node[key][::-1], node[key] * 2])
        case _:
            node[key] = copy.deepcopy(rng.choice(ODD))


def text_of(tree: dict, rng: random.Random) -> str:
    """A recipe in YAML, one of ten with a few letters gone, doubled or strange."""
    text = yaml.safe_dump(tree, sort_keys=False, allow_unicode=rng.random() < 0.5)
    if rng.random() < 0.1:
        for _ in range(rng.randint(1, 4)):
            place = rng.randrange(len(text))
            end = place + rng.choice((0, 1, 1, 30))
            text = (
                text[:place]
                + rng.choice(["", "\t", ":", "[", "&a ", "*a ", "\x00", "'", "\n", "- ", "<<: "])
                + text[end:]
            )
    return text


def check(path: Path, out: Path) -> Outcome:
    """What `perdure check` does with a recipe, in this process."""
    said, before = io.StringIO(), process_time()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            status = entry.main(["check", str(path), "--out", str(out), "--debug"])
        except SystemExit as error:
            status = int(error.code or 0)
        except Exception as error:
            status = getattr(error, "exit_status", -1)
            said.write(str(error) if status == 2 else traceback.format_exc())
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return Outcome(status, said.getvalue(), process_time() - before, memory)


def trials(directory: Path, first: int, count: int):
    """Tries mutated recipes, each under a seed of its own: the seed, the recipe's tree and file, and the outcome."""
    write_inputs(directory)
    trees = originals(directory)
    for seed in range(first, first + count):
        rng = random.Random(seed)
        tree = mutated(rng.choice(trees), rng)
        path = directory / f"{seed}.yaml"
        path.write_text(text_of(tree, rng), encoding="utf-8", errors="surrogatepass")
        yield seed, tree, path, check(path, directory / "out")


def main(count: int, first: int = 0) -> None:
    """Prints what happened to many."""
    statuses: Counter[int] = Counter()
    slowest, largest, start = (0.0, 0), 0, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with tempfile.TemporaryDirectory() as directory:
        for seed, _, _, outcome in trials(Path(directory), first, count):
            statuses[outcome.status] += 1
            slowest = max(slowest, (outcome.seconds, seed))
            largest = outcome.memory
            if outcome.status not in (0, 2) or outcome.seconds > 3:
                print(
                    f"--- seed {seed}: status {outcome.status}, {outcome.seconds:.1f} s\n{outcome.said[-1500:]}"
                )
    print(
        f"{dict(statuses)}; longest {slowest[0]:.2f} s (seed {slowest[1]}); {(largest >> 20) - (start >> 10)} MiB more memory"
    )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
