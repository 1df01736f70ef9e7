"""Memory of the host that a pretended GPU reads and writes by itself (pinned, page-locked), and copies under way to it.

A copy with `non_blocking` leaves the host free only if its side is pinned and has no gaps: else torch, or the driver, stages it
in memory of its own while the host waits (`copy_kernel_cuda` in ATen/native/cuda/Copy.cu).
"""

import torch
from torch import Tensor

_STORAGES: dict[int, torch.UntypedStorage] = {}
"""Pinned memory by address. It is never freed, so that no other memory gets its address."""
_FLYING: list[tuple[Tensor, Tensor]] = []
"""Copies to the host that the host has not waited for: where to, and the numbers."""


def install() -> None:
    """Gives tensors of the CPU their methods for pinned memory."""

    def pin_memory(self: Tensor, *_device: object) -> Tensor:
        return self if is_pinned(self) else remember(self.clone())

    Tensor.pin_memory = pin_memory  # type: ignore[method-assign]
    Tensor.is_pinned = lambda self, *_device: is_pinned(self)  # type: ignore[method-assign]


def remember(tensor: Tensor) -> Tensor:
    """The same tensor, whose memory is pinned from here on."""
    storage = tensor.untyped_storage()
    _STORAGES[storage.data_ptr()] = storage
    return tensor


def is_pinned(tensor: Tensor) -> bool:
    """Whether a tensor, or what it is a view of, lies in pinned memory."""
    return not tensor.is_cuda and tensor.untyped_storage().data_ptr() in _STORAGES


def reason_to_wait(direction: str, on_host: Tensor, non_blocking: object) -> str:
    """Why a copy between this tensor of the host and the GPU makes the host wait; empty if it does not."""
    if not non_blocking:
        return direction
    if not is_pinned(on_host):
        return f"{direction}, non_blocking in pageable memory"
    return "" if on_host.is_contiguous() else f"{direction}, non_blocking with gaps in memory"


def fly(target: Tensor, source: Tensor) -> Tensor:
    """The target of a copy to the host that has begun: until the host has waited it holds what no result holds."""
    if target.dtype == torch.bool:
        target.copy_(~source)
    else:
        target.fill_(torch.nan if target.is_floating_point() else torch.iinfo(target.dtype).min)
    _FLYING.append((target, source.detach().clone()))
    return target


def land() -> None:
    """All copies to the host are done."""
    for target, source in _FLYING:
        target.copy_(source)
    _FLYING.clear()
