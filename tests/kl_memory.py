"""Peak memory of the loss with a KL: `python kl_memory.py TOKENS VOCABULARY` prints bytes, KL of all tokens and of one in ten.

Inputs are not counted, gradients are.
"""

import sys

import torch

from perdure.kernels import selective_linear_cross_entropy
from perdure.kernels.bench_measure import peak_memory

WIDTH = 16


def peak(tokens: int, vocab: int, every: int) -> int:
    """Bytes at the peak of one forward and backward pass by `chunked`, with the KL of every so many tokens."""
    generator = torch.Generator().manual_seed(0)
    hidden, teacher_hidden = torch.randn(2, 1, tokens, WIDTH, generator=generator)
    weight, teacher_weight = torch.randn(2, vocab, WIDTH, generator=generator)
    hidden.requires_grad_()
    weight.requires_grad_()
    kl_weight = (torch.arange(tokens) % every == 0).float()[None]
    used = peak_memory(torch.device("cpu"))
    before = next(used)
    selective_linear_cross_entropy(
        hidden,
        weight,
        torch.zeros(1, tokens, dtype=torch.long),
        valid=torch.ones(1, tokens, dtype=torch.bool),
        teacher_hidden=teacher_hidden,
        teacher_weight=teacher_weight,
        kl_weight=kl_weight,
        vocab_size=vocab,
        impl="chunked",
    ).loss.sum().backward()
    return next(used) - before


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(*(peak(*map(int, sys.argv[1:]), every) for every in (1, 10)))
