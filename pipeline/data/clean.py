"""Cleaning one source: read, normalise, then the recipe's steps in their order; documents come out as JSON lines.

Steps that look at one document at a time are chained in one pipeline. A step that must see all documents first
(deduplication) ends a pipeline: what has passed so far is written and signed, matched, and read again.
"""

import shutil
from collections import Counter
from pathlib import Path

from datatrove.data import DocumentsPipeline
from datatrove.pipeline.base import PipelineStep
from datatrove.pipeline.writers.jsonl import JsonlWriter

from perdure.pipeline.data.blocks import block
from perdure.pipeline.data.contents import hash_contents, merge_records, record_path
from perdure.pipeline.data.counted import Counted, merge_examples, step_counts, total
from perdure.pipeline.data.executor import Execute, building
from perdure.pipeline.data.inputs import read_files
from perdure.pipeline.data.normalise import Normaliser
from perdure.pipeline.data.readers import CleanedDocuments, reader_step
from perdure.pipeline.errors import PerdureError
from perdure.pipeline.manifest import finish, hash_file, read_json, write_json
from perdure.pipeline.recipe import Decontaminate, Source


def clean_source(
    out: Path, final: Path, name: str, source: Source, tasks: int, execute: Execute, manifest: dict
) -> None:
    """Writes the cleaned documents of one source, `<task>.jsonl.zst`, examples of what was dropped, and all counts.

    Args:
        out: The run's directory.
        final: Where the artefact goes.
        name: The source's name in the recipe.
        source: Its reader and cleaning options.
        tasks: Number of parts.
        execute: Runs the tasks.
        manifest: What the artefact depends on; `counts` and `files` are added.

    Raises:
        PerdureError: If no document is left.
    """
    with building(out, final) as work:
        steps = _clean(work, source, tasks, execute)
        merge_records(work / "contents", record_path(out, final))
        counts = {unit: total(steps, unit) for unit in ("documents", "words")}
        if not counts["documents"]["out"]:
            dropped = counts["documents"]["dropped"].items()
            reasons = ", ".join(f"{count} {reason}" for reason, count in dropped if count)
            raise PerdureError(
                f"sources.{name}: no document left of {counts['documents']['in']} "
                f"({reasons or 'the source is empty'}); look at its reader, `text_field` and `clean`"
            )
        artefact = work / "artefact"
        files = {
            path.relative_to(artefact).as_posix(): {"bytes": path.stat().st_size, "sha256": hash_file(path)}
            for path in sorted([*artefact.glob("*.jsonl.zst"), *artefact.glob("dropped/*.jsonl")])
        }
        finish(artefact, manifest | {"counts": counts | {"steps": steps}, "files": files})


def _clean(work: Path, source: Source, tasks: int, execute: Execute) -> list[dict]:
    """Runs the pipelines; returns a record for reading and for every step, up to one that leaves nothing."""
    records: list[dict] = []
    chain: list[PipelineStep] = [reader_step(source.reader), Normaliser()]

    def run(name: str, steps: list[PipelineStep], tasks: int = tasks) -> list[Counter]:
        return execute(steps, tasks, work / name)

    def run_chain(name: str, to: str, *signing: PipelineStep) -> None:
        """Runs the chain into a folder of documents, with which the next one begins."""
        writer = JsonlWriter(str(work / to), "${rank}.jsonl.zst", compression="zstd")
        hashing = [] if records else [Contents(read_files(source.reader), work / "contents")]
        counters = run(name, [*chain, *hashing, writer, *signing])
        if not records:
            records.append(_reading(*counters[:2]))
        for step, counter in zip(chain, counters):
            if isinstance(step, Counted):
                records.append(step_counts(step.name, counter))
        if isinstance(chain[0], CleanedDocuments):
            shutil.rmtree(chain[0].data_folder.path, ignore_errors=True)  # nothing reads it any more
        chain[:] = [CleanedDocuments(str(work / to))]

    for number, step in enumerate(source.clean, 1):
        name = f"{number:02d}_{step.type}"
        found = block(step, work / name)
        if found.sign is not None:
            run_chain(f"{name}.sign", f"{name}.documents", found.sign)
            if not records[-1]["out"]["documents"]:
                return records
            # A step that sees fewer finds fewer duplicates, and says nothing.
            assert found.signed is not None and len(found.signed()) == tasks, name
        for stage, (match, parts) in enumerate(found.match):
            run(f"{name}.match{stage}", [match], parts)
        chain.append(Counted(found, name, work / "examples" / name))
    run_chain("write", "artefact")
    for number, step in enumerate(source.clean, 1):
        name = f"{number:02d}_{step.type}"
        merge_examples(work / "examples" / name, work / "artefact" / "dropped" / f"{name}.jsonl")
        if isinstance(step, Decontaminate):
            records[number]["evaluation"] = read_json(work / name / "index.json")
    return records


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
    """The first record: what the reader met. Documents that cannot be read have no words."""
    counter = Counter(
        out=normaliser["out"], words_out=normaliser["words_out"], words_in=normaliser["words_out"]
    )
    counter["in"] = reader["in"]
    for part in (reader, normaliser):
        counter.update({key: count for key, count in part.items() if key.startswith("dropped:")})
    return step_counts("read", counter)
