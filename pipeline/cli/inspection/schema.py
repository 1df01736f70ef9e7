"""The types of what `perdure data inspect --json` prints; `gather` fills it in."""

from typing import Any, NotRequired, TypedDict


class Distribution(TypedDict):
    """Perplexities of documents.

    Attributes:
        documents: How many have a finite one.
        quantiles: By name, such as `5%`.
        histogram: Documents by bin.
    """

    documents: int
    quantiles: dict[str, float]
    histogram: list[int]


class ScoredDocuments(TypedDict):
    """Perplexities of a source's training documents under a model.

    Attributes:
        model: The model's name.
        scored: How many have scores.
        of: How many there are.
        documents: How many have a finite perplexity; without any, there is nothing below.
        edges: Borders of the bins; the outermost hold the 0.5% beyond them, too.
        quantiles: See `Distribution`.
        histogram: See `Distribution`.
        topics: The same by topic.
    """

    model: str
    scored: int
    of: int
    documents: int
    edges: NotRequired[list[float]]
    quantiles: NotRequired[dict[str, float]]
    histogram: NotRequired[list[int]]
    topics: NotRequired[dict[str, Distribution]]


class Sample(TypedDict):
    """A training document with its losses.

    Attributes:
        id: Its id.
        topic: Its topic, if it has one.
        language: Its language, if it has one.
        num_tokens: All of its tokens.
        model: The model that knows it best; None without scores.
        trainee: The model that knows it least; None with the scores of fewer than two.
        tokens: Its first tokens, as text.
        losses: Their losses under `model`, in nats; None where it gave none.
        excess: Losses under `trainee` less those; None without a trainee.
    """

    id: str
    topic: str | None
    language: str | None
    num_tokens: int
    model: str | None
    trainee: str | None
    tokens: list[str]
    losses: list[float | None]
    excess: list[float | None] | None


class Source(TypedDict):
    """A source of text.

    Attributes:
        name: Its name.
        directory: Its data; None if it is not finished, and then there is nothing below.
        counts: As in its manifest.
        examples: Dropped documents by step.
        heavy_drops: Steps that dropped more than a fifth, see `perdure.pipeline.data.cleaning.drops`.
        topics: What is known of its topics; None without.
        subset: `taken` and `available`; None without.
        parts: Parts that versions chose, in words.
        scores: Perplexities by model.
        sample: A document; None if there is none, or no tokenizer.
    """

    name: str
    directory: str | None
    counts: NotRequired[dict[str, Any]]
    examples: NotRequired[dict[str, list[dict[str, Any]]]]
    heavy_drops: NotRequired[list[dict[str, Any]]]
    topics: NotRequired[dict[str, Any] | None]
    subset: NotRequired[dict[str, Any] | None]
    parts: NotRequired[list[str]]
    scores: NotRequired[list[ScoredDocuments]]
    sample: NotRequired[Sample | None]


class Inspection(TypedDict):
    """What the data stage made.

    Attributes:
        name: The run's name.
        out: Its directory.
        sources: Its sources.
        mixtures: What versions take of them, see `perdure.pipeline.checks.mixture_table.mixtures`.
    """

    name: str
    out: str
    sources: list[Source]
    mixtures: list[dict[str, Any]]
