"""The datatrove step that writes Megatron shards: a train and a held-out one a task, and a table of documents."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datatrove.data import Document, DocumentsPipeline
from datatrove.pipeline.base import PipelineStep
from datatrove.pipeline.tokens.megatron_tokenizer import MegatronTokenizedFile

from perdure.pipeline.core.shards import LABEL, LAST_LABEL, PREFIX
from perdure.pipeline.core.tokenizers import load_tokenizer
from perdure.pipeline.data.chat import ChatTemplate, load_template, strings_of
from perdure.pipeline.data.cleaning.normalise import count_words, is_heldout, text_hash
from perdure.pipeline.data.encode import Encoded, encode_chats, encode_texts, with_prefixes
from perdure.pipeline.data.fim import Rendering, rendering
from perdure.pipeline.data.metadata import DocumentForm, date_of
from perdure.pipeline.data.read.conversations import CONVERSATION
from perdure.pipeline.data.repositories import SPLIT, described, render_repository
from perdure.pipeline.data.tokenizer.compared import SAMPLES, Sample
from perdure.pipeline.data.tokenizer.coverage import NOTHING_LEFT, count_visible, gaps

UINT16_VOCAB = 65500
"""Vocabularies below this size are stored in two bytes a token, as Megatron does, others in four."""
BATCH_CHARS = 1 << 20
"""Characters tokenised at a time; a longer document is a batch of its own."""
SPECIAL_TOKENS = "special_tokens"
"""Why a document is dropped in which special tokens are spelled that would begin or end turns, or parts of a document."""
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
DATE = pa.field("date", pa.string())
"""A further column where the source has a `date_field`: null for undated documents."""
PREFIX_TOKENS = pa.field("prefix_tokens", pa.int32())
"""A further column where the source has a `prefix`: how many of the first of `num_tokens` are the document's."""


class ShardWriter(PipelineStep):
    """Writes each document's tokens and a separator to the shard of its split; of conversations, a label mask beside it."""

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
        form: DocumentForm,
    ):
        super().__init__()
        self.form = form
        self.directory, self.tokenizer, self.topics, self.subset = directory, tokenizer, topics, subset
        self.heldout_fraction, self.reserved_fraction = heldout_fraction, reserved_fraction

    def split_of(self, digest: int) -> str | None:
        """A document's split; None if another source may hold out the same text."""
        if is_heldout(digest, self.heldout_fraction):
            return "heldout"
        return None if is_heldout(digest, self.reserved_fraction) else "train"

    def split(self, document: Document, digest: int) -> str | None:
        """A document's split; that of a repository is decided by its files (`data/repositories.py`)."""
        return document.metadata.get(SPLIT) or self.split_of(digest)

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> None:
        """Writes `<rank>.{bin,idx}`, `heldout.<rank>.{bin,idx}`, masks of conversations, and `docs.<rank>.parquet`."""
        tokenizer, sample = load_tokenizer(self.tokenizer), Sample()
        template = load_template(self.tokenizer) if self.form.chats else None
        sentinels = self.sentinels(tokenizer.tokenizer)
        uncovered = gaps(tokenizer.tokenizer) if tokenizer.loses_characters else None
        size = 2 if tokenizer.vocab_size < UINT16_VOCAB else 4
        shards = {
            split: MegatronTokenizedFile(str(self.directory), prefix.format(rank), token_size=size)
            for split, prefix in PREFIXES.items()
        }
        masks = {
            split: MaskFile(self.directory, f"{prefix.format(rank)}.mask")
            for split, prefix in (PREFIXES if self.form.has_mask else {}).items()
        }
        topics = iter(_column(self.topics, rank, "topic"))
        taken = iter(_column(self.subset, rank, "keep"))
        schema = schema_of(self.form)
        with pq.ParquetWriter(self.directory / f"docs.{rank:05d}.parquet", schema) as table:
            for batch in batches(data):
                rows = []
                batch_texts = [document.text for document in batch]
                missing = uncovered.missing(batch_texts) if uncovered else [0] * len(batch)
                digests = [text_hash(text) for text in batch_texts]
                splits = list(map(self.split, batch, digests))
                if template:
                    encoding, forms = encode_chats(tokenizer, batch, template), [Rendering([])] * len(batch)
                else:
                    forms = [self.rendered(*pair) for pair in zip(batch, splits, strict=True)]
                    encoding = encode_texts(tokenizer, batch, forms, sentinels)
                if self.form.prefix is not None:
                    prefixes = list(map(self.form.prefix_of, batch))
                    encoding = with_prefixes(tokenizer, encoding, prefixes, sentinels)
                for document, encoded, lost, digest, split, form in zip(
                    batch, encoding, missing, digests, splits, forms, strict=True
                ):
                    tokens = encoded.tokens
                    topic, take = next(topics, None), next(taken, True)
                    reason = None
                    if split is None:
                        reason = "heldout_elsewhere"
                    elif not (take or split == "heldout"):
                        reason = "not_in_subset"
                    elif encoded.has_sentinels or (template and spells_special(template, document)):
                        reason = SPECIAL_TOKENS
                    elif uncovered:
                        reason = self.judge(document, lost, sample)
                    if split is None or reason is not None:
                        self.stat_update(reason)
                        self.stat_update(f"{reason}:words", value=count_words(document.text))
                        self.stat_update(f"{reason}:tokens", value=len(tokens))
                        continue
                    if encoded.plain is not None:
                        text, ids = encoded.plain
                        sample.add(Document(text, document.id), digest, ids)
                    self.count(form)
                    self.stat_update("separators", value=tokens.count(tokenizer.eos_id) - encoded.halves)
                    num_bytes = encoded.num_bytes
                    language = document.metadata.get("language")
                    place = {"split": split, "shard": rank, "sequence": len(shards[split].sequence_lengths)}
                    labels = {"topic": topic, "language": language if isinstance(language, str) else None}
                    row = (
                        place | _described(document, encoded, self.form) | {"hash": f"{digest:016x}"} | labels
                    )
                    rows.append(row)
                    shards[split].write(tokens)
                    if encoded.mask is not None:
                        masks[split].write(encoded.mask)
                        self.count_mask(encoded.mask, split)
                    for key, value in (("documents", 1), ("tokens", len(tokens)), ("bytes", num_bytes)):
                        self.stat_update(f"{split}_{key}", value=value)
                    for kind, label in (("topics", topic), ("languages", language)):
                        if isinstance(label, str):
                            self.stat_update(f"{kind}:{split}_documents:{label}")
                            self.stat_update(f"{kind}:{split}_tokens:{label}", value=len(tokens))
                table.write_table(pa.Table.from_pylist(rows, schema))
        for shard in (*shards.values(), *masks.values()):
            shard.close()
        sample.write(self.directory.parent / SAMPLES / f"{rank:05d}.json")

    def rendered(self, document: Document, split: str | None) -> Rendering:
        """A document as it is tokenised; one that is not trained on stays as it is."""
        infill = self.form.infill if split == "train" else None
        if self.form.repositories is not None:
            return render_repository(self.form.repositories, infill, document)
        return rendering(infill, document.id, document.text) if infill else Rendering([document.text])

    def sentinels(self, tokenizer: Any) -> dict[str, int]:
        """Tokens that no text may become, by spelling."""
        ids = [
            number for part in (self.form.infill, self.form.repositories) if part for number in part.sentinels
        ]
        return {tokenizer.id_to_token(number): number for number in ids}

    def count(self, form: Rendering) -> None:
        """Counts a document that was transformed, its texts by order, and the tokens that are no text."""
        if self.form.infill and (form.psm or form.spm):
            tokens = len(self.form.infill.sentinels) * (form.psm + form.spm)
            for key, value in (("documents", 1), ("psm", form.psm), ("spm", form.spm), ("tokens", tokens)):
                self.stat_update(f"fim_{key}", value=value)

    def count_mask(self, mask: list[int], split: str) -> None:
        """Counts the labels of a document, and whether it has a prefix."""
        before = mask.count(PREFIX)
        self.stat_update(f"{split}_labels", value=mask.count(LABEL) + mask.count(LAST_LABEL))
        if self.form.prefix is not None:
            self.stat_update("prefix_documents" if before else "prefix_without")
            self.stat_update("prefix_tokens", value=before)

    def judge(self, document: Document, lost: int, sample: Sample) -> str | None:
        """Counts the characters of a document without tokens; returns why it is dropped, if it is."""
        visible = count_visible(document.text)
        self.stat_update("visible", value=visible)
        if not lost:
            return None
        self.stat_update("lost")
        self.stat_update("lost:characters", value=lost)
        sample.lost(document, lost / visible)
        return WITHOUT_TOKENS if lost >= NOTHING_LEFT * visible else None


