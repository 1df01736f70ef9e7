"""Layout: how a model and its batches are spread over ranks (no import of torch)."""

from dataclasses import dataclass, replace
from typing import NamedTuple

from perdure.pipeline.model.shape import Shape
from perdure.pipeline.recipe import Recipe, Training


class Coordinates(NamedTuple):
    """Place of a rank in its tensor-parallel, pipeline and data-parallel group."""

    tensor: int
    pipeline: int
    data: int


@dataclass(frozen=True)
class Layout:
    """Sizes of the groups that ranks form.

    Attributes:
        tensor: Ranks that share every matrix.
        pipeline: Pipeline stages.
        data: Replicas, which share the batch.
        sequence_parallel: Whether tensor-parallel ranks share the sequence between the matrices.
    """

    tensor: int = 1
    pipeline: int = 1
    data: int = 1
    sequence_parallel: bool = False

    @property
    def world_size(self) -> int:
        """Number of ranks."""
        return self.replica_size * self.data

    @property
    def replica_size(self) -> int:
        """Ranks that hold one copy of the model."""
        return self.tensor * self.pipeline

    @property
    def sequence(self) -> int:
        """Ranks that share the sequence between the matrices."""
        return self.tensor if self.sequence_parallel else 1

    def coordinates(self, rank: int) -> Coordinates:
        """Coordinates of a rank in Megatron's default order: tensor fastest, then data, then pipeline."""
        rest, tensor = divmod(rank, self.tensor)
        pipeline, data = divmod(rest, self.data)
        return Coordinates(tensor, pipeline, data)

    def samples_at_a_time(self, micro_batch_size: int) -> int:
        """Samples of one micro-batch on all replicas; divides the global batch size."""
        return micro_batch_size * self.data

    def micro_batches(self, training: Training) -> int:
        """Micro-batches of a replica in one step."""
        return training.global_batch_size // self.samples_at_a_time(training.micro_batch_size)

    def first_sample(self, number: int, replica: int, micro_batch_size: int) -> int:
        """First sample of a replica's micro-batch `number`, counted from the first sample of the step.

        Micro-batches are runs of consecutive samples under every layout, so that the same tokens compete in selection.
        """
        return (number * self.data + replica) * micro_batch_size

    def undivided(self, shape: Shape) -> dict[str, int]:
        """Sizes of a model, by their names in `Shape`, that tensor parallelism must divide and does not."""
        return {name: size for name, size in tensor_parallel_sizes(shape).items() if size % self.tensor}

    def filling(self, ranks: int) -> "Layout | None":
        """The layout with as many replicas as fill some ranks; None if they are no multiple of a replica's."""
        return None if ranks % self.replica_size else replace(self, data=ranks // self.replica_size)

    def within(self, ranks: int) -> "Layout":
        """The layout on at most some ranks: each size becomes its largest divisor that fits, tensor parallelism first."""
        sizes = {}
        for name in ("tensor", "pipeline", "data"):
            size = getattr(self, name)
            sizes[name] = max(divisor for divisor in range(1, min(size, ranks) + 1) if size % divisor == 0)
            ranks //= sizes[name]
        return Layout(**sizes, sequence_parallel=self.sequence_parallel and sizes["tensor"] > 1)


def layout_of(recipe: Recipe) -> Layout:
    """The layout that a recipe asks for."""
    parallel = recipe.parallel
    return Layout(
        parallel.tensor_parallel,
        parallel.pipeline_parallel,
        parallel.data_parallel,
        parallel.sequence_parallel,
    )


def with_layout(recipe: Recipe, layout: Layout) -> Recipe:
    """A recipe under another layout."""
    sizes = {
        "tensor_parallel": layout.tensor,
        "pipeline_parallel": layout.pipeline,
        "data_parallel": layout.data,
        "sequence_parallel": layout.sequence_parallel,
    }
    return recipe.model_copy(update={"parallel": recipe.parallel.model_copy(update=sizes)})


def tensor_parallel_sizes(shape: Shape) -> dict[str, int]:
    """Sizes of a model that tensor parallelism must divide, by their names in `Shape`; the padded vocabulary is another."""
    return {
        "num_attention_heads": shape.num_attention_heads,
        "num_query_groups": shape.num_query_groups,
        "ffn_hidden_size": shape.ffn_hidden_size,
    }
