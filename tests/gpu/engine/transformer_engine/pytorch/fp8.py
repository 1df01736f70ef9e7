"""The state of FP8: on inside of `fp8_autocast`."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


class FP8GlobalStateManager:
    """What `fp8_autocast` sets; `entered`: how often it was, `group`: ranks that share their largest values."""

    recipe: Any = None
    group: Any = None
    entered = 0

    @classmethod
    def is_fp8_enabled(cls) -> bool:
        """Whether products are of 8 bits now."""
        return cls.recipe is not None

    @classmethod
    def get_fp8_recipe(cls):
        """The recipe of now."""
        return cls.recipe

    @classmethod
    def is_fp8_available(cls) -> tuple[bool, str]:
        """By the GPU."""
        able = torch.cuda.get_device_capability() >= (8, 9)
        return able, "Device compute capability 8.9 or higher required for FP8 execution."

    @classmethod
    def is_mxfp8_available(cls) -> tuple[bool, str]:
        """By the GPU."""
        able = torch.cuda.get_device_capability() >= (10, 0)
        return able, "Device compute capability 10.0 or higher required for MXFP8 execution."


@contextmanager
def fp8_autocast(
    enabled=True, calibrating=False, fp8_recipe=None, fp8_group=None, _graph=False
) -> Iterator[None]:
    """FP8 inside of it, by a recipe."""
    state = FP8GlobalStateManager
    before = state.recipe, state.group
    state.recipe, state.group = (fp8_recipe, fp8_group) if enabled else (None, None)
    state.entered += enabled
    yield
    state.recipe, state.group = before


@contextmanager
def fp8_model_init(enabled=True, recipe=None, preserve_high_precision_init_val=False) -> Iterator[None]:
    """Weights that are kept in 8 bits; never asked for."""
    assert not enabled
    yield
