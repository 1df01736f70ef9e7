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


# Tiles that descriptors copy pass no thread: what is wide there are stores alone, and none of K1's. Where registers stop at 255
# only spills tell. A width that 8 does not divide has neither descriptors nor copies in the background: no model has one.
# Three spill a little: float32's K2, for the sake of a second program; scores with entropy and softcap, which no product asks
# for but Gemma 2; and K1 on consumers' Blackwell.
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
    ("gradient_kernel", "train bf16", 90): Budget(128, 0, 2, 8),
    ("gradient_kernel", "train bf16", 100): Budget(128, 0, 2, 8),
    ("gradient_kernel", "train bf16", 120): Budget(174, 0, 1, 32),
    ("gradient_kernel", "train bf16, kept", 80): Budget(208, 0, 1, 8),
    ("gradient_kernel", "train bf16, kept", 90): Budget(128, 0, 2, 8),
    ("gradient_kernel", "train bf16, kept", 100): Budget(128, 0, 2, 8),
    ("gradient_kernel", "train bf16, odd vocabulary", 90): Budget(120, 0, 2, 0),
    ("gradient_kernel", "train bf16, odd width", 90): Budget(255, 0, 1, 8),
    ("gradient_kernel", "train bf16, teacher", 80): Budget(178, 0, 1, 40),
    ("gradient_kernel", "train bf16, teacher", 90): Budget(128, 0, 2, 40),
    ("gradient_kernel", "train bf16, teacher", 100): Budget(127, 0, 2, 52),
    ("gradient_kernel", "train bf16, teacher", 120): Budget(176, 0, 1, 40),
    ("gradient_kernel", "train bf16, z_loss", 90): Budget(128, 0, 2, 8),
    ("gradient_kernel", "train fp32", 90): Budget(128, 5, 2, 26),
    ("gradient_kernel", "train fp32, kept", 90): Budget(128, 5, 2, 6),
    ("gradient_kernel", "train fp32, odd vocabulary", 90): Budget(128, 4, 2, 18),
    ("gradient_kernel", "train fp32, teacher", 90): Budget(226, 0, 1, 58),
    ("gradient_kernel", "train fp32, z_loss", 90): Budget(128, 5, 2, 26),
    ("statistics_kernel", "score bf16", 80): Budget(253, 0, 1, 32),
    ("statistics_kernel", "score bf16", 90): Budget(255, 0, 1, 0),
    ("statistics_kernel", "score bf16", 100): Budget(86, 0, 1, 0),
    ("statistics_kernel", "score bf16, softcap", 90): Budget(255, 18, 1, 0),
    ("statistics_kernel", "score fp32", 90): Budget(197, 0, 1, 24),
    ("statistics_kernel", "score fp32, softcap", 90): Budget(197, 0, 1, 24),
    ("statistics_kernel", "train bf16", 80): Budget(231, 0, 1, 32),
    ("statistics_kernel", "train bf16", 90): Budget(255, 0, 1, 0),
    ("statistics_kernel", "train bf16", 100): Budget(76, 0, 1, 0),
    ("statistics_kernel", "train bf16", 120): Budget(255, 7, 1, 32),
    ("statistics_kernel", "train bf16, kept", 80): Budget(235, 0, 1, 40),
    ("statistics_kernel", "train bf16, kept", 90): Budget(189, 0, 1, 8),
    ("statistics_kernel", "train bf16, kept", 100): Budget(142, 0, 1, 8),
    ("statistics_kernel", "train bf16, odd vocabulary", 90): Budget(186, 0, 1, 0),
    ("statistics_kernel", "train bf16, odd width", 90): Budget(255, 0, 1, 0),
    ("statistics_kernel", "train bf16, teacher", 80): Budget(218, 0, 1, 48),
    ("statistics_kernel", "train bf16, teacher", 90): Budget(232, 0, 1, 0),
    ("statistics_kernel", "train bf16, teacher", 100): Budget(238, 0, 1, 0),
    ("statistics_kernel", "train bf16, teacher", 120): Budget(242, 0, 1, 48),
    ("statistics_kernel", "train fp32", 90): Budget(195, 0, 1, 24),
    ("statistics_kernel", "train fp32, kept", 90): Budget(153, 0, 1, 20),
    ("statistics_kernel", "train fp32, odd vocabulary", 90): Budget(195, 0, 1, 24),
    ("statistics_kernel", "train fp32, teacher", 90): Budget(166, 0, 1, 34),
}


def over_budget(key: tuple[str, str, int], report: dict[str, Any]) -> list[str]:
    """A line for each number of a kernel's report that its budget does not allow."""
    return [
        f"{key}: {name} {report[name]}, budget {limit}"
        for name, limit in BUDGETS[key]._asdict().items()
        if (report[name] > limit if name in ("registers", "spills") else report[name] < limit)
    ]
