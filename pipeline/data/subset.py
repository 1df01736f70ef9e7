"""Subsets: which training documents of a source are kept, up to a token budget; an artefact of its own.

`<task>.parquet` holds a row for every cleaned document of the task, in order: `keep` (held-out ones always), `score`.
"""

import functools
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datatrove.data import DocumentsPipeline
from datatrove.pipeline.base import PipelineStep

from perdure.pipeline import recipe
from perdure.pipeline.core.errors import PerdureError
from perdure.pipeline.core.manifest import finish
from perdure.pipeline.core.remembered_hashes import hash_files
from perdure.pipeline.core.sorting import ROWS, new_array, sort_keys
from perdure.pipeline.core.tokenizers import load_tokenizer
from perdure.pipeline.data import dsir
from perdure.pipeline.data.backends.local import building
from perdure.pipeline.data.cleaning.normalise import is_heldout, text_hash
from perdure.pipeline.data.context import StageContext
from perdure.pipeline.data.encode import encode_texts
from perdure.pipeline.data.features import classifier, read_rows, sample_texts
from perdure.pipeline.data.read.readers import CleanedDocuments
from perdure.pipeline.data.shard import batches


def choose_subset(
    context: StageContext,
    final: Path,
    name: str,
    subset: recipe.Subset,
    clean: Path,
    tokenizer: Path,
    manifest: dict,
) -> None:
    """Chooses documents of one source.

    Args:
        context: What the stage's steps share; `reserved_fraction`: documents below it are neither chosen nor looked at;
            `seed`: of DSIR's noise.
        final: Where the artefact goes.
        name: The source's name in the recipe.
        subset: Method and budget.
        clean: The source's cleaned documents.
        tokenizer: The tokenizer's directory; tokens are counted with their separator.
        manifest: What the artefact depends on; `taken` and `available` (documents, tokens) are added.

    Raises:
        PerdureError: If the budget exceeds the source, or a sample has no text.
    """
    where = f"sources.{name}.subset"
    reserved = context.reserved_fraction
    with building(context.out, final) as work:
        documents = CleanedDocuments(str(clean))
        if isinstance(subset, recipe.DsirSubset):
            context.execute([documents, Count(subset, reserved, work / "counts")], work / "count")
        context.execute([Fit(subset, clean, reserved, work, where)], work / "fit", tasks=1)
        context.execute([documents, Score(subset, tokenizer, reserved, work)], work / "score")
        taken, available = choose(subset, work, context.tasks, context.seed, where)
        counts = {"taken": taken, "available": available}
        finish(work / "artefact", manifest | counts | {"files": hash_files(work / "artefact")})


def choose(subset: recipe.Subset, work: Path, tasks: int, seed: int, where: str) -> tuple[dict, dict]:
    """Writes which of each task's documents are kept; returns how many are, of how many.

    The columns of all documents stand in mapped files, so that memory does not grow with the corpus.
    """
    sorting = work / "sorting"
    shutil.rmtree(sorting, ignore_errors=True)
    sorting.mkdir()
    files = [work / "scores" / f"{task:05d}.parquet" for task in range(tasks)]
    stops = np.cumsum([pq.read_metadata(file).num_rows for file in files])
    places = [slice(start, stop) for start, stop in zip([0, *stops[:-1]], stops, strict=True)]
    scores, tokens, trains, keep = (
        new_array(sorting / f"{name}.npy", dtype, int(stops[-1]))
        for name, dtype in (("scores", np.float64), ("tokens", np.int64), ("trains", bool), ("keep", bool))
    )
    available = {"documents": 0, "tokens": 0}
    for file, place in zip(files, places, strict=True):
        table = pq.read_table(file)
        scores[place], tokens[place], trains[place] = (
            table[column].to_numpy() for column in ("score", "tokens", "trains")
        )
        if isinstance(subset, recipe.DsirSubset):
            scores[place] += dsir.gumbel_noise(table["hash"].to_numpy(), seed)
        keep[place] = ~trains[place]
        available["documents"] += int(trains[place].sum())
        available["tokens"] += int(tokens[place][trains[place]].sum())
    if subset.tokens > available["tokens"]:
        raise PerdureError(
            f"{where}.tokens = {subset.tokens:,}: the source has only {available['tokens']:,} training tokens; lower "
            "it, or leave the subset out and let the mixture repeat the source"
        )
    taken = take_best(keep, scores, tokens, subset.tokens, sorting)
    for file, place in zip(files, places, strict=True):
        rows = pa.table({"keep": np.array(keep[place]), "score": np.array(scores[place])})
        pq.write_table(rows, work / "artefact" / file.name)
    return taken, available


def take_best(
    keep: np.ndarray, scores: np.ndarray, tokens: np.ndarray, budget: int, scratch: Path, rows: int = ROWS
) -> dict[str, int]:
    """Marks the documents with the highest scores until the token budget is reached.

    Args:
        keep: bool [documents], whether each is kept anyway; those that are taken are added.
        scores: float64 [documents]; of equal ones the first document wins.
        tokens: int64 [documents].
        budget: Tokens to reach.
        scratch: A directory for runs of sorted keys.
        rows: Documents handled at a time.

    Returns:
        `documents` and `tokens` that were taken.
    """
    taken = {"documents": 0, "tokens": 0}
    starts = range(0, len(scores), rows)
    keys = (np.where(keep[at : at + rows], np.inf, -scores[at : at + rows]) for at in starts)
    for places in sort_keys(keys, scratch, rows):
        places = places[~keep[places]]
        before = taken["tokens"] + np.cumsum(tokens[places]) - tokens[places]
        places = places[before < budget]
        keep[places] = True
        taken["documents"] += len(places)
        taken["tokens"] += int(tokens[places].sum())
        if taken["tokens"] >= budget:
            break
    return taken


