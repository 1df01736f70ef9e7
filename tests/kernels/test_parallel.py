"""Softmax statistics of parts of a vocabulary, joined: losses and entropies are those of the whole."""

import pytest
import torch

from perdure.kernels.kl import divergence
from perdure.kernels.parallel import merge, shard_columns


def statistics(logits: torch.Tensor, labels: torch.Tensor, first: int) -> torch.Tensor:
    """What `merge` takes of a part that begins at column `first`, by its definition."""
    if not logits.shape[1]:
        return torch.stack([torch.full((len(logits),), -torch.inf), *torch.zeros(3, len(logits))])
    maximum = logits.amax(1)
    own = (labels >= first) & (labels < first + logits.shape[1])
    target = logits.gather(1, (labels - first).clamp(0, logits.shape[1] - 1)[:, None])[:, 0]
    shifted = logits - maximum[:, None]
    moment = (shifted * shifted.exp()).sum(1)
    return torch.stack([maximum, shifted.exp().sum(1), torch.where(own, target, 0.0), moment])


@pytest.mark.parametrize("scale", [0.1, 3.0, 30.0])
@pytest.mark.parametrize("ends", [(50,), (10, 50), (1, 2, 3, 50), (25, 25, 50)])
def test_parts_give_the_losses_and_entropies_of_the_whole(scale, ends):
    generator = torch.Generator().manual_seed(0)
    logits, labels = scale * torch.randn(40, 50, generator=generator), torch.arange(40) % 50
    begins = (0, *ends[:-1])
    parts = [statistics(logits[:, b:e], labels, b) for b, e in zip(begins, ends, strict=True)]
    maximum, total, target, moment = merge(torch.stack(parts))
    exact = logits.double()
    log_probs = torch.log_softmax(exact, 1)
    nll, entropy = -log_probs.gather(1, labels[:, None])[:, 0], -(log_probs.exp() * log_probs).sum(1)
    torch.testing.assert_close((total.log() - (target - maximum)).double(), nll, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close((total.log() - moment / total).double(), entropy, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("ends", [(50,), (10, 10, 50), (1, 2, 3, 50)])
def test_parts_give_the_kl_of_the_whole(ends):
    """The second part may be empty, as a shard of padding is."""
    generator = torch.Generator().manual_seed(0)
    ours, theirs = 3 * torch.randn(2, 40, 50, generator=generator)
    parts = []
    for begin, end in zip((0, *ends[:-1]), ends, strict=True):
        own, other = ours[:, begin:end], theirs[:, begin:end]
        of_teacher = statistics(other, torch.zeros(40).long(), 99)[:2]
        moment = ((other - own) * (other - of_teacher[0][:, None]).exp()).sum(1)
        parts.append(torch.cat([statistics(own, torch.zeros(40).long(), 99), of_teacher, moment[None]]))
    kl, kept = divergence(merge(torch.stack(parts)))
    student, teacher = ours.double().log_softmax(1), theirs.double().log_softmax(1)
    torch.testing.assert_close(
        kl.double(), (teacher.exp() * (teacher - student)).sum(1), rtol=1e-5, atol=1e-5
    )
    torch.testing.assert_close(kept[0], ours.amax(1), rtol=0, atol=0)
    torch.testing.assert_close(
        (kept[2] + kept[3]).double(), theirs.double().logsumexp(1), rtol=1e-6, atol=1e-6
    )


@pytest.mark.parametrize(("vocab_size", "columns"), [(64, 64), (60, 60), (1, 1), (0, 0), (99, 64)])
def test_rows_behind_the_vocabulary_are_padding(vocab_size, columns):
    assert shard_columns(torch.empty(64, 2), vocab_size, None) == (0, columns)
