"""Reference scores: losses and entropies of a source's training tokens under a Hugging Face causal language model.

All scores of a source by a model are an artefact. Where only some of its documents are asked for, what they have is another
one beside it, `<label>@<hash8>+<hash8 of the documents>`; asked for more, that is copied into the next, and never changed.

The losses are what RHO-1 (arXiv 2404.07965) subtracts from the trainee's loss, and their mean per document is the
perplexity by which documents are ordered; the entropies serve its variants without a clean corpus (section 4.2).
"""

import hashlib
import io
import logging
import os
import shutil
from contextlib import AbstractContextManager
from dataclasses import dataclass
from glob import escape
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from perdure.pipeline.core.errors import PerdureError
from perdure.pipeline.core.files import read_json, write_atomic
from perdure.pipeline.core.hashes import hash_file, hash_of
from perdure.pipeline.core.integrity import is_whole
from perdure.pipeline.core.manifest import differences, disk_errors, finish, is_finished
from perdure.pipeline.core.remembered_hashes import hash_files, remembered_hash
from perdure.pipeline.core.shards import open_shard
from perdure.pipeline.data.score.losses import BEFORE, FORMAT
from perdure.pipeline.data.score.progress import telling

if TYPE_CHECKING:
    from perdure.pipeline.data.backends.local import Execute


logger = logging.getLogger(__name__)

PLACES = {"train": "scores", "heldout": "heldout_scores"}
"""Folder below a source's data that has the scores of a split's documents."""


@dataclass(frozen=True)
class ReferenceModel:
    """A reference model and its scoring options.

    Attributes:
        directory: A Hugging Face causal language model: `config.json` and safetensors.
        label: Names its scores, `<data>/scores/<label>@<hash8>`.
        context: Tokens that it sees at most.
        overlap: Tokens that consecutive windows of a longer document share, see `losses.document_windows`.
        precision: `fp32` or `bf16`, of its weights and activations.
        hashes: Remembers its hash, see `manifest.remembered_hash`.
    """

    directory: Path
    label: str
    context: int
    overlap: int = 0
    precision: str = "fp32"
    hashes: Path | None = None


def score_place(data_dir: Path, model: ReferenceModel, split: str = "train") -> tuple[Path, dict]:
    """Directory of the scores of all documents of a source by a model, made or not, and what they depend on."""
    inputs = {
        "format": FORMAT,
        "model_hash": model_hash(model.directory, model.hashes),
        "data_hash": read_json(data_dir / "manifest.json")["data_hash"],
        "context": model.context,
        "overlap": model.overlap,
        "mask": "document",
        "precision": model.precision,
    }
    before = inputs | {"format": BEFORE}
    places = [data_dir / PLACES[split] / f"{model.label}@{hash_of(told)[:8]}" for told in (inputs, before)]
    return (places[1], before) if is_finished(places[1]) else (places[0], inputs)


