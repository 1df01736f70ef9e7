"""Fields of a place in a mixture: which documents of a source it takes, in which order, and how they are read."""

from typing import Annotated, Literal

from pydantic import Field

from perdure.pipeline.recipe.section import Positive, Section


class LowestPerplexity(Section):
    """The training documents of lowest perplexity under `perplexity_model`: a subset to be seen several times rather
    than everything once (Guo et al. 2024, arXiv 2406.14833). Exactly one of `tokens` and `share` says how many."""

    tokens: Positive | None = None
    """Training tokens to take; how often they repeat follows from the version's budget."""
    share: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Share of the training tokens to take."""


class MixtureSource(Section):
    """The place of a source, or of its part with a language, topic or dates, in a mixture."""

    weight: Annotated[float, Field(gt=0)] = 1.0
    """Relative share among its siblings."""
    order: Literal["shuffled", "easy_to_hard", "hard_to_easy", "given"] = "shuffled"
    """Order of documents: shuffled by seed; by rising or falling perplexity under `perplexity_model`; or as read.
    Packed samples are reshuffled every epoch if `shuffled`, else kept in order."""
    buckets: Annotated[int, Field(gt=0, le=1 << 24)] | None = None
    """Runs of equally many documents that an order by perplexity is cut into; inside a bucket documents are shuffled, so
    that batches stay mixed. Default: as many as documents, a strict order."""
    lowest_perplexity: LowestPerplexity | None = None
    """Takes only the documents of lowest perplexity under `perplexity_model`; default: all."""
    prefix: bool = Field(default=True, exclude_if=lambda prefix: prefix)
    """Whether documents are read with the `prefix` of their source. `false` leaves it out of the very same samples, which are
    shorter by it and padded: order, consumption and replay do not change. Under `switches` it is MeCo's cooldown."""
    packing: Literal["stream", "next_fit", "best_fit"] | None = Field(
        default=None, exclude_if=lambda packing: packing is None
    )
    """How documents become samples of `training.seq_length`. `stream`: one after another, cut wherever a sample is full, so
    that nothing is padded. The others keep whole what fits into a sample, and pad the rest of it: `next_fit` in the source's
    order; `best_fit` the longest first, each where it leaves the least room, for `shuffled` (fewer truncated documents at
    hardly any padding: Ding et al. 2024, arXiv 2404.10830). Padding counts in a version's `tokens`. Default: `stream`;
    conversations (`messages_field`) `best_fit`, in another order `next_fit`. What is replayed `from_parents` stays as it
    was."""
    overlong: Literal["drop", "cut"] | None = Field(
        default=None, exclude_if=lambda overlong: overlong is None
    )
    """What becomes of documents longer than a sample where whole ones are packed: dropped and counted, or cut into pieces of
    a sample and a rest, of which every token is still trained on. Default: `cut`; conversations are dropped."""
