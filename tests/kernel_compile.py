"""Compiles the loss's kernels for a GPU that need not be here: `python kernel_compile.py CAPABILITY`.

Prints, per kernel, bytes of shared memory and what instructions it multiplies and loads with, as JSON.
"""

import json
import sys

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from perdure.kernels import triton_loss

TYPES = (
    dict.fromkeys(("N", "D", "K", "TD"), "i32")
    | dict.fromkeys(("LABELS", "INDEX", "PLACE"), "*i64")
    | dict.fromkeys(("X", "W", "OUT", "KEPT", "TX", "TW"), "*bf16")
    | {"softcap": "fp32"}
)
TILES = {"BLOCK_N": 128, "BLOCK_V": 128, "BLOCK_D": 64, "SOFTCAP": False, "UPCAST": False}
KERNELS = {
    "statistics": (triton_loss.statistics_kernel, {"ENTROPY": True, "KEEP": True, "TEACHER": False}),
    "statistics, teacher": (
        triton_loss.statistics_kernel,
        {"ENTROPY": False, "KEEP": False, "TEACHER": True},
    ),
    "gradient": (triton_loss.gradient_kernel, {"SCALED": True, "CACHED": False, "TEACHER": False}),
    "gradient, teacher": (triton_loss.gradient_kernel, {"SCALED": True, "CACHED": False, "TEACHER": True}),
}


def compile_for(capability: int) -> dict:
    """What a launch with aligned tensors, and sizes that are multiples of 16, compiles."""
    found = {}
    for variant, (kernel, flags) in KERNELS.items():
        names, constants = kernel.arg_names, TILES | flags
        signature = {
            name: "constexpr" if name in constants else TYPES.get(name, "*fp32" if name.isupper() else "i32")
            for name in names
        }
        aligned = {
            (place,): [["tt.divisibility", 16]]
            for place, name in enumerate(names)
            if signature[name].startswith("*") or name in ("D", "TD") or name.startswith("stride")
        }
        constexprs = {(names.index(name),): value for name, value in constants.items()}
        compiled = triton.compile(
            ASTSource(kernel, signature, constexprs, aligned),
            target=GPUTarget("cuda", capability, 32),
            options={"num_warps": 8, "num_stages": 3},
        )
        found[variant] = {
            "shared": compiled.metadata.shared,
            "wgmma": compiled.asm["ptx"].count("wgmma.mma_async"),
            "cp_async": compiled.asm["ptx"].count("cp.async"),
        }
    return found


if __name__ == "__main__":
    print(json.dumps(compile_for(int(sys.argv[1]))))
