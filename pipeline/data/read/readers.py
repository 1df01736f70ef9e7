"""datatrove reader steps for every `reader.type` of a recipe; what cannot be read is counted, never lost silently."""

import codecs
import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
from datatrove.data import Document, DocumentsPipeline
from datatrove.pipeline.base import PipelineStep
from datatrove.pipeline.readers.huggingface import HuggingFaceDatasetReader
from datatrove.pipeline.readers.jsonl import JsonlReader
from datatrove.pipeline.readers.parquet import ParquetReader

from perdure.pipeline import recipe
from perdure.pipeline.core.errors import PerdureError
from perdure.pipeline.data.read.inputs import huggingface_on_disk, input_files
from perdure.pipeline.data.read.modules import Module, python_modules
from perdure.pipeline.data.read.python import code_of, decode_source, docs_of
from perdure.pipeline.data.read.reading import CountedReader, Files
from perdure.pipeline.data.read.repositories import repository_fields
from perdure.pipeline.data.read.rows import LONGEST, open_batches, open_lines
from perdure.pipeline.data.read.values import INVALID, as_python, parse_json, text_buffer


def reader_step(source: recipe.Source) -> PipelineStep:
    """The datatrove step that reads what a source's reader names.

    Raises:
        PerdureError: If its input does not exist.
    """
    reader = source.reader
    step = _step(reader)
    step.repository = repository_fields(source)
    if isinstance(reader, recipe.RowsReader):
        step.where = reader.where
        if reader.messages_field is not None:
            step.fields = reader.messages_field, reader.tools_field
        if reader.chosen_field is not None and reader.rejected_field is not None:
            step.pair = reader.prompt_field, reader.chosen_field, reader.rejected_field
    return step


def _step(reader: recipe.Reader) -> CountedReader:
    match reader:
        case recipe.JsonlReader():
            return JsonLines(*input_files(reader), reader.text_field, reader.id_field)
        case recipe.ParquetReader():
            return ParquetRows(*input_files(reader), reader.text_field, reader.id_field)
        case recipe.TextReader():
            return TextFiles(*input_files(reader))
        case recipe.HuggingFaceReader():
            return HuggingFaceRows(reader)
        case recipe.PythonDocsReader() | recipe.PythonCodeReader():
            return PythonModules(python_modules(reader.packages), docs=reader.type == "python_docs")


class JsonLines(Files, JsonlReader):
    """datatrove's JSONL reader, which would give up a whole file at the first invalid byte."""

    def __init__(self, folder: str, files: list[str], text_field: str = "text", id_field: str = "id"):
        super().__init__(folder)
        self.set_files(files, text_field, id_field)

    longest: int | None = LONGEST
    """Bytes above which a line is no document."""

    def read_file(self, filepath: str) -> Iterator[Document]:
        """Reads lines as bytes, each one judged for itself; blank lines are no documents.

        Raises:
            PerdureError: If a compressed file is damaged or cut short.
        """
        for number, line in enumerate(open_lines(self.data_folder.resolve_paths(filepath), self.longest)):
            if self.is_mine(number) and (document := self.parse(line, filepath, number)):
                yield document

    def parse(self, line: bytes | None, filepath: str, number: int) -> Document | None:
        """A line's document, or None."""
        if line is None:
            self.unreadable("line_too_long")
            return None
        # Files with marks at their beginning may have been written one after the other.
        line = line.removeprefix(codecs.BOM_UTF8)
        if not line.strip():
            return None
        try:
            data = parse_json(line)
        except (ValueError, RecursionError):
            self.unreadable("broken_json" if _is_utf8(line) else "invalid_utf8")
            return None
        if not isinstance(data, dict):
            self.unreadable("not_an_object")
            return None
        if isinstance(text := data.get(self.text_key), str) and INVALID.search(text) and not _is_utf8(line):
            self.unreadable("invalid_utf8")
            return None
        if isinstance(data.get(self.id_key), float):
            # As it stands: a whole number above 64 bits is a float by now, one of many.
            with suppress(ValueError, RecursionError):
                data[self.id_key] = json.loads(line, parse_int=str)[self.id_key]
        return self.get_document_from_dict(data, filepath, number)


