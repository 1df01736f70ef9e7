"""Selective-token loss: each operation beside its torch reference."""
