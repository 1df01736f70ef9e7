"""Tensors in 8 bits; parameters are none."""

import torch


class QuantizedTensor(torch.Tensor):
    """Base of the formats."""
