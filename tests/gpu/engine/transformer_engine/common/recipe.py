"""Recipes of FP8."""

from dataclasses import dataclass
from enum import Enum


class Format(Enum):
    """Forward and backward formats."""

    E4M3 = "e4m3"
    HYBRID = "hybrid"


@dataclass
class Recipe:
    """What all recipes answer."""

    fp8_format: Format = Format.HYBRID


@dataclass
class DelayedScaling(Recipe):
    """Scales from a history of largest values."""

    margin: int = 0
    amax_history_len: int = 1024
    amax_compute_algo: str = "max"
    override_linear_precision: tuple = (False, False, False)
    fp8_dpa: bool = False
    fp8_mha: bool = False
    params_dtype: object = None
    device: object = None


@dataclass
class Float8CurrentScaling(Recipe):
    """Scales of the tensor itself."""

    fp8_dpa: bool = False


@dataclass
class MXFP8BlockScaling(Recipe):
    """Scales of 32 numbers each."""


@dataclass
class Float8BlockScaling(Recipe):
    """Scales of blocks."""
