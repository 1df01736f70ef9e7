"""What CUDA, cuBLAS, NCCL and torch's allocator read once, as they begin: so they stand in a rank's environment before it
imports torch."""

from collections.abc import MutableMapping

SETTINGS = {
    # Megatron overlaps tensor-parallel communication with matrix products by the order of the calls.
    "CUDA_DEVICE_MAX_CONNECTIONS": "1",
    # These two make equal steps equal bit for bit, so that what resumes is what was not interrupted.
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
    "NCCL_ALGO": "^NVLS",
    # How many tokens are selected changes, and sizes of allocations with it: fixed segments leave gaps that nothing fits.
    "PYTORCH_ALLOC_CONF": "expandable_segments:True",
}
"""By name of the environment variable. NCCL's handling of errors of other ranks needs none: torch turns it on by itself."""
SAME = {"PYTORCH_ALLOC_CONF": "PYTORCH_CUDA_ALLOC_CONF"}
"""Older names, which torch reads as well."""


def add_gpu_settings(environment: MutableMapping[str, str]) -> None:
    """Adds the settings that an environment does not have: a value of the user or the site stays."""
    for name, value in SETTINGS.items():
        if not {name, SAME.get(name, name)} & environment.keys():
            environment[name] = value
