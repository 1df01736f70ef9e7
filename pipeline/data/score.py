"""Reference scores: what a Hugging Face causal language model thinks of every token of a source's training split.

The losses are what RHO-1 (arXiv 2404.07965) subtracts from the trainee's loss, and their mean per document is the
perplexity by which documents are ordered; the entropies serve its variants without a clean corpus (section 4.2).
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from perdure.pipeline.console import duration_words, tokens_words
from perdure.pipeline.errors import PerdureError
from perdure.pipeline.integrity import is_whole
from perdure.pipeline.manifest import (
    differences,
    disk_errors,
    finish,
    hash_file,
    hash_files,
    hash_of,
    read_json,
    remembered_hash,
)

if TYPE_CHECKING:
    from perdure.pipeline.data.executor import Execute

PAUSE, LONGEST_PAUSE, SHARE = 10.0, 300.0, 0.1
"""Seconds between two lines on what is scored, at least and at most, and their share of the time so far."""
FORMAT = 2
"""Version of what is written; a change in its meaning makes new directories."""


def score_source(
    data_dir: Path,
    model_dir: Path,
    *,
    label: str,
    context: int,
    overlap: int = 0,
    workers: int,
    precision: str = "fp32",
    elsewhere: "AbstractContextManager[Execute] | None" = None,
    hashes: Path | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Path:
    """Scores the training split of one source, unless that is finished.

    Args:
        data_dir: The source's directory of shards.
        model_dir: A Hugging Face causal language model: `config.json` and safetensors.
        label: Names the result, `<data_dir>/scores/<label>@<hash8>`.
        context: Tokens that the model sees at most.
        overlap: Tokens that consecutive windows of a longer document share, see `losses.document_windows`.
        workers: Processes on CPU; with CUDA there is one for each device.
        precision: `fp32` or `bf16`, of the model's weights and activations.
        elsewhere: What runs the tasks in the place of `workers`, see `backends.elsewhere`.
        hashes: Remembers the model's hash, see `manifest.remembered_hash`.
        say: Receives a line for the console when there is something to do.

    Returns:
        A directory with `<task>.ref.{bin,idx}` (losses) and `<task>.ent.{bin,idx}` (entropies of the predictions), both
        uint16, milli-nats, one value a token, aligned with the shards; `docs.parquet` (see `scorer.SCORES`) and
        `manifest.json`.

    Raises:
        PerdureError: If the model is missing or has another or a smaller vocabulary, or the disk is full.
    """
    data = read_json(data_dir / "manifest.json")
    inputs = {
        "format": FORMAT,
        "model_hash": model_hash(model_dir, hashes),
        "data_hash": data["data_hash"],
        "context": context,
        "overlap": overlap,
        "mask": "document",
        "precision": precision,
    }
    final = data_dir / "scores" / f"{label}@{hash_of(inputs)[:8]}"
    if is_whole(final):
        _check_origin(final, inputs)
        return final
    _check_vocabulary(model_dir, data)
    say(f"scoring {data['source']} with {label}: {data['counts']['train']['tokens']:,} tokens")

    threads = None
    if elsewhere is None:
        import torch

        from perdure.pipeline.data.executor import local

        workers = torch.cuda.device_count() or min(workers, data["tasks"])
        threads = max(1, torch.get_num_threads() // workers)
        elsewhere = local(workers, scoring=True)
    with disk_errors(data_dir), elsewhere as execute:
        _score(data_dir, final, model_dir, data, inputs, threads, execute, say)
    return final


def model_hash(model_dir: Path, hashes: Path | None = None) -> str:
    """SHA-256 over a model's `config.json` and weights, by content; `hashes` may remember it.

    Raises:
        PerdureError: If either is missing.
    """
    files = [model_dir / "config.json", *sorted(model_dir.glob("*.safetensors"))]
    if not files[0].is_file() or len(files) == 1:
        raise PerdureError(f"{model_dir}: not a Hugging Face model; it needs `config.json` and safetensors")

    def make() -> str:
        return hash_of([(file.name, hash_file(file)) for file in files])

    return remembered_hash(hashes, f"scorer {model_dir}", files, make) if hashes else make()


def _score(
    data_dir: Path,
    final: Path,
    model_dir: Path,
    data: dict,
    inputs: dict,
    threads: int | None,
    execute: "Execute",
    say: Callable[[str], None],
) -> None:
    from perdure.pipeline.data.executor import building
    from perdure.pipeline.data.rows import merge_tables
    from perdure.pipeline.data.scorer import PROGRESS, Scorer
    from perdure.pipeline.data.shard import shard_files

    out, tasks = data_dir.parent.parent, data["tasks"]
    with building(out, final) as work:
        artefact = work / "artefact"
        precision, windows = inputs["precision"], (inputs["context"], inputs["overlap"])
        step = Scorer(data_dir, artefact, model_dir, data["eos_id"], windows, precision, threads)
        with _telling(work / PROGRESS, data["source"], data["counts"]["train"]["tokens"], say):
            (counts,) = execute([step], tasks, work / "score")
        assert counts["tokens"] == data["counts"]["train"]["tokens"]
        merge_tables(
            [artefact / f"docs.{task:05d}.parquet" for task in range(tasks)], artefact / "docs.parquet"
        )
        files = hash_files(artefact, shard_files(artefact))
        totals = {key: counts[key] for key in ("documents", "tokens", "clipped", "missing")}
        manifest = inputs | {"source": data["source"], "tokenizer_hash": data["tokenizer_hash"]}
        finish(artefact, manifest | {"counts": totals, "files": files})


@contextmanager
def _telling(folder: Path, source: str, total: int, say: Callable[[str], None]) -> Iterator[None]:
    """Tells meanwhile, whenever some more is scored, how much is and how long the rest will take.

    Args:
        folder: Where tasks write how many tokens they have scored.
        source: The source's name.
        total: Its tokens.
        say: Receives the lines: one in `PAUSE` seconds at first, and fewer as time goes on.
    """
    ended, begun, done_before = threading.Event(), time.monotonic(), _scored(folder)

    def tell() -> None:
        last, done_last = begun, done_before
        pause = PAUSE
        while not ended.wait(pause):
            now, done = time.monotonic(), _scored(folder)
            if done > done_last:
                say(_line(source, done, total, (done - done_last) / (now - last)))
                last, done_last = now, done
            pause = min(max(PAUSE, SHARE * (now - begun)), LONGEST_PAUSE)

    thread = threading.Thread(target=tell, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _scored(folder: Path) -> int:
    """Tokens that all tasks have scored by now, earlier runs included."""
    try:
        return sum(int(file.read_text()) for file in folder.glob("[0-9]*"))
    except OSError:  # NFS may lose a file that is replaced while it is read; the next look sees the new one
        return 0


def _line(source: str, done: int, total: int, rate: float) -> str:
    return (
        f"scoring {source}: {tokens_words(done)} of {tokens_words(total)} tokens ({done / total:.0%}), {rate:,.0f} tokens/s, "
        f"ETA {duration_words((total - done) / rate)}"
    )


def _check_origin(final: Path, inputs: dict) -> None:
    """Refuses scores that were copied here from another model, other data or another length."""
    found = read_json(final / "manifest.json")
    if differing := differences(inputs, {key: found.get(key) for key in inputs}):
        raise PerdureError(
            f"{final}: these scores were made from something else ({'; '.join(differing)}); delete them and run again"
        )


def _check_vocabulary(model_dir: Path, data: dict) -> None:
    """Refuses a model that was not made for the data's tokenizer."""
    tokenizer = model_dir / "tokenizer.json"
    if tokenizer.is_file() and (found := hash_file(tokenizer)) != data["tokenizer_hash"]:
        raise PerdureError(
            f"{model_dir}: its tokenizer ({found[:8]}) is not the data's ({data['tokenizer_hash'][:8]}); scores "
            "would be meaningless: choose a model with the recipe's tokenizer, or give the recipe the model's"
        )
    size = read_json(model_dir / "config.json").get("vocab_size", 0)
    if size < data["vocab_size"]:
        raise PerdureError(
            f"{model_dir}: its vocabulary of {size} is smaller than the tokenizer's {data['vocab_size']}; choose "
            "a model with the recipe's tokenizer"
        )
