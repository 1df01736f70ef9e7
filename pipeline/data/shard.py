"""Tokenising cleaned documents into Megatron shards: a train and a held-out one a task, and a table of documents."""

import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datatrove.data import Document, DocumentsPipeline
from datatrove.pipeline.base import PipelineStep
from datatrove.pipeline.tokens.megatron_tokenizer import MegatronTokenizedFile

from perdure.pipeline.core.errors import PerdureError
from perdure.pipeline.core.files import read_json
from perdure.pipeline.core.manifest import finish
from perdure.pipeline.core.remembered_hashes import hash_files
from perdure.pipeline.core.tokenizers import LoadedTokenizer, load_tokenizer
from perdure.pipeline.data.backends.local import Execute, building
from perdure.pipeline.data.cleaning.counted import step_counts, total
from perdure.pipeline.data.cleaning.normalise import count_words, is_heldout, text_hash
from perdure.pipeline.data.read.readers import CleanedDocuments
from perdure.pipeline.data.read.rows import merge_tables
from perdure.pipeline.data.tokenizer.compared import SAMPLES, Sample, compare, read_samples
from perdure.pipeline.data.tokenizer.coverage import NOTHING_LEFT, count_visible, gaps

UINT16_VOCAB = 65500
"""Vocabularies below this size are stored in two bytes a token, as Megatron does, others in four."""
BATCH_CHARS = 1 << 20
"""Characters tokenised at a time; a longer document is a batch of its own."""
WITHOUT_TOKENS = "without_tokens"
"""Why a document is dropped of whose characters hardly any has a token."""
PREFIXES = {"train": "{:05d}", "heldout": "heldout.{:05d}"}
"""File name of a task's shard, by split."""
DOCUMENTS = pa.schema(
    {
        "split": pa.string(),
        "shard": pa.int32(),
        "sequence": pa.int32(),
        "id": pa.string(),
        "num_tokens": pa.int32(),
        "num_chars": pa.int64(),
        "num_bytes": pa.int64(),
        "hash": pa.string(),
        "topic": pa.string(),
        "language": pa.string(),
        "metadata": pa.string(),
    }
)
"""Columns of `docs.parquet`; `num_tokens` counts the separator, `metadata` is JSON, `hash` is `text_hash` in hex;
`topic` and `language` are null where nobody told them."""


