"""Fields of where training is told, besides `metrics.jsonl`, TensorBoard and the console."""

from typing import Literal

from perdure.pipeline.recipe.section import Section


class WeightsAndBiases(Section):
    """Every scalar of TensorBoard in Weights & Biases, a run a version; needs `perdure[wandb]`.

    A version that goes on after an interruption goes on in its run.
    """

    project: str
    """The project (Megatron's `--wandb-project`)."""
    entity: str | None = None
    """The user or team that it belongs to; default: the account's own."""
    mode: Literal["online", "offline"] | None = None
    """`offline` writes below the version's directory alone, for `wandb sync` later. Default: what `WANDB_MODE` says, else
    online, which needs `wandb login` or `WANDB_API_KEY` where the ranks run."""


class Logging(Section):
    """Where training is told; it changes nothing of what is trained."""

    wandb: WeightsAndBiases | None = None
    """Weights & Biases; default: not at all."""
