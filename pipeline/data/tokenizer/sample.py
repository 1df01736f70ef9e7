"""Samples of large sources for training a tokenizer; the same documents for any number of tasks."""

from pathlib import Path

from datatrove.data import DocumentsPipeline
from datatrove.pipeline.base import PipelineStep
from datatrove.pipeline.writers.jsonl import JsonlWriter

from perdure.pipeline.data.cleaning.normalise import count_words, is_heldout, text_hash
from perdure.pipeline.data.context import StageContext
from perdure.pipeline.data.read.readers import CleanedDocuments


class Draw(PipelineStep):
    """Passes on a share of the training documents: those with the lowest hashes."""

    type = "🎲 - SAMPLE"
    name = "Training documents"

    def __init__(self, reserved_fraction: float, share: float):
        super().__init__()
        self.reserved_fraction = reserved_fraction
        self.bound = reserved_fraction + (1 - reserved_fraction) * share

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        """Yields the documents of the sample."""
        for document in data:
            digest = text_hash(document.text)
            if is_heldout(digest, self.bound) and not is_heldout(digest, self.reserved_fraction):
                self.stat_update("documents")
                self.stat_update("words", value=count_words(document.text))
                yield document


def draw(
    context: StageContext, sources: list[Path], share: float, work: Path
) -> tuple[list[Path], dict[str, int]]:
    """Writes samples of sources.

    Args:
        context: What the stage's steps share; `reserved_fraction`: documents below it do not train.
        sources: Directories of cleaned documents.
        share: Of the training documents, those to take.
        work: Receives the samples and the bookkeeping.

    Returns:
        Directories of the samples, and the `documents` and `words` in all of them.
    """
    found, sizes = [], {"documents": 0, "words": 0}
    for source in sources:
        sample = work / f"{source.name}.sample"
        writer = JsonlWriter(str(sample), "${rank}.jsonl.zst", compression="zstd")
        steps = [CleanedDocuments(str(source)), Draw(context.reserved_fraction, share), writer]
        _, drawn, *_ = context.execute(steps, work / f"{source.name}.draw")
        found.append(sample)
        sizes = {key: count + drawn[key] for key, count in sizes.items()}
    return found, sizes
