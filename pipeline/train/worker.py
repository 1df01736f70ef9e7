"""One rank of the trainer: `python -m perdure.pipeline.train.worker DIRECTORY train|evaluate`.

Everything it needs stands in the version's directory: `recipe.yaml`, `inputs.json` and `plan/`. It goes on from the
last checkpoint if there is one. Afterwards it evaluates, exports to Hugging Face, and declares the version whole. To evaluate
a finished version again, it gets the evaluation's directory (`evaluate/record.py`), with `recipe.yaml` and `inputs.json` of its
own.
"""

import logging
import sys
import warnings
from pathlib import Path

from perdure.pipeline.core import logs
from perdure.pipeline.core.cores import sleep_while_waiting
from perdure.pipeline.core.errors import PerdureError, Stopped
from perdure.pipeline.core.manifest import disk_errors
from perdure.pipeline.train import process

logger = logging.getLogger("perdure.pipeline.train.worker")  # also when it is `__main__`


def main(directory: Path, task: str) -> None:
    """Trains or computes, evaluates and exports one version, or evaluates a finished one again; all ranks run this.

    Args:
        directory: The version's directory, or that of an evaluation, prepared by `perdure.pipeline.run.run`.
        task: `train` or `evaluate`.
    """
    ignore_warnings()
    import torch.distributed as dist

    from perdure.pipeline.model import collectives
    from perdure.pipeline.train.computed import compute_version
    from perdure.pipeline.train.session import open_session
    from perdure.pipeline.train.versions import measure_again, train_version

    if task == "evaluate":
        measure_again(open_session(directory, evaluates=True))
    elif (session := open_session(directory)).version.is_computed:
        compute_version(session)
    else:
        train_version(session)
    collectives.barrier()  # rank 0 has read what others wrote
    dist.destroy_process_group()


def ignore_warnings() -> None:
    """Silences known warnings of Megatron and torch; called before they are imported."""
    # Megatron warns of every fused package that is absent.
    warnings.filterwarnings("ignore", module="megatron")
    # torch 2.13 renamed collectives that Megatron calls by their old names.
    warnings.filterwarnings("ignore", "`torch.distributed", FutureWarning)
    # Megatron reads checkpoints through torch's ShardedTensor. On CPUs the warning's module is ours, which hands its calls on.
    warnings.filterwarnings("ignore", "Please use DTensor", FutureWarning)
    # Of NCCL's barriers: the current device is the rank's, and why it is not bound stands in `device.initialise`.
    warnings.filterwarnings("ignore", r"barrier\(\): using the device under current context", UserWarning)
    # Of main parameters' gradients, which the distributed optimizer keeps elsewhere.
    warnings.filterwarnings("ignore", "The .grad attribute of a Tensor that is not a leaf", UserWarning)


def _fail(message: str) -> None:
    logger.error(f"error: {message}")
    sys.exit(1)


if __name__ == "__main__":
    sleep_while_waiting()
    logs.configure(plain=True)
    process.start_rank()
    try:
        with disk_errors(Path(sys.argv[1])):
            main(Path(sys.argv[1]), sys.argv[2])
    except Stopped:
        sys.exit(0)
    except PerdureError as error:
        _fail(str(error))
    except ModuleNotFoundError as error:
        if error.name != "triton":
            raise
        _fail("this version of megatron-core needs triton: pip install triton, or megatron-core 0.16")
    except RuntimeError as error:
        if type(error).__name__ != "OutOfMemoryError":
            raise
        _fail("the GPU's memory is full; lower training.micro_batch_size or raise parallel.tensor_parallel")
