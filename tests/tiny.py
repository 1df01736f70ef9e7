"""Small real artefacts: recipes, documents, shards, sidecars, and versions prepared from them."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import yaml
from pyarrow import parquet

from perdure.pipeline.core.files import read_json, write_json
from perdure.pipeline.core.hashes import hash_file
from perdure.pipeline.core.manifest import finish
from perdure.pipeline.core.shards import REF_NATS_PER_UNIT
from perdure.pipeline.plan.planning import build_plan
from perdure.pipeline.recipe import Recipe

EOS = 0


def write_shard(prefix: Path, documents: list[np.ndarray], dtype=np.uint16) -> None:
    """A Megatron shard, by datatrove's own writer."""
    from datatrove.pipeline.tokens.megatron_tokenizer import MegatronTokenizedFile

    file = MegatronTokenizedFile(str(prefix.parent), prefix.name, token_size=np.dtype(dtype).itemsize)
    for document in documents:
        file.write(document)
    file.close()


def write_data(
    directory: Path,
    tasks: list[list[np.ndarray]],
    heldout: list[np.ndarray],
    vocab_size: int,
    tokenizer_hash: str = "test",
    label: Callable[[str, int, int], dict[str, str | None]] = lambda split, task, number: {},
) -> Path:
    """A finished data directory: documents per task (end-of-sequence included) and held-out documents in task 0.

    `label` gives a document's topic and language, by split, task and number.
    """
    directory.mkdir(parents=True)
    rows = []
    for task, documents in enumerate(tasks):
        parts = {"train": documents, "heldout": heldout if task == 0 else []}
        for split, members in parts.items():
            write_shard(directory / f"{'heldout.' if split == 'heldout' else ''}{task:05d}", members)
            rows += [
                {
                    "split": split,
                    "shard": task,
                    "sequence": number,
                    "id": f"{split}/{task}/{number}",
                    "num_tokens": len(document),
                    "num_bytes": 4 * len(document),
                    "hash": hashlib.sha256(document.tobytes()).hexdigest()[:16],
                    "topic": None,
                    "language": None,
                }
                | label(split, task, number)
                for number, document in enumerate(members)
            ]
    parquet.write_table(pa.Table.from_pylist(rows), directory / "docs.parquet")
    files = {path.name: {"sha256": hash_file(path)} for path in sorted(directory.glob("*.bin"))}
    train = [document for documents in tasks for document in documents]
    counts = {
        split: {"documents": len(members), "tokens": sum(map(len, members))}
        for split, members in (("train", train), ("heldout", heldout))
    }
    for kind, kinds in (("topic", "topics"), ("language", "languages")):
        counts[kinds] = {
            name: {
                split: {
                    "documents": sum(row[kind] == name for row in rows if row["split"] == split),
                    "tokens": sum(
                        row["num_tokens"] for row in rows if (row[kind], row["split"]) == (name, split)
                    ),
                }
                for split in ("train", "heldout")
            }
            for name in sorted({row[kind] for row in rows} - {None})
        }
    finish(
        directory,
        {
            "tasks": len(tasks),
            "eos_id": EOS,
            "vocab_size": vocab_size,
            "tokenizer_hash": tokenizer_hash,
            "data_hash": "test",
            "counts": counts,
            "source": directory.name,
            "command": "perdure run tiny.yaml",
            "files": files,
        },
    )
    return directory


def write_scores(directory: Path, data: Path, losses: list[list[np.ndarray]]) -> Path:
    """A sidecar of reference losses (nats), per task and document."""
    directory.mkdir(parents=True)
    for task, documents in enumerate(losses):
        units = [np.round(document / REF_NATS_PER_UNIT).astype(np.uint16) for document in documents]
        write_shard(directory / f"{task:05d}.ref", units)
    finish(directory, {"data_hash": "test", "tokenizer_hash": "test"})
    return directory


def write_masks(data: Path, masks: list[list[np.ndarray]], heldout: list[np.ndarray]) -> None:
    """Label masks of a data directory, as `write_data` takes its documents."""
    for task, documents in enumerate(masks):
        write_mask(data / f"{task:05d}.mask", documents)
        write_mask(data / f"heldout.{task:05d}.mask", heldout if task == 0 else [])
    write_json(data / "manifest.json", read_json(data / "manifest.json") | {"label_mask": True})


def write_mask(prefix: Path, documents: list[np.ndarray]) -> None:
    """One shard of a label mask, by the data stage's own writer."""
    from perdure.pipeline.data.shard import MaskFile

    file = MaskFile(prefix.parent, prefix.name)
    for document in documents:
        file.write(document)
    file.close()


def write_export(version: Path) -> str:
    """A stand-in for a version's exported weights; returns what `version.json` says of them."""
    import torch
    from safetensors.torch import save_file

    from perdure.pipeline.model.huggingface import weights_hash

    (version / "hf").mkdir(parents=True, exist_ok=True)
    save_file({"weight": torch.ones(2)}, version / "hf" / "model.safetensors")
    return weights_hash(version / "hf")


