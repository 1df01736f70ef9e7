"""Copies between the host and a GPU while both go on with their work."""

from collections.abc import Callable

import torch
from torch import Tensor


def sent(host: Tensor, device: torch.device) -> Tensor:
    """A tensor of the host on a device; whoever calls does not wait for the copy.

    A GPU copies by itself from pinned memory alone, and only what has no gaps; otherwise the host waits while it is staged. The
    copy stands in the current stream before whatever is asked of the GPU next. The pinned memory needs no keeping: torch's
    allocator hands it out again only once the copies that it was used for are done (`record_event` in ATen's
    CachingHostAllocator.h, called by `copy_kernel_cuda` in Copy.cu).

    Args:
        host: On a device that is the CPU it is returned itself.
        device: Where to.
    """
    if device.type == "cpu":
        return host
    return host.contiguous().pin_memory().to(device, non_blocking=True)


def received(found: Tensor) -> Callable[[], Tensor]:
    """Begins to copy a tensor to the host.

    Returns:
        What waits for the copy and returns it; called after more was asked of the GPU, it does not wait for that. On the CPU it
        returns the tensor itself.
    """
    if found.device.type == "cpu":
        return lambda: found
    host = found.to("cpu", non_blocking=True)  # into pinned memory (`_to_copy` in TensorConversions.cpp)
    copied = torch.cuda.Event()
    copied.record(
        torch.cuda.current_stream(found.device)
    )  # by default that of the process's current GPU, perhaps another one

    def wait() -> Tensor:
        copied.synchronize()
        return host

    return wait