class ShardWriter(PipelineStep):
    """Writes every document as its tokens and one separator to the shard of its split."""

    type = "🔢 - TOKENIZER"
    name = "Megatron shards"

    def __init__(
        self,
        directory: Path,
        tokenizer: Path,
        topics: Path | None,
        subset: Path | None,
        heldout_fraction: float,
        reserved_fraction: float,
    ):
        super().__init__()
        self.directory, self.tokenizer, self.topics, self.subset = directory, tokenizer, topics, subset
        self.heldout_fraction, self.reserved_fraction = heldout_fraction, reserved_fraction

    def split_of(self, digest: int) -> str | None:
        """A document's split; None if another source would hold the same text out, so that none may train on it."""
        if is_heldout(digest, self.heldout_fraction):
            return "heldout"
        return None if is_heldout(digest, self.reserved_fraction) else "train"

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> None:
        """Writes `<rank>.{bin,idx}`, `heldout.<rank>.{bin,idx}` and `docs.<rank>.parquet`."""
        tokenizer, sample = load_tokenizer(self.tokenizer), Sample()
        uncovered = gaps(tokenizer.tokenizer) if tokenizer.loses_characters else None
        size = 2 if tokenizer.vocab_size < UINT16_VOCAB else 4
        shards = {
            split: MegatronTokenizedFile(str(self.directory), prefix.format(rank), token_size=size)
            for split, prefix in PREFIXES.items()
        }
        topics = iter(_column(self.topics, rank, "topic"))
        taken = iter(_column(self.subset, rank, "keep"))
        with pq.ParquetWriter(self.directory / f"docs.{rank:05d}.parquet", DOCUMENTS) as table:
            for batch in batches(data):
                rows = []
                batch_texts = [document.text for document in batch]
                missing = uncovered.missing(batch_texts) if uncovered else [0] * len(batch)
                for document, tokens, lost in zip(
                    batch, encode(tokenizer, batch_texts), missing, strict=True
                ):
                    digest = text_hash(document.text)
                    topic, take = next(topics, None), next(taken, True)
                    split = self.split_of(digest)
                    reason = None
                    if split is None:
                        reason = "heldout_elsewhere"
                    elif not (take or split == "heldout"):
                        reason = "not_in_subset"
                    elif uncovered:
                        reason = self.judge(document, lost, sample)
                    if split is None or reason is not None:
                        self.stat_update(reason)
                        self.stat_update(f"{reason}:words", value=count_words(document.text))
                        self.stat_update(f"{reason}:tokens", value=len(tokens))
                        continue
                    sample.add(document, digest, tokens)
                    self.stat_update("separators", value=tokens.count(tokenizer.eos_id) - 1)
                    num_bytes = len(document.text.encode())
                    language = document.metadata.get("language")
                    rows.append(
                        {
                            "split": split,
                            "shard": rank,
                            "sequence": len(shards[split].sequence_lengths),
                            "id": document.id,
                            "num_tokens": len(tokens),
                            "num_chars": len(document.text),
                            "num_bytes": num_bytes,
                            "hash": f"{digest:016x}",
                            "topic": topic,
                            "language": language if isinstance(language, str) else None,
                            "metadata": json.dumps(document.metadata, ensure_ascii=False, sort_keys=True),
                        }
                    )
                    shards[split].write(tokens)
                    for key, value in (("documents", 1), ("tokens", len(tokens)), ("bytes", num_bytes)):
                        self.stat_update(f"{split}_{key}", value=value)
                    for kind, label in (("topics", topic), ("languages", language)):
                        if isinstance(label, str):
                            self.stat_update(f"{kind}:{split}_documents:{label}")
                            self.stat_update(f"{kind}:{split}_tokens:{label}", value=len(tokens))
                table.write_table(pa.Table.from_pylist(rows, DOCUMENTS))
        for shard in shards.values():
            shard.close()
        sample.write(self.directory.parent / SAMPLES / f"{rank:05d}.json")

    def judge(self, document: Document, lost: int, sample: Sample) -> str | None:
        """Counts the characters of a document that have no token; why it is dropped, if it is."""
        visible = count_visible(document.text)
        self.stat_update("visible", value=visible)
        if not lost:
            return None
        self.stat_update("lost")
        self.stat_update("lost:characters", value=lost)
        sample.lost(document, lost / visible)
        return WITHOUT_TOKENS if lost >= NOTHING_LEFT * visible else None


