"""Small recipes that the pretended GPU trains: every option of the trainer and every kind of layout."""

from pathlib import Path

from tiny import prepare_version, tiny_recipe

SMALL = {
    "model__num_layers": 2,
    "training__precision": "bf16",
    "training__seq_length": 16,
    "training__global_batch_size": 4,
    "evaluation__max_tokens": 40,
}
UNTIED = {"model__tie_embeddings": False}
TENSORS = {"parallel__tensor_parallel": 2}
STAGES = {"parallel__pipeline_parallel": 2}
REPLICAS = {"parallel__data_parallel": 2}
SEQUENCE = TENSORS | {"parallel__sequence_parallel": True}
OVERLAP = {"parallel__overlap_grad_reduce": True, "parallel__overlap_param_gather": True}
SHARDED = REPLICAS | {"parallel__distributed_optimizer": True}


def selection(scope: str) -> dict:
    """Changes of a recipe that select 60% of the tokens."""
    return {"versions__v1__selection": {"k": 0.6, "scope": scope}}


OPTIONS: dict[str, dict] = {
    "plain": {},
    "fp32": {"training__precision": "fp32"},
    "documents": {"training__document_mask": True},
    "documents fp32": {"training__document_mask": True, "training__precision": "fp32"},
    "recompute": {"parallel__recompute": "selective", "training__document_mask": True},
    "untied": UNTIED,
    "z_loss": {"training__z_loss": 0.001},
    "chunked": {"training__loss_implementation": "chunked"},
    "sequence": selection("sequence"),
    "microbatch": selection("microbatch"),
    "global fp32": selection("global") | {"training__precision": "fp32"},
    "global_lagged": selection("global_lagged"),
}
"""On one GPU."""

LAYOUTS: dict[str, dict] = {
    "dp_microbatch": REPLICAS | selection("dp_microbatch"),
    "distributed optimizer": SHARDED | selection("global"),
    "distributed optimizer fp32": SHARDED | {"training__precision": "fp32"},
    "tensors": TENSORS,
    "tensors fp32": TENSORS | selection("global") | {"training__precision": "fp32"},
    "sequence parallel": SEQUENCE | selection("global"),
    "stages tied": STAGES | selection("global_lagged"),
    "stages untied": STAGES | UNTIED,
    "all": SEQUENCE | STAGES | SHARDED | OVERLAP | selection("global") | {"parallel__recompute": "full"},
}
"""On several."""


def prepared(directory: Path, changes: dict) -> tuple[Path, int]:
    """A version to train, and the number of its ranks."""
    recipe = tiny_recipe(directory, **SMALL | changes)
    parallel = recipe.parallel
    ranks = parallel.tensor_parallel * parallel.pipeline_parallel * parallel.data_parallel
    return prepare_version(recipe, scored="versions__v1__selection" in changes), ranks