def score_source(
    data_dir: Path,
    model: ReferenceModel,
    *,
    workers: int,
    wanted: np.ndarray | None = None,
    executor: "AbstractContextManager[Execute] | None" = None,
    split: str = "train",
) -> Path:
    """Scores documents of one split of one source, unless that is done.

    Args:
        data_dir: The source's directory of shards.
        model: What scores them.
        workers: Processes on CPU; with CUDA there is one for each device.
        wanted: Which documents, bool [documents over all shards]; default: all. Those that were scored before are kept, too.
        executor: Runs the tasks instead of `workers` processes here, see `backends.remote_executor`.
        split: `train`, or `heldout`, each of whose documents is scored as one of the training split is: alone, and whole.

    Returns:
        A directory with `<task>.ref.{bin,idx}` (losses) and `<task>.ent.{bin,idx}` (entropies of the predictions), both
        uint16, milli-nats, one value a token; a document of the shard that has no scores has no tokens there.
        `docs.parquet` (see `scorer.SCORES`) and `manifest.json`.

    Raises:
        PerdureError: If the model is missing or has another or a smaller vocabulary, or the disk is full.
    """
    from perdure.pipeline.data.score.scorer import scored_documents
    from perdure.pipeline.data.shard import PREFIXES

    place, inputs = score_place(data_dir, model, split)
    if is_whole(place):
        _check_origin(place, inputs)
        return place
    data = read_json(data_dir / "manifest.json")
    shards = [data_dir / PREFIXES[split].format(task) for task in range(data["tasks"])]
    lengths = [np.asarray(open_shard(shard).lengths) for shard in shards]
    borders = np.cumsum([len(part) for part in lengths])
    asked = np.ones(borders[-1], bool) if wanted is None else wanted.copy()
    earlier = None
    for path in _partial(place):
        kept = np.concatenate([scored_documents(path, task) for task in range(data["tasks"])])
        if earlier is None or not (asked & ~kept).any():
            is_whole(path)
            _check_origin(path, inputs)
        if not (asked & ~kept).any():
            return path
        earlier = earlier or (path, kept)
    _check_vocabulary(model.directory, data)
    asked |= earlier[1] if earlier else False
    tasks = np.split(asked, borders[:-1])
    left = _left(place, tasks)
    final = place if asked.all() else place.with_name(f"{place.name}+{_digest(asked)}")
    tokens = int(np.concatenate(lengths)[asked & ~earlier[1] if earlier else asked].sum(dtype=np.int64))
    whole = data["counts"][split]["tokens"]
    part = "" if tokens == whole else f" of {whole:,}"
    logger.info(f"scoring {data['source']} with {model.label}: {tokens:,}{part} tokens")

    threads = None
    if executor is None:
        import torch

        from perdure.pipeline.data.backends.local import local

        workers = torch.cuda.device_count() or min(workers, data["tasks"])
        threads = max(1, torch.get_num_threads() // workers)
        executor = local(workers, scoring=True)
    before = earlier[0] if earlier else None
    request = _Request(data_dir, final, model.directory, tasks, before, left, tokens, split)
    with disk_errors(data_dir), executor as execute:
        _score(request, data, inputs, threads, execute)
    return final


class _Request(NamedTuple):
    """A request to score documents of a source.

    Attributes:
        data_dir: The source's directory of shards.
        final: Where the scores go.
        model_dir: The model.
        asked: Which documents they are to have, bool [documents], by shard.
        earlier: Scores that have some of them, if there are any.
        left: Directories of work that ended before it was done.
        tokens: To be scored, now and in that work.
        split: Of the documents.
    """

    data_dir: Path
    final: Path
    model_dir: Path
    asked: list[np.ndarray]
    earlier: Path | None
    left: list[Path]
    tokens: int
    split: str


def _partial(place: Path) -> list[Path]:
    """Finished scores of parts of a source, those with most tokens first."""
    found = [path for path in place.parent.glob(f"{escape(place.name)}+*") if is_finished(path)]
    return sorted(found, key=lambda path: (-read_json(path / "manifest.json")["counts"]["tokens"], path.name))


def _left(place: Path, asked: list[np.ndarray]) -> list[Path]:
    """Unfinished work on the same scores; documents of its blocks are added to those asked for."""
    from perdure.pipeline.data.backends.local import work_directory
    from perdure.pipeline.data.score.scorer import block_documents

    work = work_directory(place.parents[3], place)
    found = [path for path in (work, *work.parent.glob(f"{escape(work.name)}+*")) if path.is_dir()]
    for path in found:
        for task, part in enumerate(asked):
            part[block_documents(path, task)] = True
    return found


def _digest(asked: np.ndarray) -> str:
    return hashlib.sha256(np.packbits(asked).tobytes()).hexdigest()[:8]


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
    request: _Request,
    data: dict,
    inputs: dict,
    threads: int | None,
    execute: "Execute",
) -> None:
    from perdure.pipeline.data.backends.local import building
    from perdure.pipeline.data.read.rows import merge_tables
    from perdure.pipeline.data.score.scorer import ASKED, PROGRESS, Scorer
    from perdure.pipeline.data.shard import shard_files

    data_dir, final, model_dir, asked, earlier, left, tokens, split = request
    with building(data_dir.parent.parent, final) as work:
        _take_over(work, left)
        for task, part in enumerate(asked):
            content = io.BytesIO()
            np.save(content, part)
            write_atomic(work / ASKED / f"{task:05d}.npy", content.getvalue())
        artefact, tasks = work / "artefact", data["tasks"]
        precision, windows = inputs["precision"], (inputs["context"], inputs["overlap"])
        step = Scorer(data_dir, artefact, model_dir, data["eos_id"], windows, precision, threads, earlier)
        step.split = split
        with telling(work / PROGRESS, data["source"], tokens):
            (counts,) = execute([step], tasks, work / "score")
        assert counts["documents"] == sum(int(part.sum()) for part in asked)
        merge_tables(
            [artefact / f"docs.{task:05d}.parquet" for task in range(tasks)], artefact / "docs.parquet"
        )
        files = hash_files(artefact, shard_files(artefact))
        totals = {key: counts[key] for key in ("documents", "tokens", "clipped", "missing")}
        manifest = inputs | {"source": data["source"], "tokenizer_hash": data["tokenizer_hash"]}
        finish(artefact, manifest | {"counts": totals, "files": files})


def _take_over(work: Path, left: list[Path]) -> None:
    """Takes over the blocks of unfinished work on other documents, and removes that work."""
    from perdure.pipeline.data.score.scorer import BLOCKS

    for other in left:
        if other != work:
            (work / BLOCKS).mkdir(exist_ok=True)
            for file in (other / BLOCKS).glob("[0-9]*.npz"):
                os.replace(file, work / BLOCKS / file.name)
            shutil.rmtree(other)


def _check_origin(final: Path, inputs: dict) -> None:
    """Checks that scores were made from this model, this data and these windows."""
    found = read_json(final / "manifest.json")
    if differing := differences(inputs, {key: found.get(key) for key in inputs}):
        raise PerdureError(
            f"{final}: these scores were made from something else ({'; '.join(differing)}); delete them and run again"
        )


def _check_vocabulary(model_dir: Path, data: dict) -> None:
    """Checks that a model was made for the data's tokenizer."""
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
