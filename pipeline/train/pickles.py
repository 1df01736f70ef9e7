"""Refuses checkpoints that would run code when they are read.

Megatron's format holds three kinds of pickles: `.metadata` (which `torch.distributed.checkpoint` reads with a plain
`pickle.load`), `common.pt`, and objects between the tensors of a `.distcp` file (both read by `torch.load`, the latter
without `weights_only`). Each is read here first, by an unpickler that knows data only; what passes cannot run
anything when Megatron reads it again. Tensors themselves are always read with `weights_only`.
"""

import io
import pickle
from pathlib import Path

import torch
from torch.distributed.checkpoint.metadata import BytesStorageMetadata, Metadata

from perdure.pipeline.core.errors import PerdureError

_DATA_MODULES = (
    "torch.distributed.checkpoint.metadata",
    "torch.distributed.checkpoint.planner",
)
_DATA_NAMES = {
    ("builtins", "set"),
    ("collections", "OrderedDict"),
    ("megatron.core.dist_checkpointing.strategies.torch", "MCoreMetadata"),
    ("megatron.core.dist_checkpointing.strategies.torch", "MCoreSavePlan"),
    ("pathlib", "PosixPath"),
    ("torch", "Size"),
    ("torch", "device"),
    ("torch.serialization", "_get_layout"),
    ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
    ("torch.distributed.checkpoint.filesystem", "_StoragePrefix"),
}


class _DataUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str):
        if (module, name) in _DATA_NAMES:
            return super().find_class(module, name)
        if module in _DATA_MODULES:
            found = super().find_class(module, name)
            if isinstance(found, type) and found.__module__ == module:
                return found
        if module == "torch" and isinstance(found := getattr(torch, name, None), torch.dtype):
            return found
        raise pickle.UnpicklingError(f"{module}.{name}")


def refuse_code(checkpoint: Path) -> None:
    """Raises PerdureError if a file of the checkpoint is anything but data."""
    file = checkpoint / ".metadata"
    try:
        with file.open("rb") as stream:
            metadata: Metadata = _DataUnpickler(stream).load()
        assert metadata.storage_data is not None
        for index, place in metadata.storage_data.items():
            if isinstance(metadata.state_dict_metadata[index.fqn], BytesStorageMetadata):
                file = checkpoint / place.relative_path
                with file.open("rb") as stream:
                    stream.seek(place.offset)
                    torch.load(io.BytesIO(stream.read(place.length)), weights_only=True)
        file = checkpoint / "common.pt"
        if file.exists():
            torch.load(file, weights_only=True, map_location="cpu")
    except FileNotFoundError:
        raise PerdureError(
            f"{file}: missing; delete {checkpoint} to go on from an earlier checkpoint"
        ) from None
    except Exception as error:  # whatever a broken or hostile pickle raises
        reason = str(error).splitlines()[0] if isinstance(error, pickle.UnpicklingError) else "not readable"
        raise PerdureError(
            f"{file}: holds something other than data ({reason}), so it was not loaded; "
            f"delete {checkpoint} to go on from an earlier checkpoint"
        ) from None
