"""Tokenising one source: its artefact of shards, with what was dropped on the way and the tokens of every split."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from datatrove.pipeline.base import PipelineStep

from perdure.pipeline.core.errors import PerdureError
from perdure.pipeline.core.files import read_json
from perdure.pipeline.core.manifest import finish
from perdure.pipeline.core.remembered_hashes import hash_files
from perdure.pipeline.data.backends.local import building
from perdure.pipeline.data.cleaning.counted import step_counts, total
from perdure.pipeline.data.context import ShardInputs, StageContext
from perdure.pipeline.data.fim import Infill
from perdure.pipeline.data.metadata import DocumentForm, dates_summary
from perdure.pipeline.data.read.readers import CleanedDocuments
from perdure.pipeline.data.read.rows import merge_tables
from perdure.pipeline.data.repositories import MergeRepositories, Repositories, SpoolFiles
from perdure.pipeline.data.shard import (
    PREFIXES,
    SPECIAL_TOKENS,
    WITHOUT_TOKENS,
    ShardWriter,
    shard_files,
)
from perdure.pipeline.data.tokenizer.compared import SAMPLES, compare, read_samples
from perdure.pipeline.recipe import Source


def tokenise_source(
    context: StageContext,
    final: Path,
    name: str,
    inputs: ShardInputs,
    subset: Path | None,
    source: Source,
    exported: Callable[[], Any],
    manifest: dict[str, Any],
) -> None:
    """Tokenises one source.

    Args:
        context: What the stage's steps share. What another source would hold out (`reserved_fraction`) is dropped here.
        final: Where the artefact goes.
        name: The source's name in the recipe.
        inputs: The artefacts that the shards are made from.
        subset: Whether each document is kept, as `choose_subset` wrote it; None if all are.
        source: The source, which says what share of documents is held out, and what their metadata is for.
        exported: Loads the tokenizer as AutoTokenizer does from an export.
        manifest: What the artefact depends on, such as `label_mask` of conversations and `fim`, the fields of `Infill`;
            `counts` and `files` are added. `counts.tokens` is what was tokenised:
            the documents that the cleaning left, separators included. `counts.separators_inside` are those that stand
            in texts, as far as the tokenizer takes their spelling for them. Of a tokenizer that loses characters,
            `counts.without_tokens` has the `characters` that have no token, `of` how many, in how many `documents`, and
            as `example` the document that lost the largest share. `counts.fim` has the `documents` that were transformed, how
            many in which order (`psm`, `spm`), and the `tokens` that this added, the sentinels; `counts.prefix` the
            `documents` that have one, those `without`, and the `tokens` of prefixes.

    Raises:
        PerdureError: If a split has no document, or AutoTokenizer gives other tokens for a document.
    """
    infill = Infill(**manifest["fim"]) if "fim" in manifest else None
    repositories = Repositories(**manifest["repository"]) if "repository" in manifest else None
    heldout_fraction, form = (
        source.heldout_fraction,
        DocumentForm(source.has_conversations, source.date_field, infill, source.prefix, repositories),
    )
    with building(context.out, final) as work:
        artefact = work / "artefact"
        fractions, chats = (heldout_fraction, context.reserved_fraction), form.chats
        writer = ShardWriter(artefact, inputs.tokenizer, inputs.topics, subset, *fractions, form)
        first: PipelineStep = CleanedDocuments(str(inputs.clean))
        if repositories:
            spool = work / "spool"
            context.execute([first, SpoolFiles(spool, repositories.fields)], work / "repositories")
            first = MergeRepositories(spool, repositories, writer.split_of)
        *before, counts = context.execute([first, writer], work / "tokenise")
        facts = read_json(inputs.tokenizer / "manifest.json")
        compared, worst = read_samples(work / SAMPLES)
        compare(compared, exported(), facts["parse_special_tokens"] or chats, f"sources.{name}")
        loses = bool((facts.get("loaded") or {}).get("loses_characters"))
        cleaning = list(manifest["counts"]["steps"])
        if repositories:
            cleaning.append(step_counts("repository", before[-1]))
        steps = _all_steps(cleaning, counts, subset=subset is not None, chats=chats, loses=loses)
        for split in ("heldout", "train"):
            if not counts[f"{split}_documents"]:
                raise _no_document(name, split, heldout_fraction, steps, counts, worst)
        parts = [artefact / f"docs.{task:05d}.parquet" for task in range(context.tasks)]
        merge_tables(parts, artefact / "docs.parquet")
        files = hash_files(artefact, shard_files(artefact))
        counted = _counts(steps, counts)
        if form.date_field:
            counted["dates"] = dates_summary(artefact / "docs.parquet")
        if form.prefix is not None:
            counted["prefix"] = {key: counts[f"prefix_{key}"] for key in ("documents", "without", "tokens")}
        if infill:
            counted["fim"] = {key: counts[f"fim_{key}"] for key in ("documents", "psm", "spm", "tokens")}
        if repositories and repositories.order == "dependencies":
            counted["unparsable"] = before[-1]["unparsable"]
        if loses:
            lost = {"characters": counts["lost:characters"], "of": counts["visible"]}
            counted[WITHOUT_TOKENS] = lost | {"documents": counts["lost"], "example": worst}
        finish(artefact, manifest | {"counts": counted, "files": files})


def _all_steps(
    cleaning: list[dict], counts: Counter, *, subset: bool, chats: bool, loses: bool
) -> list[dict]:
    """Records of the cleaning's steps, and of those that drop documents while shards are written."""
    steps = list(cleaning)
    steps.append(_record("split", steps[-1]["out"], "heldout_elsewhere", counts))
    if subset:
        steps.append(_record("subset", steps[-1]["out"], "not_in_subset", counts))
    if chats or counts[SPECIAL_TOKENS]:
        steps.append(_record("chats" if chats else "fim", steps[-1]["out"], SPECIAL_TOKENS, counts))
    if loses:
        steps.append(_record("tokens", steps[-1]["out"], WITHOUT_TOKENS, counts))
    return steps


