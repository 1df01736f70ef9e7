"""The end of every script that tests call by `on_rank`: `python SCRIPT FUNCTION JSON_ARGUMENTS ANSWER`."""

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from perdure.pipeline.model import collectives


def answer(functions: Mapping[str, Callable]) -> None:
    """Calls the function that the command line names; the answer is a list by rank."""
    function, arguments, path = sys.argv[1:]
    own = functions[function](*json.loads(arguments))
    Path(path).write_text(json.dumps(collectives.from_all(own)))
