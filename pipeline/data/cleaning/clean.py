"""Cleaning one source: read, normalise, then the recipe's steps in their order; documents come out as JSON lines.

Steps that look at one document at a time are chained in one pipeline. A step that must see all documents first
(deduplication) ends a pipeline: what has passed so far is written and signed, matched, and read again.
"""

import logging
import shutil
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from datatrove.data import DocumentsPipeline
from datatrove.pipeline.base import PipelineStep
from datatrove.pipeline.writers.jsonl import JsonlWriter

from perdure.pipeline.core.errors import PerdureError
from perdure.pipeline.core.files import read_json, write_json
from perdure.pipeline.core.manifest import finish
from perdure.pipeline.core.remembered_hashes import hash_files
from perdure.pipeline.core.slurm import in_queue
from perdure.pipeline.data.backends.local import JOB, building
from perdure.pipeline.data.cleaning.counted import CountedStep, merge_examples, step_counts, total
from perdure.pipeline.data.cleaning.normalise import Normaliser
from perdure.pipeline.data.cleaning.steps import block
from perdure.pipeline.data.context import StageContext
from perdure.pipeline.data.read.contents import (
    PARTS,
    STATES,
    changed,
    hash_contents,
    merge_records,
    record_path,
    remember,
)
from perdure.pipeline.data.read.inputs import read_files
from perdure.pipeline.data.read.readers import CleanedDocuments, reader_step
from perdure.pipeline.recipe import Source

logger = logging.getLogger(__name__)

LISTED_SECONDS = 90.0
"""How long a folder may lack files that tasks on other machines left: NFS caches what it lists for up to 60 s (`acdirmax`)."""


def clean_source(context: StageContext, final: Path, name: str, source: Source, manifest: dict) -> None:
    """Writes the cleaned documents of one source, `<task>.jsonl.zst`, examples of what was dropped, and all counts.

    Args:
        context: What the stage's steps share.
        final: Where the artefact goes.
        name: The source's name in the recipe.
        source: Its reader and cleaning options.
        manifest: What the artefact depends on; `counts` and `files` are added.

    Raises:
        PerdureError: If no document is left, or a file changes while it is read.
    """
    with building(context.out, final) as work:
        files_read = read_files(source.reader)
        if files_read is not None:
            _begin(work, name, *files_read)
        steps = _clean(context, work, name, source, files_read)
        merge_records(work / PARTS, record_path(context.out, final))
        counts = {unit: total(steps, unit) for unit in ("documents", "words")}
        if not counts["documents"]["out"]:
            dropped = counts["documents"]["dropped"].items()
            reasons = ", ".join(f"{count} {reason}" for reason, count in dropped if count)
            raise PerdureError(
                f"sources.{name}: no document left of {counts['documents']['in']} "
                f"({reasons or 'the source is empty'}); look at its reader (`text_field`, `where`) and `clean`"
            )
        artefact = work / "artefact"
        written = [*artefact.glob("*.jsonl.zst"), *artefact.glob("dropped/*.jsonl")]
        files = hash_files(artefact, (path.relative_to(artefact).as_posix() for path in written))
        finish(artefact, manifest | {"counts": counts | {"steps": steps}, "files": files})


def _begin(work: Path, name: str, folder: Path, files: list[str]) -> None:
    """Begins a source or resumes it; starts again if an input file has changed since."""
    if found := changed(work, folder, files):
        jobs, unknown = [read_json(record)["job"] for record in sorted(work.glob(f"*/{JOB}"))], ""
        if jobs and shutil.which("squeue") is None:
            unknown = f" (it had Slurm job {jobs[-1]}, of which this machine, without Slurm, knows nothing)"
            jobs = []
        for job in jobs:
            if in_queue(job):
                raise PerdureError(
                    f"sources.{name}: {folder / found[0]} has changed, but Slurm job {job} of an earlier run still reads it; "
                    f"cancel it (scancel {job}) or wait for its end, and run the same command again"
                )
        logger.warning(
            f"sources.{name}: {folder / found[0]} has changed since an unfinished run read it{unknown}; the source is cleaned "
            f"anew"
        )
        shutil.rmtree(work / "artefact")  # first: without it, all the rest is of no use (`building`)
        shutil.rmtree(work)
        (work / "artefact").mkdir(parents=True)
    if not (work / STATES).exists():
        remember(work, folder, files)