class Count(PipelineStep):
    """Adds up the n-grams of a task's training documents."""

    type = "🔢 - COUNT"
    name = "n-grams"

    def __init__(self, subset: recipe.DsirSubset, reserved_fraction: float, folder: Path):
        super().__init__()
        self.subset, self.reserved_fraction, self.folder = subset, reserved_fraction, folder

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> None:
        """Writes `<rank>.npy`, float64 [num_buckets]."""
        counts = np.zeros(self.subset.num_buckets)
        for batch in batches(data):
            texts = [document.text for document in batch if not self.is_reserved(document.text)]
            counts += np.asarray(dsir.bucket_counts(texts, len(counts)).sum(0)).ravel() if texts else 0
        self.folder.mkdir(parents=True, exist_ok=True)
        np.save(self.folder / f"{rank:05d}.npy", counts)

    def is_reserved(self, text: str) -> bool:
        """Whether a document is held out here or elsewhere."""
        return is_heldout(text_hash(text), self.reserved_fraction)


class Fit(PipelineStep):
    """Leaves `model.joblib`: log ratios of buckets, or a classifier."""

    type = "🎓 - LEARN"
    name = "Subset"

    def __init__(
        self, subset: recipe.Subset, clean: Path, reserved_fraction: float, folder: Path, where: str
    ):
        super().__init__()
        self.subset, self.clean, self.reserved_fraction = subset, clean, reserved_fraction
        self.folder, self.where = folder, where

    def run(self, data: DocumentsPipeline = None, rank: int = 0, world_size: int = 1) -> None:
        """Learns on one thread, so that the sums are the same on any number of cores."""
        import joblib
        from threadpoolctl import threadpool_limits

        with threadpool_limits(1):
            joblib.dump(self.learn(), self.folder / "model.joblib")

    def learn(self) -> Any:
        """The model that scores documents."""
        if isinstance(self.subset, recipe.DsirSubset):
            texts = _sample(self.subset.target, f"{self.where}.target")
            target = np.asarray(dsir.bucket_counts(texts, self.subset.num_buckets).sum(0)).ravel()
            parts = [np.load(path) for path in sorted((self.folder / "counts").glob("*.npy"))]
            return dsir.log_ratios(target, np.sum(parts, 0))
        good = _sample(self.subset.positive, f"{self.where}.positive")
        other = sample_texts(self.clean, self.reserved_fraction, len(good))
        return classifier().fit(good + other, [1] * len(good) + [0] * len(other))


class Score(PipelineStep):
    """Scores every document and counts its tokens."""

    type = "⚖️ - SCORE"
    name = "Subset"

    def __init__(self, subset: recipe.Subset, tokenizer: Path, reserved_fraction: float, folder: Path):
        super().__init__()
        self.subset, self.tokenizer, self.reserved_fraction = subset, tokenizer, reserved_fraction
        self.folder = folder

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> None:
        """Writes `scores/<rank>.parquet`: hash, tokens (separator included), whether it trains, score."""
        from threadpoolctl import threadpool_limits

        tokenizer, model = load_tokenizer(self.tokenizer), _load(self.folder)
        rows: list[tuple] = []
        with threadpool_limits(1):
            for batch in batches(data):
                texts = [document.text for document in batch]
                scores = self.scores(model, texts)
                for text, encoded, score in zip(texts, encode_texts(tokenizer, batch), scores, strict=True):
                    digest = text_hash(text)
                    trains = not is_heldout(digest, self.reserved_fraction)
                    rows.append((digest, len(encoded.tokens), trains, float(score)))
        schema = pa.schema(
            [("hash", pa.uint64()), ("tokens", pa.int64()), ("trains", pa.bool_()), ("score", pa.float64())]
        )
        columns = zip(*rows, strict=True) if rows else [[]] * len(schema)
        (self.folder / "scores").mkdir(exist_ok=True)
        table = pa.table(dict(zip(schema.names, columns, strict=True)), schema)
        pq.write_table(table, self.folder / "scores" / f"{rank:05d}.parquet")

    def scores(self, model: Any, texts: list[str]) -> np.ndarray:
        """Scores of texts, float64: log importance weights, or the classifier's decision values."""
        if isinstance(self.subset, recipe.DsirSubset):
            return dsir.log_weights(dsir.bucket_counts(texts, self.subset.num_buckets), model)
        return model.decision_function(texts)


def _sample(path: Path, where: str) -> list[str]:
    texts = [text for (text,) in read_rows(path, "text") if text]
    if not texts:
        raise PerdureError(f"{where} = {path}: there is no text in it")
    return texts


@functools.lru_cache(maxsize=1)
def _load(folder: Path) -> Any:
    import joblib

    return joblib.load(folder / "model.joblib")
