"""Fields of a version's anchor: what holds it near the weights that it starts from, its parent's."""

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from perdure.pipeline.recipe.section import Name, Positive, Section

Strength = Annotated[float, Field(ge=0, le=1e30)]
"""Of a penalty; 0 is none."""


class L2Anchor(Section):
    """Pulls every weight towards the parent's (L2-SP, Li et al. 2018, arXiv 1802.01483), decoupled as AdamW's decay is.

    After AdamW's update with learning rate lr: w -= lr * strength * (w - w0). The pull is not rescaled by AdamW's second
    moments, as that of a penalty inside the loss would be. All weights are pulled, norms and biases too, as in L2-SP; AdamW's
    own `weight_decay` goes on. w0 is what this version itself starts from, in fp32: with `moments: reset` the parent's export,
    at its precision; with `moments: keep` and in a branch the parent's fp32 weights. Each version has its own parent for an
    anchor, so a chain of versions is the "online L2" of Lifelong-MoE (arXiv 2305.12281).
    """

    type: Literal["l2"]
    strength: Strength
    """Per unit of learning rate; times the highest learning rate it should be at most 1, or a step would overshoot. 0 is no
    anchor."""


class FisherExamples(Section):
    """The Fisher information, estimated before the first step."""

    examples: Positive
    """Number of samples of `training.seq_length` tokens, spread evenly over the source's training documents."""
    source: str
    """Name of the source that they are of: old data, whose loss should stay as it is."""


def _kind_of_estimate(value: Any) -> str | None:
    if value == "moments":
        return "moments"
    return "samples" if isinstance(value, dict | FisherExamples) else None


class FisherAnchor(Section):
    """Elastic weight consolidation (EWC, Kirkpatrick et al. 2017, arXiv 1612.00796): pulls the weights that mattered most.

    The penalty strength/2 * sum F (w - w0)^2 adds strength * F (w - w0) to the gradient, in fp32, after reduction and clipping,
    so that it does not eat the clip's budget, and before AdamW. w0 is as for `l2`; F is the diagonal of the empirical Fisher
    information of the parent.
    """

    type: Literal["fisher"]
    strength: Strength
    """Of the penalty; 0 is no anchor. Sliogeris et al. 2025 (arXiv 2505.05946) found 1e2 to 1e11 usable for a model of 2B
    parameters, with per-example gradients. What is right goes with the unit of F, see `estimate`."""
    estimate: Annotated[
        Annotated[Literal["moments"], Tag("moments")] | Annotated[FisherExamples, Tag("samples")],
        Discriminator(
            _kind_of_estimate,
            custom_error_type="estimate",
            custom_error_message="should be moments, or {examples: N, source: NAME}",
        ),
    ] = "moments"
    """How F is found. `moments`: AdamW's second moments of the parent's last checkpoint, exp_avg_sq / (1 - adam_beta2^t) after
    t updates (as in 2507.18807). They are free, but of gradients of batch means, clipped ones: near a minimum they are about
    `training.global_batch_size` times smaller than those of single samples, so `strength` has to be as many times larger.
    `{examples: 2000, source: prose}`: the mean over samples of the squared gradient of a sample's mean loss."""


class KLAnchor(Section):
    """Keeps predictions near those of a frozen teacher: a token's loss gains weight * KL(teacher || model), over the whole
    vocabulary at temperature 1 (learning without forgetting, Li and Hoiem 2016, arXiv 1606.09282).

    The teacher is the model that the version starts from, at the precision of training, so that the divergence is 0
    at the first step. It stays in memory beside the model, without gradients or optimizer states, and runs forward on the
    micro-batches that hold a token of `on`. The summed loss is divided by the number of trained tokens as without an anchor.
    """

    type: Literal["kl"]
    on: Literal["all", "replayed"]
    """Tokens whose divergence counts: `all` that are read, those too that a selection leaves out; or the `replayed` ones alone,
    so that new data trains as without an anchor."""
    weight: Annotated[float, Field(ge=0, le=1e30)] = 1.0
    """Of the divergence, in nats, beside the cross entropy; 0 is no anchor at all: no teacher is loaded."""
    instead_of_loss: bool = False
    """With `on: replayed`: replayed tokens have the divergence in place of their cross entropy (the mixture of losses MoL,
    arXiv 2505.12043)."""
    model: Name | None = None
    """An earlier version that is the teacher instead; the divergence is then not 0 at the first step."""


Anchor = Annotated[L2Anchor | FisherAnchor | KLAnchor, Field(discriminator="type")]


def anchor_source(anchor: Anchor | None) -> str | None:
    """The source whose samples estimate an anchor's Fisher information; None if nothing is estimated from samples."""
    if isinstance(anchor, FisherAnchor) and isinstance(anchor.estimate, FisherExamples):
        return anchor.estimate.source
    return None
