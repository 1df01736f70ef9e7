"""Adapters as directories that `peft` loads: `adapter_config.json` and `adapter_model.safetensors`."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import megatron.core.parallel_state as mpu
import torch
import torch.distributed as dist
from megatron.core.tensor_parallel import ColumnParallelLinear
from safetensors.torch import load_file, save_file
from torch import Tensor

from perdure.pipeline.core.errors import PerdureError
from perdure.pipeline.core.files import move_whole, write_json
from perdure.pipeline.model import collectives
from perdure.pipeline.model.adapter_sizes import ADAPTER_WEIGHTS
from perdure.pipeline.model.adapters import adapted_linears
from perdure.pipeline.model.files import opened
from perdure.pipeline.recipe import LoRA


def tensor_name(module: str, matrix: str) -> str:
    """PEFT's name of `lora_A` or `lora_B` of a Hugging Face module."""
    return f"base_model.model.{module}.{matrix}.weight"


def write_adapter(model: torch.nn.Module, adapter: LoRA, base: str, to: Path) -> None:
    """Writes the running model's adapters for `peft`; all ranks call this, and every pipeline stage writes its own matrices.

    Args:
        model: An unwrapped `LanguageModel` with adapters.
        adapter: What they are.
        base: Directory of the model that they are added to.
        to: The directory; replaced if it exists.
    """
    partial = to.with_name(f".{to.name}")
    if dist.get_rank() == 0:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    collectives.barrier()
    tensors, written = dict(_whole_matrices(model)), ""
    if mpu.get_tensor_model_parallel_rank() == 0 and mpu.get_data_parallel_rank() == 0:
        written = f".stage-{mpu.get_pipeline_model_parallel_rank():05d}.safetensors"
        save_file(tensors, partial / written)
    parts = sorted(filter(None, collectives.from_all(written)))
    if dist.get_rank() == 0:
        found: dict[str, Tensor] = {}
        for part in parts:
            collectives.await_file(partial / part)
            found |= load_file(partial / part)
            (partial / part).unlink()
        config = peft_config(adapter, base, sorted({name.split(".")[-3] for name in found}))
        write_json(partial / "adapter_config.json", config, checksum=False)
        (partial / ADAPTER_WEIGHTS).touch()
        mode = (
            (partial / ADAPTER_WEIGHTS).stat().st_mode
        )  # by the umask; safetensors' own is the owner's alone
        save_file(found, partial / ADAPTER_WEIGHTS, metadata={"format": "pt"})
        (partial / ADAPTER_WEIGHTS).chmod(mode)
        shutil.rmtree(to, ignore_errors=True)
        move_whole(partial, to)
    collectives.barrier()


def peft_config(adapter: LoRA, base: str, modules: list[str]) -> dict:
    """`adapter_config.json`; what it does not name is as PEFT has it by default."""
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": adapter.rank,
        "lora_alpha": adapter.alpha,
        "lora_dropout": adapter.dropout,
        "target_modules": modules,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
    }


def _whole_matrices(model: torch.nn.Module) -> Iterator[tuple[str, Tensor]]:
    """This pipeline stage's matrices by PEFT's names; all ranks must iterate."""
    group = mpu.get_tensor_model_parallel_group()
    for linear in adapted_linears(model):
        column = isinstance(linear, ColumnParallelLinear)
        for module, name in linear.joint.names.items():
            down, up = linear.lora_A[module].detach(), linear.lora_B[module].detach()
            cut, axis = (up, 0) if column else (down, 1)
            parts = [torch.empty_like(cut) for _ in range(group.size())]
            dist.all_gather(parts, cut.contiguous(), group=group)
            whole = torch.cat(parts, axis)
            yield tensor_name(name, "lora_A"), (down if column else whole).cpu().contiguous()
            yield tensor_name(name, "lora_B"), (whole if column else up).cpu().contiguous()


def matrix_reader(directory: Path) -> Callable[[str], Tensor | None]:
    """A reader of single A matrices of an adapter by the Hugging Face name of their module; None where it has none.

    Raises:
        PerdureError: If the adapter is gone.
    """
    file = directory / ADAPTER_WEIGHTS
    if not file.is_file():
        raise PerdureError(f"{file}: no such adapter; `orthogonal_to` needs it")

    def read(module: str) -> Tensor | None:
        name = tensor_name(module, "lora_A")
        with opened(file, "pt") as stored:
            return stored.get_tensor(name) if name in stored.keys() else None  # noqa: SIM118

    return read