def _record(name: str, given: dict, reason: str, counts: Counter) -> dict:
    """The record of a step that drops documents for one reason."""
    documents, words = counts[reason], counts[f"{reason}:words"]
    counter = Counter({"in": given["documents"], "words_in": given["words"]})
    counter["out"], counter["words_out"] = given["documents"] - documents, given["words"] - words
    if documents:
        counter[f"dropped:{reason}"], counter[f"words_dropped:{reason}"] = documents, words
    return step_counts(name, counter)


def _no_document(
    name: str, split: str, heldout_fraction: float, steps: list[dict], counts: Counter, worst: dict | None
) -> PerdureError:
    """The error of a split without documents, with what to do about it."""
    change = {"heldout": "raise", "train": "lower"}[split]
    remedy = f"{change} sources.{name}.heldout_fraction = {heldout_fraction}, or give it more documents"
    if (gone := counts[WITHOUT_TOKENS]) and worst:
        remedy = (
            f"the tokenizer has no tokens for the characters of {gone:,} others, such as {worst['id']} "
            f"({worst['text']!r}); choose one with bytes in its vocabulary"
        )
    documents = total(steps, "documents")["out"]
    if not documents and (found := total(steps, "documents"))["in"]:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in found["dropped"].items())
        return PerdureError(
            f"sources.{name}: nothing is left of its {found['in']:,} documents (dropped: {reasons})"
        )
    return PerdureError(
        f"sources.{name}: none of its {documents} documents falls into the {split} split; {remedy}"
    )


def _counts(steps: list[dict], counts: Counter) -> dict[str, Any]:
    """The manifest's `counts`: documents, words and tokens in, dropped and out; by step, split, topic and language."""
    documents, words = total(steps, "documents"), total(steps, "words")
    assert documents["out"] == counts["train_documents"] + counts["heldout_documents"]
    splits = {
        "train": {key: counts[f"train_{key}"] for key in ("documents", "tokens")},
        "heldout": {key: counts[f"heldout_{key}"] for key in ("documents", "tokens", "bytes")},
    }
    kept = sum(split["tokens"] for split in splits.values())
    dropped = {
        reason: count
        for reason in ("heldout_elsewhere", "not_in_subset", SPECIAL_TOKENS, WITHOUT_TOKENS)
        if (count := counts[f"{reason}:tokens"])
    }
    tokens = {"in": kept + sum(dropped.values()), "dropped": dropped, "out": kept}
    labels = {kind: _by_label(counts, kind) for kind in ("topics", "languages")}
    for split, kept_there in splits.items():
        if f"{split}_labels" in counts:
            kept_there["labels"] = counts[f"{split}_labels"]
    counted: dict[str, Any] = {"documents": documents, "words": words, "tokens": tokens, "steps": steps}
    return counted | splits | labels | {"separators_inside": counts["separators"]}


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
