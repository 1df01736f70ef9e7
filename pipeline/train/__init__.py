"""The trainer: Megatron-core on CUDA (NCCL) or CPU (gloo)."""
