"""Ranks for tests: forks of one process that has imported torch and Megatron, which takes longer than most tests train.

`python rank_server.py` reads a line of JSON for each group of ranks, and answers with one exit status. Nothing
heavy is imported outside of `main`: helpers of a rank import this script anew.
"""

import atexit
import gc
import importlib
import json
import os
import runpy
import signal
import sys
import traceback
import warnings
from typing import NoReturn


def main() -> None:
    """Serves until stdin ends."""
    import perdure.pipeline.model.export
    import perdure.pipeline.train.versions  # noqa: F401 - the trainer and all that it needs
    from perdure.pipeline.train.worker import ignore_warnings

    warnings.filterwarnings("error", module=r"perdure\.")  # as pyproject.toml says of the tests themselves
    ignore_warnings()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    gc.freeze()
    for line in sys.stdin:
        request = json.loads(line)
        ranks = []
        for environment in request["environments"]:
            if (process := os.fork()) == 0:
                become_rank(request, environment)
            ranks.append(process)
        print(json.dumps(wait(ranks)), file=answers, flush=True)


def become_rank(request: dict, environment: dict[str, str]) -> NoReturn:
    """Runs a module as `python -m` does, or the `main` of a script of tests, in a fork."""
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(request["cwd"])
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for number, name in enumerate(("stdout", "stderr"), start=1):
        os.dup2(os.open(request[name], os.O_WRONLY | os.O_APPEND), number)
    sys.argv = [request["run"], *request["arguments"]]
    status = 1
    try:
        if request["run"].startswith("perdure."):
            sys.modules.pop(request["run"], None)  # runpy warns of a module that is imported already
            runpy.run_module(request["run"], run_name="__main__", alter_sys=True)
        else:  # not as `__main__`, which a rank's helper imports anew
            importlib.import_module(request["run"]).main()
        status = 0
    except SystemExit as leaving:
        status = leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
        if isinstance(leaving.code, str):
            print(leaving.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    finally:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        os._exit(status)  # without taking apart what was imported, which takes as long as importing it


def wait(ranks: list[int]) -> int:
    """Exit status of the first rank that failed, which ends the others; 0 if none did."""
    first, left = 0, set(ranks)
    while left:
        process, status = os.wait()
        left.remove(process)
        if status and not first:
            first = os.waitstatus_to_exitcode(status)
            for other in left:
                os.kill(other, signal.SIGKILL)
    return first


if __name__ == "__main__":
    main()
