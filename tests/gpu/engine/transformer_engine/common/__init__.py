"""Parts that no framework has to itself."""

from transformer_engine.common import recipe

__all__ = ["recipe"]
