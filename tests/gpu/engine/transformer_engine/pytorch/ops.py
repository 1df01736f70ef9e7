"""Operations that can be fused; none is made."""


class Sequential:
    """Several in a row."""


class FusibleOperation:
    """One of them."""
