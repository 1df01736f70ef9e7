"""The datatrove step that writes Megatron shards: a train and a held-out one a task, and a table of documents."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datatrove.data import Document, DocumentsPipeline
from datatrove.pipeline.base import PipelineStep
from datatrove.pipeline.tokens.megatron_tokenizer import MegatronTokenizedFile

from perdure.pipeline.core.errors import PerdureError
from perdure.pipeline.core.shards import NO_LABEL
from perdure.pipeline.core.tokenizers import LoadedTokenizer, load_tokenizer
from perdure.pipeline.data.chat import (
    ChatTemplate,
    encode_chat,
    load_template,
    render,
    strings_of,
    text_of_labels,
)
from perdure.pipeline.data.cleaning.normalise import count_words, is_heldout, text_hash
from perdure.pipeline.data.metadata import DocumentForm, date_of
from perdure.pipeline.data.read.conversations import CONVERSATION
from perdure.pipeline.data.tokenizer.compared import SAMPLES, Sample
from perdure.pipeline.data.tokenizer.coverage import NOTHING_LEFT, count_visible, gaps

UINT16_VOCAB = 65500
"""Vocabularies below this size are stored in two bytes a token, as Megatron does, others in four."""
BATCH_CHARS = 1 << 20
"""Characters tokenised at a time; a longer document is a batch of its own."""
SPECIAL_TOKENS = "special_tokens"
"""Why a conversation is dropped in whose messages special tokens are spelled, which would begin or end turns."""
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

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> None:
        """Writes `<rank>.{bin,idx}`, `heldout.<rank>.{bin,idx}`, masks of conversations, and `docs.<rank>.parquet`."""
        tokenizer, sample = load_tokenizer(self.tokenizer), Sample()
        template = load_template(self.tokenizer) if self.form.chats else None
        uncovered = gaps(tokenizer.tokenizer) if tokenizer.loses_characters else None
        size = 2 if tokenizer.vocab_size < UINT16_VOCAB else 4
        shards = {
            split: MegatronTokenizedFile(str(self.directory), prefix.format(rank), token_size=size)
            for split, prefix in PREFIXES.items()
        }
        masks = {
            split: MaskFile(self.directory, f"{prefix.format(rank)}.mask")
            for split, prefix in (PREFIXES if template else {}).items()
        }
        topics = iter(_column(self.topics, rank, "topic"))
        taken = iter(_column(self.subset, rank, "keep"))
        schema = DOCUMENTS.append(DATE) if self.form.date_field else DOCUMENTS
        with pq.ParquetWriter(self.directory / f"docs.{rank:05d}.parquet", schema) as table:
            for batch in batches(data):
                rows = []
                batch_texts = [document.text for document in batch]
                missing = uncovered.missing(batch_texts) if uncovered else [0] * len(batch)
                for document, encoded, lost in zip(
                    batch, encode(tokenizer, batch, template), missing, strict=True
                ):
                    tokens = encoded.tokens
                    digest = text_hash(document.text)
                    topic, take = next(topics, None), next(taken, True)
                    split = self.split_of(digest)
                    reason = None
                    if split is None:
                        reason = "heldout_elsewhere"
                    elif not (take or split == "heldout"):
                        reason = "not_in_subset"
                    elif template and spells_special(template, document):
                        reason = SPECIAL_TOKENS
                    elif uncovered:
                        reason = self.judge(document, lost, sample)
                    if split is None or reason is not None:
                        self.stat_update(reason)
                        self.stat_update(f"{reason}:words", value=count_words(document.text))
                        self.stat_update(f"{reason}:tokens", value=len(tokens))
                        continue
                    sample.add(Document(encoded.text, document.id), digest, encoded.with_separator)
                    self.stat_update("separators", value=tokens.count(tokenizer.eos_id) - 1)
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
                        self.stat_update(f"{split}_labels", value=len(tokens) - encoded.mask.count(NO_LABEL))
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


class Encoded(NamedTuple):
    """A document as it is written.

    Attributes:
        text: What was tokenised.
        tokens: Their ids, the separator last.
        mask: Which of them are labels, a number each; None: all are.
        num_bytes: UTF-8 bytes of the text that counts.
        with_separator: The text's own ids and a separator behind them.
    """

    text: str
    tokens: list[int]
    mask: list[int] | None
    num_bytes: int
    with_separator: list[int]


def _described(document: Document, encoded: Encoded, form: DocumentForm) -> dict:
    """A document's id, sizes, metadata and date, as in `DOCUMENTS`."""
    date = {"date": date_of(document, form.date_field)} if form.date_field else {}
    metadata = {key: value for key, value in document.metadata.items() if key != CONVERSATION}
    return {
        "id": document.id,
        "num_tokens": len(encoded.tokens),
        "num_chars": len(encoded.text),
        "num_bytes": encoded.num_bytes,
        "metadata": json.dumps(metadata, ensure_ascii=False, sort_keys=True),
    } | date


def encode(
    tokenizer: LoadedTokenizer, documents: list[Document], template: ChatTemplate | None = None
) -> Iterator[Encoded]:
    """Token ids of each document, and the separator; of a conversation, as the template renders it."""
    eos = tokenizer.eos_id
    if template is None:
        texts = [document.text for document in documents]
        for text, encoding in zip(
            texts, tokenizer.tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        ):
            tokens = [*encoding.ids, eos]
            yield Encoded(text, tokens, None, len(text.encode()), tokens)
        return
    tokenizer.tokenizer.encode_special_tokens = False  # the template's own are tokens
    for document in documents:
        try:
            rendered = render(template, document.metadata[CONVERSATION])
        except PerdureError as error:
            raise PerdureError(f"document {document.id}: {error}") from None
        tokens, mask = encode_chat(rendered, tokenizer.tokenizer, eos, template.spellings)
        if not any(mask):
            raise PerdureError(f"{template.name}: no token of document {document.id} would be trained on")
        own = tokens[: len(tokens) - (not rendered.text.endswith(template.special["eos_token"]))]
        num_bytes = len(text_of_labels(rendered, template.spellings).encode())
        yield Encoded(rendered.text, tokens, mask, num_bytes, [*own, eos])