def write_shards(
    out: Path,
    final: Path,
    name: str,
    clean: Path,
    tokenizer: Path,
    topics: Path | None,
    subset: Path | None,
    heldout_fraction: float,
    reserved_fraction: float,
    tasks: int,
    execute: Execute,
    exported: Callable[[], Any],
    manifest: dict,
) -> None:
    """Tokenises one source.

    Args:
        out: The run's directory.
        final: Where the artefact goes.
        name: The source's name in the recipe.
        clean: Its cleaned documents.
        tokenizer: The tokenizer's directory.
        topics: The topic of each document, if told.
        subset: Whether each document is taken, if not all are.
        heldout_fraction: Share of documents held out.
        reserved_fraction: Largest such share of any source; what another source would hold out is dropped here.
        tasks: Number of parts, the same as in `clean`.
        execute: Runs the tasks.
        exported: Loads the tokenizer as AutoTokenizer does from an export.
        manifest: What the artefact depends on; `counts` and `files` are added. `counts.tokens` is what was tokenised:
            the documents that the cleaning left, separators included. `counts.separators_inside` are those that stand
            in texts, as far as the tokenizer takes their spelling for them. Of a tokenizer that loses characters,
            `counts.without_tokens` has the `characters` that have no token, `of` how many, in how many `documents`, and
            as `example` the document that lost the largest share.

    Raises:
        PerdureError: If a split has no document, or AutoTokenizer gives other tokens for a document.
    """
    with building(out, final) as work:
        artefact = work / "artefact"
        steps = [
            CleanedDocuments(str(clean)),
            ShardWriter(artefact, tokenizer, topics, subset, heldout_fraction, reserved_fraction),
        ]
        *_, counts = execute(steps, tasks, work / "tokenise")
        facts = read_json(tokenizer / "manifest.json")
        compared, worst = read_samples(work / SAMPLES)
        compare(compared, exported(), facts["parse_special_tokens"], f"sources.{name}")
        steps = list(manifest["counts"]["steps"])
        steps.append(_record("split", steps[-1]["out"], "heldout_elsewhere", counts))
        if subset is not None:
            steps.append(_record("subset", steps[-1]["out"], "not_in_subset", counts))
        loses = (facts.get("loaded") or {}).get("loses_characters")
        if loses:
            steps.append(_record("tokens", steps[-1]["out"], WITHOUT_TOKENS, counts))
        documents, words = total(steps, "documents"), total(steps, "words")
        assert documents["out"] == counts["train_documents"] + counts["heldout_documents"]
        for split, remedy in (("heldout", "raise"), ("train", "lower")):
            if not counts[f"{split}_documents"]:
                remedy = f"{remedy} sources.{name}.heldout_fraction = {heldout_fraction}, or give it more documents"
                if (gone := counts[WITHOUT_TOKENS]) and worst:
                    remedy = (
                        f"the tokenizer has no tokens for the characters of {gone:,} others, such as {worst['id']} "
                        f"({worst['text']!r}); choose one with bytes in its vocabulary"
                    )
                raise PerdureError(
                    f"sources.{name}: none of its {documents['out']} documents falls into the {split} split; {remedy}"
                )
        splits = {
            "train": {key: counts[f"train_{key}"] for key in ("documents", "tokens")},
            "heldout": {key: counts[f"heldout_{key}"] for key in ("documents", "tokens", "bytes")},
        }
        merge_tables(
            [artefact / f"docs.{task:05d}.parquet" for task in range(tasks)], artefact / "docs.parquet"
        )
        files = hash_files(artefact, shard_files(artefact))
        labels = {kind: _by_label(counts, kind) for kind in ("topics", "languages")}
        kept = sum(split["tokens"] for split in splits.values())
        dropped = {
            reason: count
            for reason in ("heldout_elsewhere", "not_in_subset", WITHOUT_TOKENS)
            if (count := counts[f"{reason}:tokens"])
        }
        tokens = {"in": kept + sum(dropped.values()), "dropped": dropped, "out": kept}
        counted = {"documents": documents, "words": words, "tokens": tokens, "steps": steps} | splits | labels
        counted["separators_inside"] = counts["separators"]
        if loses:
            lost = {"characters": counts["lost:characters"], "of": counts["visible"]}
            counted[WITHOUT_TOKENS] = lost | {"documents": counts["lost"], "example": worst}
        finish(artefact, manifest | {"counts": counted, "files": files})


def shard_files(directory: Path) -> list[str]:
    """Names of the shards, indices and tables in an artefact: what identifies its content."""
    return [path.name for path in directory.iterdir() if path.suffix in (".bin", ".idx", ".parquet")]


def _record(name: str, given: dict, reason: str, counts: Counter) -> dict:
    """The record of a step that drops documents for one reason."""
    documents, words = counts[reason], counts[f"{reason}:words"]
    counter = Counter({"in": given["documents"], "words_in": given["words"]})
    counter["out"], counter["words_out"] = given["documents"] - documents, given["words"] - words
    if documents:
        counter[f"dropped:{reason}"], counter[f"words_dropped:{reason}"] = documents, words
    return step_counts(name, counter)


def _by_label(counts: Counter, kind: str) -> dict:
    """Documents and tokens of each split by topic or language."""
    labels = sorted({key.split(":", 2)[2] for key in counts if key.startswith(f"{kind}:")})
    return {
        label: {
            split: {unit: counts[f"{kind}:{split}_{unit}:{label}"] for unit in ("documents", "tokens")}
            for split in PREFIXES
        }
        for label in labels
    }


def _column(directory: Path | None, rank: int, column: str) -> list:
    """A column that stands beside the documents of a task; empty if there is none."""
    return [] if directory is None else pq.read_table(directory / f"{rank:05d}.parquet")[column].to_pylist()


def batches(documents: DocumentsPipeline) -> Iterator[list[Document]]:
    """Groups documents into batches of about `BATCH_CHARS` characters."""
    batch: list[Document] = []
    chars = 0
    for document in documents:
        if batch and chars + len(document.text) > BATCH_CHARS:
            yield batch
            batch, chars = [], 0
        batch.append(document)
        chars += len(document.text)
    if batch:
        yield batch


def encode(tokenizer: LoadedTokenizer, texts: list[str]) -> Iterator[list[int]]:
    """Token ids of each text, and the separator."""
    for encoding in tokenizer.tokenizer.encode_batch_fast(texts, add_special_tokens=False):
        yield [*encoding.ids, tokenizer.eos_id]
