"""Entry of the command line: parses it (`arguments.py`), runs the command (`make.py`, `look.py`, `move.py`, `versions.py`), and
sets the exit status.
"""

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from perdure.pipeline.cli import look, make, move, versions
from perdure.pipeline.cli.arguments import INSPECT, parser
from perdure.pipeline.core import logs
from perdure.pipeline.core.cores import sleep_while_waiting, warning_when_crowded
from perdure.pipeline.core.errors import PerdureError, Stopped
from perdure.pipeline.core.extras import missing_extra
from perdure.pipeline.core.inputs_once import inputs_read_once
from perdure.pipeline.core.open_files import allow_open_files
from perdure.pipeline.core.remedies import readable

logger = logging.getLogger(__name__)

VERBS = make.VERBS | look.VERBS | move.VERBS | versions.VERBS
"""What each command does, by its name on the command line."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command.

    Args:
        arguments: What stands after `perdure`; default: the process's own.

    Returns:
        The exit status: 0 (also when a signal stopped training, which is saved), 1 for a mishap, 2 for a bad recipe
        or command line, 130 when interrupted, 141 when nobody reads the output.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if arguments[:2] == INSPECT.split():
        arguments[:2] = [INSPECT]
    options = parser().parse_args(arguments)
    logs.configure(options.level, data_on_stdout=_data_on_stdout(options))
    allow_open_files()
    sleep_while_waiting()
    try:
        with warning_when_crowded(), inputs_read_once():
            VERBS[options.verb](options)
    except KeyboardInterrupt:
        logger.warning("interrupted; run the same command again to go on")
        return 130
    except Stopped:  # by a signal, after saving; the trainer has said so
        return 0
    except BrokenPipeError:  # whoever read our output has gone, as `head` does; Python would complain at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except Exception as error:
        if options.debug:
            raise
        return _report(error)
    return 0


def _data_on_stdout(options: argparse.Namespace) -> bool:
    """Whether a command writes JSON, or a page beside its tables, so that messages have to stay out of stdout."""
    return getattr(options, "json", False) or getattr(options, "html", None) is not None


def _report(error: Exception) -> int:
    if isinstance(error, ModuleNotFoundError) and error.name:
        error = missing_extra(error.name) or error
    if isinstance(error, OSError) and error.filename:
        error = readable(error, Path(os.fsdecode(error.filename)))
    if isinstance(error, PerdureError):
        logger.error(f"error: {error}")
        return error.exit_status
    text = " ".join(str(error).split())
    logger.error(f"error: {type(error).__name__}: {text}; run again with --debug for the traceback")
    return 1
