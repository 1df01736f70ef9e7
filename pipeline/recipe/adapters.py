"""Fields of a version's adapter: low-rank matrices that are trained in place of the weights."""

from typing import Annotated, Any, Literal, get_args

from pydantic import BeforeValidator, Field

from perdure.pipeline.recipe.section import Name, Section, Single

Projection = Literal["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
"""The linear layers of a transformer layer, as Hugging Face names them."""
PROJECTIONS: tuple[Projection, ...] = get_args(Projection)


def _all_linear(value: Any) -> Any:
    return PROJECTIONS if value == "all_linear" else value


class LoRA(Section):
    """Trains two small matrices A and B beside every linear layer, and nothing else (LoRA, Hu et al. 2021, arXiv 2106.09685).

    The layer's weight W acts as W + (alpha / rank) B A. A starts random (Kaiming-uniform), B as 0, so that training begins at
    the parent. Frozen weights have no gradients and no optimizer states. At the end of the version B A is added in fp32 and
    rounded once: the export in `hf/` is an ordinary model, `eval.json` is of that model, and `adapter/` holds A and B for
    `peft`. In continual pre-training LoRA forgets less and learns less than training all weights (Biderman et al. 2024, arXiv
    2405.09673); its learning rates are about ten times as high.
    """

    type: Literal["lora"]
    rank: Annotated[int, Field(ge=0, le=1 << 24)]
    """Rows of A and columns of B. 0 is no adapter: the plain update, which trains all weights."""
    alpha: Single
    """Scale of the product: B A counts alpha / rank times. Often twice the rank."""
    targets: Annotated[tuple[Projection, ...], Field(min_length=1), BeforeValidator(_all_linear)] = (
        PROJECTIONS
    )
    """Linear layers with an adapter: some by name, or `all_linear`, all seven of a transformer layer. Embeddings, norms, biases
    and the output layer stay frozen."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout before A. It must be 0: random masks would depend on the layout of ranks."""
    orthogonal_weight: Annotated[float, Field(ge=0, le=1e30)] = 0.5
    """Weight of the penalty of `orthogonal_to`, beside the mean loss of a token; 0 is plain LoRA."""
    orthogonal_to: tuple[Name, ...] = ()
    """Earlier versions with an adapter, whose rows of A this one's should stay orthogonal to (O-LoRA, Wang et al. 2023, arXiv
    2310.14152). The penalty of a linear layer is `orthogonal_weight` times the sum of |A_old A^T| over all pairs of rows, as in
    the authors' code; their paper squares instead. Its gradient joins that of the loss before clipping."""

    @property
    def scale(self) -> float:
        """What B A is multiplied with."""
        return self.alpha / self.rank