def tiny_llama(directory: Path, vocab_size: int, seed: int = 0, **changes) -> Path:
    """A Llama with random weights, as a Hugging Face directory; `changes` are fields of its configuration."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
    }
    torch.manual_seed(seed)
    LlamaForCausalLM(LlamaConfig(vocab_size=vocab_size, **shape | changes)).save_pretrained(directory)
    return directory


def random_documents(seed: int, count: int, vocab_size: int, longest: int = 40) -> list[np.ndarray]:
    """Documents over a skewed vocabulary, so that there is something to learn."""
    rng = np.random.default_rng(seed)
    documents = []
    for _ in range(count):
        start = rng.integers(1, vocab_size)
        length = rng.integers(3, longest)
        tokens = (start + np.arange(length) * rng.integers(1, 4)) % (vocab_size - 1) + 1
        documents.append(np.append(tokens, EOS).astype(np.uint16))
    return documents


def tiny_recipe(out: Path, **changes) -> Recipe:
    """A recipe over two sources, `a` and `b`, for hand-made data; `changes` are merged into it by dotted path."""
    tree = {
        "name": "tiny",
        "out": str(out),
        "sources": {name: {"reader": {"type": "text", "path": "unused"}} for name in ("a", "b")},
        "tokenizer": {"type": "train", "vocab_size": 300, "sources": ["a"]},
        "model": {
            "type": "llama",
            "num_layers": 4,
            "hidden_size": 32,
            "ffn_hidden_size": 64,
            "num_attention_heads": 4,
            "num_query_groups": 2,
        },
        "training": {
            "seq_length": 32,
            "micro_batch_size": 2,
            "global_batch_size": 8,
            "checkpoint_interval": 5,
            "log_interval": 5,
        },
        "versions": {
            "v1": {
                "start": {"type": "init"},
                "tokens": 32 * 8 * 20,
                "mixture": {"sources": {"a": {"weight": 0.7}, "b": {"weight": 0.3}}, "max_repetition": 100},
                "schedule": {"type": "cosine", "max_lr": 0.01, "min_lr": 0.001, "warmup": 0.1},
            }
        },
        "evaluation": {"max_tokens": 500},
    }
    for path, value in changes.items():
        node = tree
        *parents, last = path.split("__")
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = value
    return Recipe.model_validate(tree)


def write_tokenizer(directory: Path, vocab_size: int) -> None:
    """A run's tokenizer of the words t0, t1, ... between blanks."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    directory.mkdir(parents=True)
    words = models.WordLevel({f"t{number}": number for number in range(vocab_size)}, unk_token="t1")
    made = Tokenizer(words)
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.save(str(directory / "tokenizer.json"))
    facts = {"eos_id": EOS, "vocab_size": vocab_size, "tokenizer_hash": "test"}
    finish(directory, facts | {"parse_special_tokens": False})


def random_data(out: Path, scored: bool = False, vocab_size: int = 300) -> tuple[dict, dict, Path]:
    """Data directories of `a` and `b`, their reference losses, and a tokenizer, written once."""
    data, scores = {}, {}
    for number, name in enumerate(("a", "b")):
        path = out / "data" / name
        tasks = [random_documents(10 * number + task, 60, vocab_size) for task in range(2)]
        if not path.exists():
            write_data(path, tasks, random_documents(99 + number, 12, vocab_size), vocab_size)
        data[name] = path
        if scored:
            rng = np.random.default_rng(number)
            losses = [[rng.uniform(0, 6, len(document)) for document in task] for task in tasks]
            scores[name] = path / "scores" / "test"
            if not scores[name].exists():
                write_scores(scores[name], path, losses)
    tokenizer = out / "tokenizer"
    if not tokenizer.exists():
        write_tokenizer(tokenizer, vocab_size)
    return data, scores, tokenizer


def prepare_version(
    recipe: Recipe, scored: bool = False, vocab_size: int = 300, ranked: dict[str, Path] | None = None
) -> Path:
    """A version directory that `perdure.pipeline.train.worker` can run, over random documents.

    `ranked` has scores with perplexities, for sources that are ordered by them.
    """
    out = recipe.directory
    data, scores, tokenizer = random_data(out, scored, vocab_size)
    name = next(iter(recipe.versions))
    directory = out / "versions" / name
    build_plan(directory / "plan", recipe, name, data, ranked or {})
    (directory / "recipe.yaml").write_text(yaml.safe_dump(recipe.model_dump(mode="json")))
    write_json(
        directory / "inputs.json",
        {
            "version": name,
            "parent": None,
            "parent_lineage_tokens": 0,
            "vocab_size": vocab_size,
            "eos_id": EOS,
            "tokenizer": str(tokenizer),
            "initial_weights": None,
            "parent_checkpoint": None,
            "data": {key: str(path) for key, path in data.items()},
            "scores": {key: str(path) for key, path in scores.items()},
            "measured": {},
            "identity": {"initial_weights": None, "data": {}, "tokenizer_hash": "test"},
        },
    )
    return directory
