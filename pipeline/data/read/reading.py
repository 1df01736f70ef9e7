"""What all readers share: documents are counted, and files split over tasks.

Every document met counts as `in`, every one given up as `dropped:<reason>`. Work is split over tasks by whole files where
there are at least as many files as tasks; else every file belongs to some tasks, in proportion to its size, which share its
documents.
"""

import heapq
from types import MappingProxyType

import pyarrow as pa
from datatrove.data import Document, DocumentsPipeline
from datatrove.pipeline.readers.base import BaseDiskReader, BaseReader

from perdure.pipeline.data.read.conversations import CONVERSATION, conversation_of
from perdure.pipeline.data.read.pairs import pair_of
from perdure.pipeline.data.read.repositories import PLACE
from perdure.pipeline.data.read.rows import LONGEST
from perdure.pipeline.data.read.values import as_json, without_surrogates
from perdure.pipeline.recipe.where import WHERE, Where


class CountedReader(BaseReader):
    """Makes documents from rows; counts them, and by reason those that cannot be used."""

    where: Where = MappingProxyType({})
    """Documents that are taken."""
    fields: tuple[str, str | None] | None = None
    """The fields of a conversation and of its tools, in place of a text's; None: documents are texts, or pairs."""
    pair: tuple[str | None, str, str] | None = None
    """The fields of a prompt, which may be a part of both answers, and of a chosen and a rejected answer."""

    repository: tuple[str, str] | None = None
    """The fields of a file's repository and path; None: documents are no files of repositories."""

    def get_document_from_dict(self, data: dict, source_file: str, id_in_file: int | str) -> Document | None:
        """A document with all other fields as metadata; None, and counted, if it has no text or is not wanted."""
        self.stat_update("in")
        conversation = None
        if self.fields is not None:
            messages, tools = (data.pop(field, None) if field else None for field in self.fields)
            found = conversation_of(messages, tools)
        elif self.pair is not None:
            found = pair_of(*(data.pop(field, None) if field else None for field in self.pair))
        if self.fields is not None or self.pair is not None:
            if isinstance(found, str):
                self.stat_update(f"dropped:{found}")
                return None
            data[self.text_key], conversation = found
        text = data.pop(self.text_key, None)
        if isinstance(text, pa.Buffer):
            if text.size > LONGEST:
                self.stat_update("dropped:cell_too_long")
                return None
            try:
                text = str(memoryview(text), "utf-8")
            except UnicodeDecodeError:
                self.stat_update("dropped:invalid_utf8")
                return None
        if not isinstance(text, str):
            self.stat_update("dropped:no_text")
            return None
        identifier = data.pop(self.id_key, None)
        metadata = data.pop("metadata", None)
        if not isinstance(metadata, dict):
            metadata = {} if metadata is None else {"metadata": metadata}
        metadata |= {key: value for key, value in data.items() if not isinstance(value, bytes)}
        if conversation is not None:
            metadata[CONVERSATION] = conversation
        metadata = as_json(metadata)
        if self.repository is not None:
            name, path = map(metadata.get, self.repository)
            if isinstance(name, bool) or not isinstance(name, str | int | float) or name == "":
                self.stat_update("dropped:no_repository")
                return None
            if not isinstance(path, str) or not path:
                self.stat_update("dropped:no_path")
                return None
            metadata[PLACE] = [source_file, id_in_file]
        if reason := refusal(self.where, metadata):
            self.stat_update(f"dropped:{reason}")
            return None
        if self.repository is not None:  # a number is a name, as it is an id
            metadata[self.repository[0]] = str(metadata[self.repository[0]])
        return Document(
            text=text,
            id=f"{source_file}/{id_in_file}"
            if identifier in (None, "")
            else without_surrogates(str(identifier)),
            metadata=metadata,
        )

    def unreadable(self, reason: str) -> None:
        """Counts a document that cannot be read."""
        self.stat_update("in", f"dropped:{reason}")


def refusal(where: Where, metadata: dict) -> str | None:
    """Why `where` excludes a document with these fields; None if it does not."""
    for field, condition in where.items():
        if (value := metadata.get(field)) is None:
            return "where_missing"
        if (holds := condition.holds(value)) is None:
            return "where_unreadable"
        if not holds:
            return WHERE
    return None


class Files(CountedReader, BaseDiskReader):
    """A fixed list of files, split over tasks by file, or by file and document."""

    def set_files(self, files: list[str], text_field: str = "text", id_field: str = "id") -> None:
        """Names the files, relative to the reader's folder, and the fields to look at."""
        self.files, self.text_key, self.id_key = files, text_field, id_field
        self.part = (0, 1)

    def run(self, data: DocumentsPipeline = None, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        """Yields this task's documents."""
        if len(self.files) >= world_size:
            yield from self.read_files_shard(self.files[rank::world_size])
        else:
            sizes = [self.data_folder.size(file) for file in self.files]
            number, part, parts = share(sizes, rank, world_size)
            self.part = (part, parts)
            yield from self.read_files_shard([self.files[number]])

    def is_mine(self, index: int) -> bool:
        """Whether this task reads the document at this index of a file."""
        part, parts = self.part
        return index % parts == part


def share(sizes: list[int], task: int, tasks: int) -> tuple[int, int, int]:
    """The part of a file that a task reads if there are fewer files than tasks.

    Every file gets a task, and each further task goes to the file of which a task has the most to do (D'Hondt's method).

    Args:
        sizes: Bytes of each file.
        task: Its number.
        tasks: How many there are.

    Returns:
        The number of its file, which part of it, and of how many parts.
    """
    parts = [1] * len(sizes)
    left: list[tuple[float, int]] = [(-size, number) for number, size in enumerate(sizes)]
    heapq.heapify(left)
    for _ in range(tasks - len(sizes)):
        _, number = left[0]
        parts[number] += 1
        heapq.heapreplace(left, (-sizes[number] / parts[number], number))
    for number, count in enumerate(parts):
        if task < count:
            return number, task, count
        task -= count
    raise AssertionError("every task has a part")
