"""A command that starts ranks, and calls of the functions of `checkpoint_ranks.py`."""

import sys
from functools import partial

from support import on_rank

on_checkpoint_rank = partial(on_rank, script="checkpoint_ranks.py")


def command(directory, ranks=1):
    code = f"from pathlib import Path; from perdure.pipeline.train import ranks; ranks.start(Path({str(directory)!r}), {ranks})"
    return [sys.executable, "-c", code]