def spells_special(template: ChatTemplate, document: Document) -> bool:
    """Whether a special token is spelled in what the template may write of a conversation."""
    texts = (document.text, *strings_of(template, document.metadata[CONVERSATION]))
    return any(spelling in text for text in texts for spelling in template.spellings)


class MaskFile(MegatronTokenizedFile):
    """A label mask beside a shard: a byte a token, in the same layout (`core.shards.LABEL`)."""

    def __init__(self, directory: Path, name: str):
        super().__init__(str(directory), name, token_size=1)
        self.token_dtype, self.token_dtype_code = np.uint8, 1


def schema_of(form: DocumentForm) -> pa.Schema:
    """Columns of `docs.parquet`."""
    schema = DOCUMENTS.append(DATE) if form.date_field else DOCUMENTS
    return schema if form.prefix is None else schema.append(PREFIX_TOKENS)


def shard_files(directory: Path) -> list[str]:
    """Names of the shards, indices and tables in an artefact."""
    return [path.name for path in directory.iterdir() if path.suffix in (".bin", ".idx", ".parquet")]


def _column(directory: Path | None, rank: int, column: str) -> list:
    """A column of labels of a task's documents; empty if there are no labels."""
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


def _described(document: Document, encoded: Encoded, form: DocumentForm) -> dict:
    """A document's id, sizes, metadata, date and prefix, as in `schema_of`."""
    further: dict[str, Any] = {"date": date_of(document, form.date_field)} if form.date_field else {}
    if form.prefix is not None and encoded.mask is not None:
        further["prefix_tokens"] = encoded.mask.count(PREFIX)
    metadata = described(document.metadata)
    metadata.pop(CONVERSATION, None)
    return {
        "id": document.id,
        "num_tokens": len(encoded.tokens),
        "num_chars": len(encoded.text),
        "num_bytes": encoded.num_bytes,
        "metadata": json.dumps(metadata, ensure_ascii=False, sort_keys=True),
    } | further
