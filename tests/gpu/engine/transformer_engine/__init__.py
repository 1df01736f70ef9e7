"""A stand-in for Transformer Engine: what Megatron-core imports of it, by torch, with the real names and signatures.

It says nothing of Transformer Engine's own numbers or speed: it shows which of its modules are called, and with what.
"""

from transformer_engine import common, pytorch

__version__ = "2.6.0"
__all__ = ["common", "pytorch"]
