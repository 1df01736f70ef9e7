"""Signals that come at a named point, however fast the machine is: before the n-th call of a function.

`python -m pointed DIRECTORY TASK` is a rank of the trainer whose point stands in `PERDURE_TEST_POINT`, as
`MODULE:FUNCTION:N:SIGNAL`; `support.stopped_at` starts such ranks.
"""

import importlib
import os
import runpy
import signal
import time
import warnings

from perdure.pipeline.train import process


def stop_at(point: str, receiver: int) -> None:
    """Before a function's n-th call, sends a process (0: the whole group) the signal, and goes on when it has come here,
    too."""
    module, path, number, sent = point.split(":")
    place = importlib.import_module(module)
    *owners, name = path.split(".")
    for owner in owners:
        place = getattr(place, owner)
    plain, calls = getattr(place, name), 0

    def pointed(*arguments, **options):
        nonlocal calls
        calls += 1
        if calls == int(number):
            os.kill(receiver, int(sent))
            while not process.requested():  # or until it is killed
                time.sleep(0.01)
        return plain(*arguments, **options)

    setattr(place, name, pointed)


if __name__ == "__main__":
    warnings.filterwarnings("ignore", module="megatron")  # as the worker does, who comes later
    import perdure.pipeline.train.trainer  # noqa: F401 - it takes its names from other modules before one is changed

    if os.environ.get("RANK", "0") == "0":
        point = os.environ["PERDURE_TEST_POINT"]
        # Ctrl-C reaches all processes of a terminal.
        stop_at(point, 0 if point.endswith(f":{signal.SIGINT:d}") else os.getppid())
    runpy.run_module("perdure.pipeline.train.worker", run_name="__main__", alter_sys=True)
