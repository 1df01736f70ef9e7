"""Which linear layers an adapter is beside, how many parameters it has, and where it is stored (no import of torch)."""

from perdure.pipeline.model.families import FAMILIES
from perdure.pipeline.model.parameters import ParamRule
from perdure.pipeline.model.shape import Shape, dimensions
from perdure.pipeline.recipe import LoRA

ADAPTER_WEIGHTS = "adapter_model.safetensors"
"""The file of a version's `adapter/` in which `peft` looks for A and B."""


def module_of(tensor: str) -> str:
    """The last part of a Hugging Face module's name, by its weight's: `self_attn.q_proj.weight` gives `q_proj`."""
    return tensor.split(".")[-2]


def adapted(rule: ParamRule, adapter: LoRA) -> tuple[str, ...]:
    """Hugging Face tensors of a parameter that have an adapter, in the order in which they join."""
    return tuple(
        name for name, size in rule.tensors.items() if len(size) == 2 and module_of(name) in adapter.targets
    )


def adapter_parameters(shape: Shape, adapter: LoRA, tensor_parallel: int = 1) -> int:
    """Numbers in the matrices A and B of a layer that one tensor-parallel rank holds: r (in + out) a module where it holds all.

    Of a layer that is split by columns a rank holds its rows of B, of one that is split by rows its columns of A.
    """
    widths, found = dimensions(shape, 0), 0
    for rule in FAMILIES[shape.family].layer:
        for name in adapted(rule, adapter):
            rows, columns = (widths[width] for width in rule.tensors[name])
            if rule.split == "column":
                rows //= tensor_parallel
            else:
                columns //= tensor_parallel
            found += adapter.rank * (rows + columns)
    return found
