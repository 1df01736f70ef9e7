"""Selective-token loss and other fused operations, each beside its torch reference. See README.md."""

from perdure.kernels.nll import linear_nll
from perdure.kernels.rope import rotary
from perdure.kernels.select import (
    Scope,
    excess_loss,
    excess_threshold,
    radix_threshold,
    select_by_threshold,
    select_tokens,
)
from perdure.kernels.selective import Impl, SelectiveLoss, selective_linear_cross_entropy
from perdure.kernels.swiglu import swiglu

__all__ = [
    "Impl",
    "Scope",
    "SelectiveLoss",
    "excess_loss",
    "excess_threshold",
    "linear_nll",
    "radix_threshold",
    "rotary",
    "select_by_threshold",
    "select_tokens",
    "selective_linear_cross_entropy",
    "swiglu",
]
