"""The command line: `arguments.py` parses it, `verbs.py` has a function for every verb; here are the exit statuses."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from perdure.pipeline.cli.arguments import INSPECT, parser
from perdure.pipeline.cli.verbs import VERBS
from perdure.pipeline.core.console import speaker
from perdure.pipeline.core.cores import sleep_while_waiting, telling_when_crowded
from perdure.pipeline.core.errors import Stopped
from perdure.pipeline.core.open_files import allow_open_files


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
    allow_open_files()
    sleep_while_waiting()
    try:
        with telling_when_crowded(speaker(sys.stderr)):
            VERBS[options.verb](options)
    except KeyboardInterrupt:
        print("interrupted; run the same command again to go on", file=sys.stderr)
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


def _report(error: Exception) -> int:
    from perdure.pipeline.core.console import visible
    from perdure.pipeline.core.errors import PerdureError
    from perdure.pipeline.core.extras import missing_extra
    from perdure.pipeline.core.remedies import readable

    if isinstance(error, ModuleNotFoundError) and error.name:
        error = missing_extra(error.name) or error
    if isinstance(error, OSError) and error.filename:
        error = readable(error, Path(os.fsdecode(error.filename)))
    if isinstance(error, PerdureError):
        print(visible(f"error: {error}"), file=sys.stderr)
        return error.exit_status
    text = visible(" ".join(str(error).split()))
    print(f"error: {type(error).__name__}: {text}; run again with --debug for the traceback", file=sys.stderr)
    return 1
