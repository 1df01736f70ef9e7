"""What Megatron imports for recomputation and random states; nothing of it is called."""


class CudaRNGStatesTracker:
    """Random states by name."""


def activation_recompute_forward(*_args, **_kwargs):
    """Marks a recomputation."""
    raise AssertionError("not called")


def is_fp8_activation_recompute_enabled():
    """Whether a recomputation is to come."""
    return False
