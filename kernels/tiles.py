"""Tiles of the loss's kernels: their sizes by device, precision and purpose, and how operands reach them.

Sizes are fixed, not tuned at run time: another tile means another order of summation, and so other bits. The machine code of
each is held to a budget of registers, spills and programs a multiprocessor (`tests/gpu/kernel_budgets.py`).
"""

from typing import Any

import torch
import triton
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from perdure.kernels.inputs import LossInputs

Tile = dict[str, Any]
"""Arguments of a launch by name.

BLOCK_N rows, PARTS * BLOCK_V columns and depth BLOCK_D; TMA: operands are tensor descriptors, which the hardware copies from;
GROUP: blocks of rows that share columns; and Triton's own options.
"""

INTERPRETED: Tile = {"BLOCK_N": 16, "BLOCK_V": 32, "BLOCK_D": 32, "PARTS": 1, "TMA": False, "GROUP": 16}
"""On CPUs, by Triton's interpreter: small, so that tests cross edges."""
GROUP = 16
"""Blocks of rows that go through the vocabulary side by side: they read a block of the weight once, and stay in L2 themselves.

128 rows of width 4096 are 1 MiB in bf16; an A100 has 40 MiB of L2, an H100 50 in two halves.
"""


def statistics_tile(inputs: LossInputs, teacher: LossInputs | None, keep: bool) -> Tile:
    """Tile of K1.

    Args:
        inputs: Of the launch.
        teacher: The same tokens before the teacher's output layer; the tile then exists twice.
        keep: Whether exponentials are kept.
    """
    if not inputs.rows.is_cuda:
        return INTERPRETED
    both = [inputs] if teacher is None else [inputs, teacher]
    tma = all(_by_descriptor(x) for x in both)
    tile = _tile(inputs.rows, teacher is not None) | {"TMA": tma}
    if inputs.rows.element_size() == 4:
        # Products without tensor cores take more registers.
        tile |= {"BLOCK_N": 64, "PARTS": 2 if teacher is None and not keep else 1}
    if tma and teacher is None and not keep:
        return tile | {"PARTS": 4}  # as large as registers allow; writing what is kept takes more of them
    # Registers leave room for one program a multiprocessor, which may as well have all of its shared memory.
    return tile | {"num_stages": 4}


def gradient_tile(inputs: LossInputs, teacher: LossInputs | None, cached: bool) -> Tile:
    """Tile of K2, and of K2' if `cached`: that one has the columns of one part, which share a kept maximum."""
    tile = INTERPRETED
    if inputs.rows.is_cuda:
        # Rows with a KL are gathered, and what was kept is not multiplied.
        tma = teacher is None and not cached and _by_descriptor(inputs)
        tile = _tile(inputs.rows, teacher is not None) | {"TMA": tma}
    return tile | {"PARTS": 1, "TMA": False} if cached else tile


def _tile(rows: Tensor, teacher: bool) -> Tile:
    """Tile on a GPU, before it is known whether its operands have descriptors."""
    half = rows.element_size() == 2
    # float32 has no tensor cores: products take more registers, and operands twice the memory.
    tile = {
        "BLOCK_N": 128 if half and not teacher else 64,
        "BLOCK_V": 64,
        "PARTS": 2,
        "BLOCK_D": 64 if half else 32,
    }
    # Sums of products in one instruction. With a teacher, differences of equal logits have to be 0.
    options: Tile = {"num_warps": 8, "num_stages": 3, "enable_fp_fusion": not teacher}
    return tile | options | {"GROUP": GROUP}


def _by_descriptor(inputs: LossInputs) -> bool:
    """Whether the hardware can copy tiles of these operands, and has the shared memory for large ones: Hopper, Blackwell.

    Consumers' Blackwell (12.x) could copy them too, but has less than 100 KB of shared memory.
    """
    capability, _ = torch.cuda.get_device_capability(inputs.rows.device)
    if inputs.rows.element_size() != 2 or capability not in (9, 10):
        return False
    both = inputs.rows, inputs.weight
    return all(x.numel() and x.data_ptr() % 16 == 0 and 2 * x.stride(0) % 16 == 0 for x in both)


def operands(inputs: LossInputs, tile: Tile) -> tuple[Tensor | TensorDescriptor, Tensor | TensorDescriptor]:
    """Rows and weight as a kernel with this tile takes them."""
    if not tile["TMA"]:
        return inputs.rows, inputs.weight
    columns, depth = tile["PARTS"] * tile["BLOCK_V"], tile["BLOCK_D"]
    return (
        TensorDescriptor.from_tensor(inputs.rows, [tile["BLOCK_N"], depth]),
        TensorDescriptor.from_tensor(inputs.weight, [columns, depth]),
    )


def split_columns(columns: int, rows: int, tile: Tile, programs: int) -> int:
    """Columns of a split of the vocabulary, whole tiles, such that there are `programs` programs where columns suffice."""
    width = tile["PARTS"] * tile["BLOCK_V"]
    tiles, row_blocks = triton.cdiv(columns, width), triton.cdiv(rows, tile["BLOCK_N"])
    return triton.cdiv(tiles, min(tiles, triton.cdiv(programs, row_blocks)) or 1) * width
