"""Where the documents of a source come from: fields of `sources.<name>.reader`."""

from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from perdure.pipeline.recipe.section import Section
from perdure.pipeline.recipe.where import Condition


class RowsReader(Section):
    """Readers of documents that have fields besides their text."""

    messages_field: str | None = Field(default=None, exclude_if=lambda field: field is None)
    """The field that holds a conversation, in place of a text: a list of messages, each with `role` (`system`, `user`,
    `assistant`, `tool`), `content`, and what else the chat template takes, such as `tool_calls`. It is rendered with the
    tokenizer's chat template, and its labels are the assistant's turns. Cleaning, deduplication and the held-out split look at
    the contents of its messages, one after another."""
    tools_field: str | None = Field(default=None, exclude_if=lambda field: field is None)
    """With `messages_field`: the field that holds the tools of a conversation, a list of JSON schemas as the chat template
    takes them; default: there are none."""
    repository_field: str | None = Field(default=None, exclude_if=lambda field: field is None)
    """With `repository` of the source: the field that holds the name of a file's repository, or its number. A document without
    it is dropped and counted (`no_repository`)."""
    path_field: str | None = Field(default=None, exclude_if=lambda field: field is None)
    """With `repository` of the source: the field that holds the path of a file in its repository; likewise (`no_path`)."""
    prompt_field: str | None = Field(default=None, exclude_if=lambda field: field is None)
    """With `chosen_field`: the field that holds the prompt, of the answers' type; default: the messages with which both answers
    begin."""
    chosen_field: str | None = Field(default=None, exclude_if=lambda field: field is None)
    """The field that holds the preferred one of two answers, for `objective: {type: preference}`: a string, which continues the
    prompt, or a list of messages of the assistant's, which are rendered with the tokenizer's chat template. Elsewhere the
    chosen answers are trained on as if they were conversations."""
    rejected_field: str | None = Field(default=None, exclude_if=lambda field: field is None)
    """The field that holds the other answer."""
    where: dict[str, Condition] = Field(default={}, exclude_if=lambda where: not where)
    """Which documents are taken: what should stand in their fields, those of a mapping `metadata` included. All others are
    counted as dropped: `where`, `where_missing` (the field is missing or null), `where_unreadable` (no date, or no number,
    where there is a range of them). Default: all."""

    @model_validator(mode="after")
    def _of_other_fields(self) -> "RowsReader":
        if self.tools_field is not None and self.messages_field is None:
            raise ValueError("`tools_field` has no use without `messages_field`")
        if (self.chosen_field is None) != (self.rejected_field is None) or (
            self.prompt_field is not None and self.chosen_field is None
        ):
            raise ValueError(
                "pairs need `chosen_field` and `rejected_field`, and `prompt_field` if the prompt is apart"
            )
        if self.messages_field is not None and self.chosen_field is not None:
            raise ValueError(
                "documents are conversations (`messages_field`) or pairs (`chosen_field`), not both"
            )
        texts = ("text_field", "id_field", "messages_field", "prompt_field", "chosen_field", "rejected_field")
        for field in {getattr(self, name, None) for name in texts} - {None}:
            if field in self.where:
                raise ValueError(
                    f"`where` should name other fields than `{field}`, which is the text or the id"
                )
        return self


class JsonlReader(RowsReader):
    """JSON lines, plain or compressed (gzip, zstd, xz, bzip2, LZ4), one document a line."""

    type: Literal["jsonl"]
    path: Path
    """A file, or a directory that is searched recursively, through symbolic links, for `*.jsonl` and `*.ndjson`, plain, `.gz`,
    `.zst`, `.xz`, `.bz2` or `.lz4`, in any case; what several links lead to is read once, hidden files and editors' copies are
    not."""
    text_field: str = "text"
    """The key that holds the text."""
    id_field: str = "id"
    """The key that holds the document's id; documents without one get `<file>/<line>`."""


class ParquetReader(RowsReader):
    """Parquet files, one document a row."""

    type: Literal["parquet"]
    path: Path
    """A file, or a directory that is searched recursively, through symbolic links, for `*.parquet`; what several links
    lead to is read once, hidden files and editors' copies are not."""
    text_field: str = "text"
    """The column that holds the text."""
    id_field: str = "id"
    """The column that holds the document's id; documents without one get `<file>/<row>`."""


class TextReader(Section):
    """A folder of plain-text files, one document a file (UTF-8)."""

    type: Literal["text"]
    path: Path
    """A file or a directory."""
    glob: str = "**/*.txt"
    """Which files of the directory to read, relative to it; `**` stands for any number of directories. Hidden files and
    editors' copies fit only what begins or ends as they do, such as `.*`."""

    @field_validator("glob")
    @classmethod
    def _relative(cls, glob: str) -> str:
        """A pattern of names below the directory."""
        parts = PurePosixPath(glob).parts
        if not parts or parts[0] == "/" or ".." in parts:
            raise ValueError("should be a pattern relative to `path`, such as `**/*.txt`")
        if any("**" in part and part != "**" for part in parts):
            raise ValueError("`**` should stand alone between slashes, as in `**/*.txt`")
        return glob


class HuggingFaceReader(RowsReader):
    """A Hugging Face dataset: a directory written by `save_to_disk`, or the name of one on the hub."""

    type: Literal["huggingface"]
    path: str
    """A local directory, or a hub name such as `HuggingFaceFW/fineweb`."""
    config: str | None = None
    """The dataset's configuration name, if it has several."""
    split: str = "train"
    """The split to read; a local dataset that was saved without splits is read whole."""
    text_field: str = "text"
    """The column that holds the text."""


class PythonDocsReader(Section):
    """The docstrings of installed Python packages, as English prose: one document a module."""

    type: Literal["python_docs"]
    packages: Annotated[list[str], Field(min_length=1)]
    """Import names of installed packages; `stdlib` stands for the standard library."""


class PythonCodeReader(Section):
    """The code of installed Python packages with docstrings stripped: one document a module."""

    type: Literal["python_code"]
    packages: Annotated[list[str], Field(min_length=1)]
    """Import names of installed packages; `stdlib` stands for the standard library."""


Reader = Annotated[
    JsonlReader | ParquetReader | TextReader | HuggingFaceReader | PythonDocsReader | PythonCodeReader,
    Field(discriminator="type"),
]
