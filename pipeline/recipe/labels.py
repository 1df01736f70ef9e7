"""Fields for topics of documents and for subsets of a source."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from perdure.pipeline.recipe.section import Fraction, Positive, Section, Size


class MetadataTopics(Section):
    """A document's topic stands in its metadata."""

    type: Literal["metadata"]
    field: str
    """The metadata field; documents without it are `unlabelled`."""
    map: dict[str, str] | None = None
    """Topic by label; a label that it lacks is an error. Default: labels are topics."""


class ClassifierTopics(Section):
    """A document's topic is predicted by a classifier: word uni- and bigrams and logistic regression."""

    type: Literal["classifier"]
    labelled: Path
    """JSON lines with `text` and `topic`; a fifth of them measures the accuracy."""
    min_accuracy: Fraction = 0.8
    """Accuracy on that fifth below which the topics are refused."""


class ClusterTopics(Section):
    """Topics are found: k-means over TF-IDF of words; their most telling words are shown."""

    type: Literal["cluster"]
    num_clusters: Annotated[int, Field(ge=2, le=100_000)]
    """Number of topics, named `cluster-00` and so on."""


Topics = Annotated[MetadataTopics | ClassifierTopics | ClusterTopics, Field(discriminator="type")]


class DsirSubset(Section):
    """Importance resampling towards a target (DSIR, Xie et al. 2023): documents drawn, without replacement, with odds in
    proportion to p_target(document) / p_source(document) under bags of hashed word uni- and bigrams."""

    type: Literal["dsir"]
    target: Path
    """JSON lines with `text`, or a text file with one document a line: a sample of the text wanted."""
    tokens: Positive
    """Training tokens to take; held-out documents stay as they are."""
    num_buckets: Size = 10_000
    """Buckets that n-grams are hashed to."""


class ClassifierSubset(Section):
    """The documents that a classifier holds most like good ones: logistic regression over word uni- and bigrams, a
    sample of good text against a random sample of the source of the same size (Brown et al. 2020, appendix A)."""

    type: Literal["classifier"]
    positive: Path
    """JSON lines with `text`, or a text file with one document a line: good text."""
    tokens: Positive
    """Training tokens to take; held-out documents stay as they are."""


Subset = Annotated[DsirSubset | ClassifierSubset, Field(discriminator="type")]
