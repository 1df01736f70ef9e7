"""Memory of the host that tensors take, beside a pretended GPU."""

import weakref

from gpu.tensor import CudaTensor
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class HostMemory(TorchDispatchMode):
    """Counts the bytes of the CPU's tensors that operations inside have made and that are alive.

    Attributes:
        peak: Most bytes at a time.
    """

    def __init__(self):
        super().__init__()
        self.sizes: dict[int, int] = {}
        self.peak = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                # What holds the numbers of a tensor of the GPU may be seen by itself, later.
                on_gpu = isinstance(leaf, CudaTensor)
                storage = (leaf.inner if on_gpu else leaf).untyped_storage()
                if (
                    storage.data_ptr() not in self.sizes
                ):  # one object of Python's, as long as the memory is there
                    self.sizes[storage.data_ptr()] = 0 if on_gpu else storage.nbytes()
                    weakref.finalize(storage, self.sizes.pop, storage.data_ptr())
        self.peak = max(self.peak, sum(self.sizes.values()))
        return result