def _clean(
    context: StageContext,
    work: Path,
    source_name: str,
    source: Source,
    files: tuple[Path, list[str]] | None,
) -> list[dict]:
    """Runs the pipelines; returns the counts of reading and of every step, up to a step that leaves no document."""
    records: list[dict] = []
    chain: list[PipelineStep] = [reader_step(source), Normaliser()]

    def run_chain(name: str, to: str, *signing: PipelineStep) -> None:
        """Runs the collected steps, writes their documents to a folder, and lets the next chain begin with these."""
        writer = JsonlWriter(str(work / to), "${rank}.jsonl.zst", compression="zstd")
        hashing = [] if records else [Contents(files, work / PARTS)]
        counters = context.execute([*chain, *hashing, writer, *signing], work / name)
        if not records:
            if files is not None and (found := changed(work, *files)):
                raise PerdureError(
                    f"sources.{source_name}: {files[0] / found[0]} changed while it was read; run the same command again when "
                    "nobody writes to it: the source is then read anew"
                )
            records.append(_reading(*counters[:2]))
        for step, counter in zip(chain, counters):
            if isinstance(step, CountedStep):
                records.append(step_counts(step.name, counter))
        if isinstance(chain[0], CleanedDocuments):
            shutil.rmtree(chain[0].data_folder.path, ignore_errors=True)  # nothing reads it any more
        chain[:] = [CleanedDocuments(str(work / to))]

    names = [f"{number:02d}_{step.type}" for number, step in enumerate(source.clean, 1)]
    blocks = [block(step, work / name) for step, name in zip(source.clean, names, strict=True)]
    for name, found in zip(names, blocks, strict=True):
        if found.sign is not None:
            run_chain(f"{name}.sign", f"{name}.documents", found.sign)
            if not records[-1]["out"]["documents"]:
                return records
            assert found.signed is not None
            _await_signatures(f"sources.{source_name}: {work / name}", found.signed, context.tasks)
        for stage, (match, parts) in enumerate(found.match):
            context.execute([match], work / f"{name}.match{stage}", parts)
        chain.append(CountedStep(found, name, work / "examples" / name))
    run_chain("write", "artefact")
    for name, found, record in zip(names, blocks, records[1:], strict=True):
        merge_examples(work / "examples" / name, work / "artefact" / "dropped" / f"{name}.jsonl")
        record |= found.report()
    return records


def _await_signatures(where: str, signed: Callable[[], list[str]], tasks: int) -> None:
    """Waits until the signatures of all tasks are visible; with fewer, duplicates would go unfound."""
    begun = time.monotonic()
    while (count := len(signed())) != tasks:
        if time.monotonic() - begun > LISTED_SECONDS:
            raise PerdureError(
                f"{where}: signatures of {count} tasks are listed after {LISTED_SECONDS:g} s, should be {tasks}; does this "
                "machine see files that others write? Run the same command again: it goes on here"
            )
        time.sleep(0.5)


class Contents(PipelineStep):
    """Hashes a task's share of the source's files, before they are read."""

    type = "🔒 - HASH"
    name = "Contents"

    def __init__(self, files: tuple[Path, list[str]] | None, folder: Path):
        super().__init__()
        self.files, self.folder = files, folder

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        """Writes `<rank>.json`; hands the documents on."""
        if self.files is not None:
            folder, files = self.files
            write_json(self.folder / f"{rank:05d}.json", hash_contents(folder, files[rank::world_size]))
        return data


def _reading(reader: Counter, normaliser: Counter) -> dict:
    """Counts of reading, the first record; documents that cannot be read have no words."""
    counter = Counter(
        out=normaliser["out"], words_out=normaliser["words_out"], words_in=normaliser["words_out"]
    )
    counter["in"] = reader["in"]
    for part in (reader, normaliser):
        counter.update({key: count for key, count in part.items() if key.startswith("dropped:")})
    return step_counts("read", counter)
