"""Files of repositories, as readers leave them."""

from perdure.pipeline.recipe import PythonCodeReader, RowsReader, Source

PLACE = "perdure:place"
"""Key of a file's metadata: the file it was read from and its place there, so that the given order of a repository's files does
not depend on the number of tasks."""
JOINED = "joined"
"""Why a file is no document any more: it is a part of another one, its repository's."""
MODULE_FIELDS = ("package", "path")
"""Fields of modules of installed packages."""


def repository_fields(source: Source) -> tuple[str, str] | None:
    """Metadata fields of a source's repositories and paths; None if its documents are no files of repositories."""
    if source.repository is None:
        return None
    if isinstance(source.reader, PythonCodeReader):
        return MODULE_FIELDS
    assert isinstance(source.reader, RowsReader)
    assert source.reader.repository_field is not None and source.reader.path_field is not None
    return source.reader.repository_field, source.reader.path_field
