"""The types of what `report.json` holds.

Losses are mean nats per held-out token, unless a name says bits per byte; what is not measured, or not made yet, is None.
docs/evaluation.md describes the keys whose types are left open here. Reports of earlier releases lack some keys.
"""

from typing import Any, TypedDict

from perdure.pipeline.core.records import MeasuredOn
from perdure.pipeline.evaluate.version_types import ByDomain, Evaluation, VersionSummary

Interval = list[float]
"""The low and the high end of a bootstrap interval."""


class Forgetting(TypedDict):
    """Forgetting along a version's path, by domain and its mean."""

    mean: float | None
    domains: dict[str, float]


class Metrics(TypedDict):
    """Metrics along the paths of versions, by version; see `perdure.pipeline.evaluate.metrics`.

    Attributes:
        acc: Average accuracy.
        bwt: Backward transfer.
        bwt_trace: TRACE's backward transfer.
        general: TRACE's change of general ability.
        fwt: Forward transfer.
        fwt_gem: Forward transfer of GEM.
        forgetting: Forgetting.
        stability_gap: Curves and metrics of what was measured during training.
    """

    acc: dict[str, float | None]
    bwt: dict[str, float | None]
    bwt_trace: dict[str, float | None]
    general: dict[str, float | None]
    fwt: dict[str, float | None]
    fwt_gem: dict[str, float | None]
    forgetting: dict[str, Forgetting]
    stability_gap: dict[str, dict[str, Any]]


class BitsChanges(TypedDict):
    """By version and domain the change in bits per byte, and its interval."""

    change: dict[str, ByDomain]
    change_intervals: dict[str, dict[str, Interval | None]]


class MetricsInBits(Metrics, BitsChanges):
    """The metrics and changes in bits per byte."""


class Macro(TypedDict):
    """Macro-averages over domains by row of the loss matrix."""

    domains: list[str]
    loss: list[float | None]
    bits_per_byte: list[float | None]


class Ability(TypedDict):
    """One thing that a model can do.

    Attributes:
        name: The domain, or the file of questions and their kind.
        kind: `text`, `instructions`, `preferences`, `infilling` or `questions`.
        values: By row of the loss matrix the loss in nats per token, or the share of questions answered rightly or of
            pairs won.
        left: By row, of the best in the run the share that is left: the ratio of perplexities, or of shares beyond chance.
    """

    name: str
    kind: str
    values: list[float | None]
    left: list[float | None]


class Cost(TypedDict):
    """The cost of all finished versions.

    Attributes:
        gpu_hours: None where no version trained on GPUs.
        cpu_core_hours: None where no version trained on CPUs.
        uncounted: Versions from before hours were counted.
    """

    gpu_hours: float | None
    cpu_core_hours: float | None
    uncounted: list[str]


class Report(Metrics):
    """What `report.json` holds.

    Attributes:
        name: The run's name.
        versions: The versions in training order.
        domains: The sources, then the parts of them that a mixture names.
        loss_matrix: Row 0: the initial model; row i + 1: version i.
        perplexity_matrix: exp of that.
        bits_per_byte_matrix: The same losses in bits per byte.
        initial: The initial model's evaluation.
        heldout: By domain the text that all models were measured on, and all that is held out.
        bytes_per_token: By domain.
        unit: The unit in which losses are shown.
        in_bits_per_byte: The metrics in that unit.
        shown: By version the domains that its path, or the initial model, has learned.
        siblings: Differences between versions that differ in one component.
        findings: Those in words.
        macro: Macro-averages.
        from_initial: By version and domain, the loss minus the initial model's.
        intervals: Bootstrap intervals.
        labels: Losses by topic and by language.
        probes: Scores of knowledge probes.
        fill_in_the_middle: By source that trains on documents to be filled in, per row of the loss matrix what the middles of
            held-out documents cost; None if no source does.
        abilities: What is measured of every version, on one scale, see `report/abilities.py`; None in a run of one stage.
        preferences: By source of pairs, per row of the loss matrix how likely the preferred answer is; None
            if there are none.
        contamination: Evaluation texts in the training data.
        harness: Scores of lm-evaluation-harness by version.
        harness_initial: Those of the initial model.
        harness_change: Their changes.
        forgotten: By source that was to be forgotten, what versions know of it (`run/forgetting.py`); None if none was.
        measured: What identifies the held-out text and probes, see `perdure.pipeline.evaluate.record`.
        unmeasured: Finished versions that were not measured on these, and have no losses here.
        edited: By version, how today's recipe differs from the one that it was made by.
        consumed: By version the tokens consumed per mixture key.
        selection: By version with selection the tokens `scored` and `selected`, and the `share`.
        data: By source its documents and tokens, and what was dropped; None before the data stage.
        curves: Training curves by version.
        passages: By version the passage that the page shows.
        chosen: By version what selection took of the last samples.
        cost: The cost of training.
        commands: The commands that made the data.
        recipe: The whole recipe in YAML, as it was when its versions were made.
    """

    name: str
    versions: list[VersionSummary]
    domains: list[str]
    loss_matrix: list[list[float | None]]
    perplexity_matrix: list[list[float | None]]
    bits_per_byte_matrix: list[list[float | None]]
    initial: dict[str, Evaluation] | None
    heldout: dict[str, dict[str, Any]]
    bytes_per_token: ByDomain
    unit: str
    in_bits_per_byte: MetricsInBits
    shown: dict[str, list[str]]
    siblings: list[dict[str, Any]]
    findings: list[str]
    macro: Macro
    from_initial: dict[str, ByDomain]
    intervals: dict[str, Any]
    labels: dict[str, dict[str, dict[str, dict[str, Any]]]]
    probes: dict[str, Any] | None
    fill_in_the_middle: dict[str, list[dict[str, Any] | None]] | None
    preferences: dict[str, list[dict[str, Any] | None]] | None
    abilities: list[Ability] | None
    contamination: dict[str, Any] | None
    harness: dict[str, dict[str, Any]] | None
    harness_initial: dict[str, Any] | None
    harness_change: dict[str, dict[str, Any]]
    forgotten: dict[str, dict[str, Any]] | None
    measured: MeasuredOn
    unmeasured: list[str]
    edited: dict[str, list[str]]
    consumed: dict[str, dict[str, int]]
    selection: dict[str, dict[str, Any]]
    data: dict[str, dict[str, Any] | None]
    curves: dict[str, dict[str, Any]]
    passages: dict[str, dict[str, Any]]
    chosen: dict[str, dict[str, Any]]
    cost: Cost
    commands: list[str]
    recipe: str


class InUnit(Metrics):
    """The losses of a report in one unit.

    Attributes:
        loss_matrix: As in the report.
        change: By version and domain.
        intervals: The intervals of `change`.
        spans: By version the intervals of the metrics.
    """

    loss_matrix: list[list[float | None]]
    change: dict[str, ByDomain]
    intervals: dict[str, dict[str, Interval | None]]
    spans: dict[str, dict[str, Interval | None]]
