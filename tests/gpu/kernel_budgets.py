"""Budgets of compiled kernels, by kernel, purpose and compute capability.

They are what Triton 3.9 with its own ptxas makes of the kernels as they are: a change that needs more shows. One that needs
less lowers its row.
"""

from typing import Any, NamedTuple


class Budget(NamedTuple):
    """What the machine code of a kernel may need.

    Attributes:
        registers: Of a thread, at most.
        spills: Instructions that store and load registers that do not fit, at most.
        programs: That a multiprocessor holds at a time, at least.
        wide: Instructions that move 128 bits a thread between global memory and the chip, at least.
    """

    registers: int
    spills: int
    programs: int
    wide: int


# Scoring computes the entropy as well, for which most variants spill a little. With a teacher a program holds two tiles of
# logits, its own and the teacher's, and K1 spills more: the first thing to mend there. float32 has no tensor cores: 256 threads
# hold the 128 x 128 sums of a tile, 64 each, beside the operands. A vocabulary that 16 does not divide makes K2 store number by
# number.
BUDGETS = {
    ("_rotate_kernel", "layer bf16", 80): Budget(32, 0, 16, 6),
    ("_rotate_kernel", "layer bf16", 90): Budget(32, 0, 16, 6),
    ("_rotate_kernel", "layer bf16", 100): Budget(32, 0, 16, 6),
    ("_rotate_kernel", "layer fp32", 90): Budget(48, 0, 10, 12),
    ("_swiglu_backward_kernel", "layer bf16", 80): Budget(32, 0, 16, 5),
    ("_swiglu_backward_kernel", "layer bf16", 90): Budget(32, 0, 16, 5),
    ("_swiglu_backward_kernel", "layer bf16", 100): Budget(35, 0, 12, 5),
    ("_swiglu_backward_kernel", "layer fp32", 90): Budget(40, 0, 12, 10),
    ("_swiglu_kernel", "layer bf16", 80): Budget(30, 0, 16, 3),
    ("_swiglu_kernel", "layer bf16", 90): Budget(30, 0, 16, 3),
    ("_swiglu_kernel", "layer bf16", 100): Budget(31, 0, 16, 3),
    ("_swiglu_kernel", "layer fp32", 90): Budget(30, 0, 16, 6),
    ("gradient_kernel", "train bf16", 80): Budget(208, 0, 1, 32),
    ("gradient_kernel", "train bf16", 90): Budget(128, 0, 2, 32),
    ("gradient_kernel", "train bf16", 100): Budget(128, 0, 2, 40),
    ("gradient_kernel", "train bf16, odd vocabulary", 80): Budget(204, 0, 1, 24),
    ("gradient_kernel", "train bf16, odd vocabulary", 90): Budget(157, 0, 1, 24),
    ("gradient_kernel", "train bf16, odd vocabulary", 100): Budget(127, 0, 2, 32),
    ("gradient_kernel", "train bf16, teacher", 80): Budget(255, 4, 1, 56),
    ("gradient_kernel", "train bf16, teacher", 90): Budget(255, 2, 1, 56),
    ("gradient_kernel", "train bf16, teacher", 100): Budget(255, 0, 1, 72),
    ("gradient_kernel", "train bf16, z_loss", 80): Budget(208, 0, 1, 32),
    ("gradient_kernel", "train bf16, z_loss", 90): Budget(128, 0, 2, 32),
    ("gradient_kernel", "train bf16, z_loss", 100): Budget(127, 0, 2, 40),
    ("gradient_kernel", "train fp32", 90): Budget(254, 0, 1, 40),
    ("gradient_kernel", "train fp32, odd vocabulary", 90): Budget(254, 0, 1, 24),
    ("gradient_kernel", "train fp32, teacher", 90): Budget(255, 54, 1, 92),
    ("gradient_kernel", "train fp32, z_loss", 90): Budget(254, 0, 1, 40),
    ("statistics_kernel", "score bf16", 80): Budget(255, 4, 1, 24),
    ("statistics_kernel", "score bf16", 90): Budget(255, 2, 1, 24),
    ("statistics_kernel", "score bf16", 100): Budget(255, 19, 1, 32),
    ("statistics_kernel", "score bf16, softcap", 80): Budget(255, 2, 1, 24),
    ("statistics_kernel", "score bf16, softcap", 90): Budget(189, 0, 1, 24),
    ("statistics_kernel", "score bf16, softcap", 100): Budget(255, 13, 1, 32),
    ("statistics_kernel", "score fp32", 90): Budget(255, 33, 1, 32),
    ("statistics_kernel", "score fp32, softcap", 90): Budget(255, 28, 1, 32),
    ("statistics_kernel", "train bf16", 80): Budget(237, 0, 1, 24),
    ("statistics_kernel", "train bf16", 90): Budget(226, 0, 1, 24),
    ("statistics_kernel", "train bf16", 100): Budget(253, 0, 1, 32),
    ("statistics_kernel", "train bf16, odd vocabulary", 80): Budget(237, 0, 1, 24),
    ("statistics_kernel", "train bf16, odd vocabulary", 90): Budget(254, 0, 1, 24),
    ("statistics_kernel", "train bf16, odd vocabulary", 100): Budget(245, 0, 1, 32),
    ("statistics_kernel", "train bf16, teacher", 80): Budget(255, 342, 1, 48),
    ("statistics_kernel", "train bf16, teacher", 90): Budget(255, 52, 1, 48),
    ("statistics_kernel", "train bf16, teacher", 100): Budget(255, 204, 1, 64),
    ("statistics_kernel", "train fp32", 90): Budget(255, 13, 1, 32),
    ("statistics_kernel", "train fp32, odd vocabulary", 90): Budget(255, 19, 1, 32),
    ("statistics_kernel", "train fp32, teacher", 90): Budget(255, 672, 1, 56),
}


def over_budget(key: tuple[str, str, int], report: dict[str, Any]) -> list[str]:
    """A line for each number of a kernel's report that its budget does not allow."""
    return [
        f"{key}: {name} {report[name]}, budget {limit}"
        for name, limit in BUDGETS[key]._asdict().items()
        if (report[name] > limit if name in ("registers", "spills") else report[name] < limit)
    ]
