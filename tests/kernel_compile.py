"""Compiles the loss's kernels for a GPU that need not be here: `python kernel_compile.py CAPABILITY`.

Prints, per kernel, bytes of shared memory and what instructions it multiplies and loads with, as JSON.
"""

import json
import sys

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from perdure.kernels import triton_loss

TYPES = {"N": "i32", "D": "i32", "LABELS": "*i64", "INDEX": "*i64", "softcap": "fp32"} | dict.fromkeys(
    ("X", "W", "OUT", "KEPT"), "*bf16"
)
TILES = {"BLOCK_N": 128, "BLOCK_V": 128, "BLOCK_D": 64, "SOFTCAP": False, "UPCAST": False}
KERNELS = {
    triton_loss.statistics_kernel: {"ENTROPY": True, "KEEP": True},
    triton_loss.gradient_kernel: {"SCALED": True, "CACHED": False},
}


def compile_for(capability: int) -> dict:
    """What a launch with aligned tensors, and sizes that are multiples of 16, compiles."""
    found = {}
    for kernel, flags in KERNELS.items():
        names, constants = kernel.arg_names, TILES | flags
        signature = {
            name: "constexpr" if name in constants else TYPES.get(name, "*fp32" if name.isupper() else "i32")
            for name in names
        }
        aligned = {
            (place,): [["tt.divisibility", 16]]
            for place, name in enumerate(names)
            if signature[name].startswith("*") or name == "D" or name.startswith("stride")
        }
        constexprs = {(names.index(name),): value for name, value in constants.items()}
        compiled = triton.compile(
            ASTSource(kernel, signature, constexprs, aligned),
            target=GPUTarget("cuda", capability, 32),
            options={"num_warps": 8, "num_stages": 3},
        )
        found[kernel.__name__] = {
            "shared": compiled.metadata.shared,
            "wgmma": compiled.asm["ptx"].count("wgmma.mma_async"),
            "cp_async": compiled.asm["ptx"].count("cp.async"),
        }
    return found


if __name__ == "__main__":
    print(json.dumps(compile_for(int(sys.argv[1]))))
