"""Fields of the measurement of versions; none of them changes what is trained."""

from pathlib import Path
from typing import Annotated

from pydantic import Field, field_validator

from perdure.pipeline.recipe.periods import period
from perdure.pipeline.recipe.section import Name, Positive, Section


class Contamination(Section):
    """Looks for evaluation texts in the training shards, by n-grams of words (Brown et al. 2020, appendix C)."""

    n_grams: Annotated[int, Field(ge=8, le=10_000)] = 13
    """Words that must agree, after lower-casing and without punctuation; of scripts without blanks as much text. A probe of
    fewer words is looked for as a whole if it has at least 8."""


class Harness(Section):
    """lm-evaluation-harness on every version's export, without the internet; needs `perdure[harness]`."""

    include_path: Path
    """Directory with the tasks' YAML files; what they read must be local too (`dataset_path: json`)."""
    tasks: Annotated[list[str], Field(min_length=1)]
    """Names of tasks or groups."""


class Evaluation(Section):
    """How versions are measured: every source's held-out documents, probes, and other tools' tasks."""

    max_tokens: Positive = 100_000
    """Held-out tokens per domain that are measured: all that it has, or a sample by hash of so many; all versions see the same
    ones."""
    interval: Positive | None = None
    """Steps between measurements of the held-out documents while training, the start included, which show the stability
    gap; the default measures after training only."""
    probes: tuple[Path, ...] = ()
    """JSONL files of questions, each with `id`, `kind` (invariant, updated, new), `question`, `choices` and `answer`,
    and perhaps `old_answer` and `date`."""
    model_cutoff: str | None = Field(default=None, exclude_if=lambda date: date is None)
    """The date of the newest text that the `model`'s own weights were trained on ("2024-06"), from its model card: a version's
    cut-off is the largest date on its lineage, and of the model that it begins with nothing else tells. Default: unknown."""
    contamination: Contamination | None = Contamination()
    """Looks for held-out documents and probes in the training shards; null does not."""
    harness: Harness | None = None
    """Other tools' tasks on the exports."""

    exact: dict[str, Name] = Field(default={}, exclude_if=lambda exact: not exact)
    """By forgotten source (`objective: {type: forget}`), the version that was trained as the others were, but never read it:
    the exact reference, which the report compares forgetting with. Default: none."""

    @field_validator("model_cutoff")
    @classmethod
    def _is_date(cls, date: str | None) -> str | None:
        if date is not None and period(date) is None:
            raise ValueError('should be a date such as "2024-06" or "2024-06-30"')
        return date
