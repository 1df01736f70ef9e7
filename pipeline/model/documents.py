"""Where the documents of a micro-batch lie, for attention that stays inside them."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from perdure.pipeline.core.sending import sent


@dataclass(frozen=True, eq=False)
class Documents:
    """The documents packed into a micro-batch, row after row.

    Attributes:
        lengths: Tokens of each, in order; they add up to all tokens.
        ends: int32 [documents + 1] on the device: 0, and where each ends.
    """

    lengths: tuple[int, ...]
    ends: Tensor


def documents_of(lengths: Iterable[int], device: torch.device) -> Documents:
    """Documents of these lengths; where they end is computed here, on the host, and sent once."""
    lengths = tuple(lengths)
    ends = np.cumsum((0, *lengths), dtype=np.int32)
    return Documents(lengths, sent(torch.from_numpy(ends), device))
