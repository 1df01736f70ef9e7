"""Compiles recorded launches for GPUs that need not be here and reads the machine code: `python compile_launches.py < JSON`.

Reads launches as `machine.install_launches` records them, each with a `capability`. Prints as JSON, by launch, registers,
spills, shared memory, programs that a multiprocessor holds at a time, and instructions.
"""

import importlib
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import triton
import triton.backends.nvidia
from triton.backends.compiler import GPUTarget
from triton.tools.tensor_descriptor import TensorDescriptor

TOOLS = Path(triton.backends.nvidia.__file__).parent / "bin"
OPERATION = re.compile(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+ )?\s*([A-Z0-9_.]+)", re.MULTILINE)
TENSOR = ("HGMMA", "HMMA", "UTCHMMA")
"""Multiply on tensor cores: of Hopper, of Ampere, of Blackwell."""
SHARED = {80: 164 << 10, 90: 228 << 10, 100: 228 << 10, 120: 100 << 10}
"""Bytes of shared memory of a multiprocessor, of which each program takes 1 KiB for itself (CUDA C++ guide, compute
capabilities)."""
REGISTERS, WARPS, PROGRAMS = 65536, 64, 32
"""Of a multiprocessor."""


class Driver:
    """Stands in for the driver of a GPU of this capability, which Triton asks what to compile for."""

    def __init__(self, capability: int):
        self.capability = capability

    def get_current_device(self):
        return self.capability  # Triton keeps what it has compiled by device

    def get_current_stream(self, device=None):
        return 0

    def get_current_target(self):
        return GPUTarget("cuda", self.capability, 32)

    def get_active_torch_device(self):
        return torch.device("cuda", 0)


class Pointer:
    """What Triton looks at in a tensor: its type, and whether its address is a multiple of 16."""

    def __init__(self, dtype: str, offset: int):
        self.dtype, self.offset = getattr(torch, dtype), offset

    def data_ptr(self):
        return self.offset


def argument(dtype: str, offset: int, **descriptor: list[int]) -> Any:
    """A tensor, or the descriptor of one."""
    pointer = Pointer(dtype, offset)
    return TensorDescriptor(pointer, **descriptor) if descriptor else pointer


def compiled(launch: dict[str, Any]) -> Any:
    """The kernel as this launch would compile it."""
    kernel = getattr(importlib.import_module(launch["module"]), launch["kernel"])
    arguments = [argument(**x) if isinstance(x, dict) else x for x in launch["arguments"]]
    return kernel.run(*arguments, grid=(1,), warmup=True, **launch["options"])


def report(kernel: Any, capability: int) -> dict[str, Any]:
    """What the machine code of a compiled kernel needs and does."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        command = [TOOLS / "cuobjdump", "-res-usage", "-sass", file.name]
        code = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    registers = int(re.search(r"REG:(\d+)", code)[1])  # type: ignore[index]
    operations = OPERATION.findall(code)
    memory = [x for x in operations if x.startswith(("LDG", "LDGSTS", "STG"))]
    warps, shared = kernel.metadata.num_warps, kernel.metadata.shared
    of_registers = REGISTERS // (warps * (-(-registers * 32 // 256) * 256))
    return {
        "triton": triton.__version__,
        "registers": registers,
        "spills": sum(x.startswith(("STL", "LDL")) for x in operations),
        "shared": shared,
        "programs": min(of_registers, SHARED[capability] // (shared + 1024), WARPS // warps, PROGRAMS),
        "tensor": sum(x.startswith(TENSOR) for x in operations),
        "wide": sum(".128" in x for x in memory),
        "memory": len(memory),
    }


def main() -> None:
    """Compiles what stdin asks for, each machine code once."""
    found, known = [], dict[str, dict[str, Any]]()
    for launch in json.load(sys.stdin):
        triton.runtime.driver.set_active(Driver(launch["capability"]))
        kernel = compiled(launch)
        if kernel.hash not in known:
            known[kernel.hash] = report(kernel, launch["capability"])
        found.append(known[kernel.hash])
    print(json.dumps(found))


if __name__ == "__main__":
    main()
