"""Which samples estimate the Fisher information for an anchor: a pure function of the seed and the source's data."""

from pathlib import Path

import numpy as np

from perdure.pipeline.plan.order import Order, write_order
from perdure.pipeline.plan.permutation import epoch_key, permute
from perdure.pipeline.plan.withdrawn import Documents, blank

NAME = "+fisher"
"""Begins the names of the order's files in a plan; no source's files begin so (`plan.order_files`)."""


def write_fisher_order(directory: Path, data: Path, withdrawn: Documents | None = None) -> None:
    """Writes all training documents of a source as they were read, beside the orders of a plan.

    Args:
        directory: The version's `plan/`.
        data: The source's directory of shards.
        withdrawn: Those that are not to be read; None: all are.
    """
    write_order(Order(data, "given", None, None, 0), *_files(directory))
    if withdrawn is not None:
        blank(_files(directory)[0], withdrawn.numbers)


def open_fisher_order(directory: Path) -> tuple[np.ndarray, np.ndarray]:
    """Memory-maps it: document numbers and stream ends, both int64 [documents]."""
    documents, ends = _files(directory)
    return np.load(documents, mmap_mode="r"), np.load(ends, mmap_mode="r")


def sample_number(index: int, tokens: int, seq_length: int, seed: int) -> int:
    """The place of the estimate's i-th sample among all samples of the source, each of which comes once.

    Args:
        index: 0 for the first; below the number of samples.
        tokens: Training tokens of the source.
        seq_length: Labels per sample; the last sample may have fewer.
        seed: The recipe's.
    """
    return permute(index, -(-tokens // seq_length), epoch_key(seed, NAME, 0))


def _files(directory: Path) -> tuple[Path, Path]:
    return directory / f"{NAME}.documents.npy", directory / f"{NAME}.ends.npy"
