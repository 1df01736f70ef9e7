"""Reading Megatron's `.bin`/`.idx` shards with numpy alone, for the parts that must not import Megatron.

A shard is a flat array of tokens (or of reference losses: the sidecar `.ref` has the same layout) and an index of
sequence lengths; here one sequence is one document. Layout: `megatron/core/datasets/indexed_dataset.py`.
"""

import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from perdure.pipeline.core.errors import PerdureError

HEADER = b"MMIDIDX\x00\x00"
DTYPES = {
    1: np.uint8,
    2: np.int8,
    3: np.int16,
    4: np.int32,
    5: np.int64,
    6: np.float64,
    7: np.float32,
    8: np.uint16,
}

REF_NATS_PER_UNIT = 1e-3
"""Sidecars hold milli-nats in uint16."""
REF_MAX_UNITS = 65534
"""Largest stored loss; larger ones are clipped."""
NO_LABEL, LABEL, LAST_LABEL, PREFIX, REJECTED_LABEL, REJECTED = 0, 1, 2, 3, 4, 5
"""Values of a label mask (`.mask`, uint8, a value a token): the token is read and not trained on; is trained on; the same, in a
conversation's last assistant turn; belongs to the prefix of a document, which can be left out, and is not trained on. A pair of
answers is a document of two halves, each with the prompt before it and a separator behind: after the chosen one's, which has
the values above, tokens of the rejected answer, and others of its half."""
REF_MISSING = 65535
"""Stored where the reference gave no finite loss; such tokens are never selected."""


def are_labels(mask: np.ndarray) -> np.ndarray:
    """Which tokens of a label mask count, bool; of pairs those of the chosen answers."""
    return (mask == LABEL) | (mask == LAST_LABEL)


def label_sides(mask: np.ndarray, last_turn: bool = False) -> np.ndarray:
    """Which tokens of a label mask are trained on, int8: 1, those of rejected answers -1, all others 0.

    Args:
        mask: uint8 [tokens].
        last_turn: Whether only the last turn counts.
    """
    labels = mask == LAST_LABEL if last_turn else are_labels(mask)
    return labels.astype(np.int8) - (mask == REJECTED_LABEL)


def second_half(mask: np.ndarray) -> int:
    """Where in a pair's label mask its rejected half begins; 0 in a mask of no pair."""
    return int(np.argmax(mask >= REJECTED_LABEL)) if len(mask) else 0


@dataclass(frozen=True)
class Shard:
    """One memory-mapped shard.

    Attributes:
        values: All tokens (or losses), flat, in document order.
        lengths: int32 [num_documents], tokens per document.
        pointers: int64 [num_documents], byte offset of each document in the `.bin`.
    """

    values: np.ndarray
    lengths: np.ndarray
    pointers: np.ndarray

    def start(self, document: int) -> int:
        """Where a document begins in `values`."""
        return int(self.pointers[document]) // self.values.itemsize


def open_shard(prefix: Path) -> Shard:
    """Maps `<prefix>.bin` and `<prefix>.idx`; nothing is read but the header.

    Raises:
        PerdureError: If a file is missing, is no Megatron index, or is shorter than the index says.
    """
    index_path, data_path = Path(f"{prefix}.idx"), Path(f"{prefix}.bin")
    try:
        with index_path.open("rb") as file:
            head = file.read(34)
        size = data_path.stat().st_size
    except FileNotFoundError as error:
        raise PerdureError(
            f"{error.filename}: shard file missing; delete {prefix.parent} and run the data stage again"
        ) from None
    if len(head) < 34 or head[:9] != HEADER:
        raise PerdureError(
            f"{index_path}: not a Megatron index; delete {prefix.parent} and run the data stage again"
        )
    _version, code, num_sequences, num_documents = struct.unpack("<QBQQ", head[9:])
    if code not in DTYPES:
        raise PerdureError(f"{index_path}: damaged; delete {prefix.parent} and run the data stage again")
    dtype = np.dtype(DTYPES[code])
    expected = 34 + num_sequences * 12 + num_documents * 8
    if index_path.stat().st_size < expected:
        raise PerdureError(
            f"{index_path}: truncated ({index_path.stat().st_size} of {expected} bytes); "
            f"delete {prefix.parent} and run the data stage again"
        )
    if num_sequences == 0:
        return Shard(np.empty(0, dtype), np.empty(0, np.int32), np.empty(0, np.int64))
    # One map, since each holds a descriptor for as long as it lives.
    index = np.memmap(index_path, np.uint8, "r", shape=(34 + 12 * num_sequences,))
    lengths = index[34 : 34 + 4 * num_sequences].view(np.int32)
    pointers = index[34 + 4 * num_sequences :].view(np.int64)
    expected = int(pointers[-1]) + int(lengths[-1]) * dtype.itemsize
    if size != expected:
        raise PerdureError(
            f"{data_path}: truncated ({size} of {expected} bytes); "
            f"delete {prefix.parent} and run the data stage again"
        )
    values = np.memmap(data_path, dtype, "r") if size else np.empty(0, dtype)
    return Shard(values, lengths, pointers)