class CleanedDocuments(JsonLines):
    """Reads back what each task wrote: task k reads `k.jsonl.zst`, which is missing if it had no documents."""

    longest = None

    def __init__(self, folder: str):
        super().__init__(folder, [])

    def run(self, data: DocumentsPipeline = None, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        """Yields this task's documents."""
        name = f"{rank:05d}.jsonl.zst"
        if self.data_folder.isfile(name):
            yield from self.read_file(name)

    def all(self) -> Iterator[Document]:
        """Yields every task's documents, one task after the other."""
        for path in sorted(Path(self.data_folder.path).glob("*.jsonl.zst")):
            yield from self.read_file(path.name)


class ParquetRows(Files, ParquetReader):
    """datatrove's Parquet reader with every value judged for itself; texts may be of any string or binary type.

    Binary columns are no metadata.
    """

    def __init__(self, folder: str, files: list[str], text_field: str, id_field: str):
        super().__init__(folder)
        self.set_files(files, text_field, id_field)

    def read_file(self, filepath: str) -> Iterator[Document]:
        """Reads rows in batches."""
        row = 0
        with self.data_folder.open(filepath, "rb") as file:
            for batch in open_batches(file, self.data_folder.resolve_paths(filepath), self.batch_size):
                columns = dict(zip(batch.schema.names, batch.columns))
                for place in range(len(batch)):
                    if self.is_mine(row + place) and (
                        document := self.parse(columns, place, filepath, row + place)
                    ):
                        yield document
                row += len(batch)

    def parse(self, columns: dict[str, pa.Array], place: int, filepath: str, row: int) -> Document | None:
        """The document of a row, at some place of its batch; or None."""
        values = {name: column[place] for name, column in columns.items()}
        return self.get_document_from_dict(row_of(values, self.text_key), filepath, row)


class TextFiles(Files):
    """One document a text file; its id is the file's relative name."""

    name = "📄 Text"

    def __init__(self, folder: str, files: list[str]):
        super().__init__(folder)
        self.set_files(files)

    def run(self, data: DocumentsPipeline = None, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        """Yields this task's files."""
        yield from self.read_files_shard(self.files[rank::world_size])

    def read_file(self, filepath: str) -> Iterator[Document]:
        """Reads a file whole."""
        if self.data_folder.size(filepath) > LONGEST:
            self.unreadable("file_too_long")
            return
        content = self.data_folder.cat_file(filepath)
        if not _is_utf8(content):
            self.unreadable("invalid_utf8")
        elif document := self.get_document_from_dict({"text": content.decode(), "id": filepath}, filepath, 0):
            yield document


class HuggingFaceRows(CountedReader, HuggingFaceDatasetReader):
    """datatrove's reader of Hugging Face datasets, from disk or from the hub."""

    def __init__(self, reader: recipe.HuggingFaceReader):
        if local := huggingface_on_disk(reader):
            super().__init__(str(local), text_key=reader.text_field, load_from_disk=True)
        else:
            options = {"name": reader.config, "split": reader.split}
            super().__init__(reader.path, options, text_key=reader.text_field)

    def _get_dataset_shard(self, dst: Any, rank: int, world_size: int) -> Any:
        """The task's rows, with every value judged for itself, unless some are to be decoded, as pictures are."""
        shard = super()._get_dataset_shard(dst, rank, world_size)
        from datasets.features.features import require_decoding

        decoded = any(require_decoding(feature) for feature in shard.features.values())
        return shard if decoded or not len(shard) else _Rows(shard, self.text_key)

    def run(self, data: DocumentsPipeline = None, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        """Yields this task's rows."""
        try:
            yield from super().run(data, rank, world_size)
        except (OSError, ValueError) as error:  # datasets' own errors derive from these
            raise PerdureError(f"{self.dataset}: the dataset cannot be loaded: {error}") from error


class _Rows:
    """A dataset's rows in batches, as datatrove's reader asks for them."""

    def __init__(self, rows: Any, text_field: str):
        self.rows, self.text_field = rows.with_format("arrow"), text_field

    def iter(self, size: int) -> Iterator[dict[str, list]]:
        """Yields columns of up to so many rows."""
        for table in self.rows.iter(size):
            rows = [
                row_of(dict(zip(table.column_names, values)), self.text_field)
                for values in zip(*table.columns)
            ]
            yield {name: [row[name] for row in rows] for name in table.column_names}


def row_of(values: dict[str, pa.Scalar], text_field: str) -> dict[str, Any]:
    """A row of Arrow's values as Python's, but for the text, which is its bytes if it is a string or binary."""
    found = {name: as_python(value) for name, value in values.items() if name != text_field}
    if (text := values.get(text_field)) is not None:
        buffer = text_buffer(text)
        found[text_field] = as_python(text) if buffer is None else buffer
    return found


class PythonModules(CountedReader):
    """Installed Python packages: their docstrings, or their code without them; one document a module."""

    name = "🐍 Python"

    def __init__(self, modules: list[Module], docs: bool):
        super().__init__()
        self.modules, self.docs = modules, docs

    def run(self, data: DocumentsPipeline = None, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        """Yields this task's modules."""
        for module in self.modules[rank::world_size]:
            if document := self.read_module(module):
                yield document

    def read_module(self, module: Module) -> Document | None:
        """A module's document, or None."""
        try:
            text = (docs_of if self.docs else code_of)(decode_source(module.path.read_bytes()))
        except (SyntaxError, ValueError, RecursionError, MemoryError):  # undecodable bytes are a ValueError
            self.unreadable("not_python")
            return None
        metadata = {"package": module.package, "version": module.version, "license": module.license}
        metadata["language"] = "en" if self.docs else "python"
        if self.repository is not None:
            metadata["path"] = module.inside
        return self.get_document_from_dict({"text": text, "id": module.name, **metadata}, module.name, 0)


def _is_utf8(content: bytes) -> bool:
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return True
