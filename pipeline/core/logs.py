"""Logging: how messages of the loggers below `perdure` reach the console.

Modules log with the standard library: `logger = logging.getLogger(__name__)`. `configure` is called once a process, by what
starts it: the command line, a rank, a job of an array. Loggers of other packages are left alone.
"""

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from perdure.pipeline.core.console import visible

NAME = "perdure"
"""The logger above those of all modules."""
LEVEL = "PERDURE_LOG_LEVEL"
"""Environment variable with the level (`DEBUG`, `INFO`, `WARNING`) of processes that a command starts."""
PREFIX = "{asctime} {levelname} rank={rank} version={version} "
"""Before every line at level DEBUG."""

_version: str | None = None


def set_version(name: str | None) -> None:
    """Sets the version that this process works on, for all records from here on; None for no single one."""
    global _version
    _version = name


def add_context(record: logging.LogRecord) -> bool:
    """A filter that adds `rank` (int, 0 outside training) and `version` (`-` for none) to a record, and keeps all."""
    record.rank = int(os.environ.get("RANK") or 0)
    record.version = _version or "-"
    return True


def configure(level: str | None = None, plain: bool = False, data_on_stdout: bool = False) -> None:
    """Shows messages on the console: warnings and errors on stderr, others on stdout.

    Of several ranks, only the first one shows messages below a warning, except at level DEBUG.

    Args:
        level: The least level to show: `DEBUG`, `INFO` or `WARNING`; default: what the environment says, else `INFO`.
            At `DEBUG` each line has its time, level, rank and version.
        plain: Without colours on a terminal.
        data_on_stdout: Whether stdout is for a program, so that every message goes to stderr.
    """
    logger = logging.getLogger(NAME)
    for handler in list(logger.handlers):
        if isinstance(handler, _Console):
            logger.removeHandler(handler)
    console = _Console(plain, data_on_stdout)
    console.addFilter(add_context)
    logger.addHandler(console)
    logger.propagate = False
    number = logging.getLevelNamesMapping().get(level or os.environ.get(LEVEL) or "INFO", logging.INFO)
    if number == logging.DEBUG:
        console.setFormatter(_EachLine())
    elif int(os.environ.get("RANK") or 0) > 0:
        number = max(number, logging.WARNING)
    logger.setLevel(number)


def level_of_children() -> str:
    """The level for processes that this one starts, a value of the environment variable `LEVEL`."""
    return logging.getLevelName(logging.getLogger(NAME).level or logging.INFO)


@contextmanager
def silenced(when: bool = True) -> Iterator[None]:
    """Meanwhile only warnings and errors are logged, if `when` is true."""
    logger = logging.getLogger(NAME)
    before = logger.level
    if when:
        logger.setLevel(max(before, logging.WARNING))
    try:
        yield
    finally:
        logger.setLevel(before)


class _EachLine(logging.Formatter):
    """Puts `PREFIX` before every line of a message."""

    def __init__(self) -> None:
        super().__init__(PREFIX, style="{")

    def format(self, record: logging.LogRecord) -> str:
        record.asctime = self.formatTime(record)
        prefix = self.formatMessage(record)
        return "\n".join(prefix + line for line in record.getMessage().splitlines() or [""])


class _Console(logging.Handler):
    """Prints through rich on a terminal, plainly otherwise, at once in either case.

    Errors of the stream, such as a closed pipe, reach whoever logs, as those of `print` do.
    """

    def __init__(self, plain: bool, data_on_stdout: bool):
        super().__init__()
        self.plain, self.data_on_stdout = plain, data_on_stdout

    def emit(self, record: logging.LogRecord) -> None:
        warns = record.levelno >= logging.WARNING
        stream: TextIO = sys.stderr if warns or self.data_on_stdout else sys.stdout
        text = visible(self.format(record))
        if stream.isatty() and not (warns or self.plain):
            from rich.console import Console

            Console(file=stream, highlight=True).print(text, markup=False, soft_wrap=True)
        else:
            print(text, file=stream, flush=True)
