"""What a version's JSON files hold: what it was made from (`inputs.json`) and what it came to (`version.json`).

The types name the keys that this release writes. Files of older releases may lack some; asking for one that is missing
raises an error that names the file (`files.JsonObject`).
"""

from typing import Any, NotRequired, TypedDict, cast

from perdure.pipeline.core.files import read_json
from perdure.pipeline.core.paths import VersionPaths


class MeasuredOn(TypedDict):
    """What identifies the held-out text and probes that a version is measured on."""

    max_tokens: int
    """Held-out tokens a domain, at most."""
    data: dict[str, str | None]
    """Hash of the data by domain; None where there is no data yet."""
    sampled: NotRequired[dict[str, str]]
    """By domain with more than `max_tokens`, the rule by which its sample was drawn."""
    probes: NotRequired[dict[str, str | None]]
    """SHA-256 by file of questions; None for a file that is gone."""
    fim: NotRequired[dict[str, str]]
    """By source of which middles are to be filled in, a hash of how they are cut."""


class RecipeIdentity(TypedDict):
    """The fields of a recipe that decide a version's result."""

    seed: int
    model: dict[str, Any]
    training: dict[str, Any]
    version: dict[str, Any]
    order_of_sources: Any
    reweight_tokens: int | None
    parents: NotRequired[list[str]]
    """Of a computed version, those that it is made of, in order."""
    averaged: NotRequired[dict[str, float]]
    """Of an average, the weight of each checkpoint by its step."""


class VersionIdentity(RecipeIdentity):
    """Everything that decides a version's result; a version that goes on must have the same."""

    tokenizer_hash: str
    data: dict[str, str]
    """Hash of the data by source that the version reads."""
    initial_weights: str | None
    """What identifies the weights that it starts from; None for random ones."""
    scores: dict[str, str]
    """Name of the directory of scores by source, for its selection."""
    perplexity_scores: dict[str, str]
    """The same for the perplexities that order or choose its documents."""
    adapters: NotRequired[dict[str, str]]
    """Hash by version of the adapters that its own is to be orthogonal to."""
    teacher_weights: NotRequired[str]
    """What identifies the weights of a KL anchor's `model`, if it names one."""
    withdrawn: NotRequired[str]
    """Hash of the withdrawn texts, if it or what it comes from withdraws any."""


class ParentExport(TypedDict):
    """A version whose weights another one is computed from."""

    export: str
    """Its Hugging Face directory."""
    weights_hash: str


class ParentShare(TypedDict):
    """A version that another one was computed from, and its share."""

    id: str
    share: float | list[float] | None
    """Of its weights in the sum; a list: by run of layers. None of the base of differences, and before shares are fitted."""
    weights_hash: NotRequired[str]


class Cutoff(TypedDict):
    """The date of the newest text that a version, or any version on its lineage, was trained on."""

    earliest: str | None
    """The first day that it can be, as in 2024-06-01: dates may be as coarse as years. None: unknown, or there is no text."""
    latest: str | None
    """The last day that it can be."""
    unknown: list[str]
    """Why it is unknown, in words; empty if it is known."""


class VersionInputs(TypedDict):
    """`inputs.json`: what a version's ranks read, and what identifies it. Paths are strings."""

    version: str
    command: str | None
    """As typed."""
    parent: str | None
    parent_lineage_tokens: int
    """Tokens that its ancestors trained on."""
    vocab_size: int
    """Rows of the embedding, without padding."""
    eos_id: int
    tokenizer: str
    initial_weights: str | None
    """Hugging Face directory of the weights that it starts from."""
    parent_checkpoint: str | None
    """Checkpoint that it starts from, with moments."""
    data: dict[str, str]
    """Data directory by source."""
    scores: dict[str, str]
    """Directory of scores by source, for its selection."""
    perplexity_scores: dict[str, str]
    adapters: NotRequired[dict[str, str]]
    """PEFT directory by version of the adapters that its own is to be orthogonal to."""
    teacher_weights: NotRequired[str]
    """Hugging Face directory of a KL anchor's `model`, if it names one."""
    measured: MeasuredOn
    parents: NotRequired[dict[str, ParentExport]]
    """Of a computed version, by name those that it is made of."""
    averaged: NotRequired[dict[str, float]]
    """Of an average, the weight of each checkpoint by its directory."""
    identity: VersionIdentity
    fisher_checkpoint: NotRequired[str]
    """The parent's last checkpoint, whose moments alone are read, for an anchor."""
    cutoff_before: NotRequired[Cutoff]
    """The cut-off of the text that it starts from, where the recipe says what dates documents have; that of the first model
    is added where it is read."""
    recipe: NotRequired[str]
    """SHA-256 of `recipe.yaml` beside it."""


class VersionRecord(TypedDict):
    """`version.json`: what a finished version came to."""

    id: str
    index: int
    """Place among the recipe's versions, from 0."""
    parent: str | None
    start: str
    """`init`, `update`, `branch`, `merge` or `average`."""
    status: str
    steps: int
    tokens: int
    """Tokens trained on."""
    budget_tokens: int
    lineage_tokens: int
    """Tokens trained on with those of its ancestors."""
    schedule: dict[str, Any]
    """The schedule with all that followed from ancestors filled in."""
    selection: dict[str, Any] | None
    objective: NotRequired[dict[str, Any]]
    """The recipe's, with all defaults; missing where the next token of text was trained on."""
    mixture: dict[str, Any]
    consumed: dict[str, int]
    """Tokens by place in the mixture."""
    first_sample: int
    phases: list[dict[str, Any]]
    """Phases of the mixture that training added to the plan."""
    skipped: list[dict[str, Any]]
    """Ranges of samples whose update was left out."""
    selection_counts: dict[str, int]
    """`scored` and `selected` tokens."""
    tokens_per_second: float
    parallel: dict[str, Any]
    kernels: NotRequired[list[dict[str, Any]]]
    """What computed attention and linears, and with which packages, from which `step` on; one entry a change."""
    weights_hash: str
    parent_weights_hash: str | None
    data: dict[str, str]
    tokenizer_hash: str
    heldout: dict[str, float | None]
    """Loss by domain, in nats per token."""
    seconds: float
    device_seconds: float
    device: str
    lost_device_seconds: float
    peak_memory_bytes: NotRequired[int]
    """Most memory that tensors took on any GPU while it trained, since its last start."""
    parents: NotRequired[list[ParentShare]]
    """Of a computed version, all that it is made of, the one that it follows first."""
    averaged: NotRequired[dict[str, float]]
    """Of an average, the weight of each checkpoint by its step; of a running average, 1 for the one that holds it."""
    search: NotRequired[dict[str, Any]]
    """Of a merge with fitted shares, the search: every candidate's losses, and those of the best one on the other half of the
    documents."""
    adapter: NotRequired[dict[str, Any]]
    """What was trained in place of the weights, before it was merged into them."""
    cutoff: NotRequired[Cutoff]
    """Its cut-off, where the recipe says what dates documents have; that of the first model is added where it is read."""


def read_inputs(version: VersionPaths) -> VersionInputs:
    """Reads what a version was made from.

    Raises:
        PerdureError: If the file is missing or damaged.
    """
    return cast(VersionInputs, read_json(version.inputs))


def read_record(version: VersionPaths) -> VersionRecord:
    """Reads what a finished version came to.

    Raises:
        PerdureError: If the file is missing or damaged.
    """
    return cast(VersionRecord, read_json(version.record))
