"""What a run remembers from one step to the next, as its checkpoints keep it (`state.json`)."""

from dataclasses import dataclass, field, fields, replace
from typing import Any

from pydantic import TypeAdapter

from perdure.pipeline.plan.plan import Plan, consumed_between
from perdure.pipeline.recipe import Schedule, Training


@dataclass(frozen=True)
class TrainState:
    """State of a version's training besides tensors; checkpoints of earlier releases lack some of it.

    Attributes:
        device_seconds: Seconds of steps times devices; None in old checkpoints.
        consumed: Labels read by key of the mixture; None in old checkpoints.
        step: Steps done.
        scored: Tokens of new data that competed in selection.
        selected: Those of them that were trained on.
        threshold: What the next batch is told, see `Counts.threshold`.
        seconds: Of all steps.
        losses: Mean losses of the last accepted steps, for the guard.
        skipped: Ranges of samples that left no trace in the weights.
        parallel: The layout.
        schedule: The resolved schedule.
        total_steps: Steps of the version.
        phases: Phases that training added to the plan.
        ratios: Shares of new sources that reweighting moves.
        perplexity: Held-out perplexity by domain when it was last measured for reweighting.
        perplexity_on: By what rule its text was sampled.
        scheduled: Whether `checkpoint_interval` asked for the checkpoint, not a signal.
        metrics: Hash of `metrics.jsonl` so far.
        optimizer_steps: Updates that the optimizer made.
        kernels: What computed (`model.choices`), by the number of steps before it (`step`), oldest first; None in old
            checkpoints.
    """

    device_seconds: float | None = None
    consumed: dict[str, int] | None = None
    step: int = 0
    scored: int = 0
    selected: int = 0
    threshold: float | None = None
    seconds: float = 0.0
    losses: list[float] = field(default_factory=list)
    skipped: list[dict[str, Any]] = field(default_factory=list)
    parallel: dict[str, Any] = field(default_factory=dict)
    schedule: dict[str, Any] = field(default_factory=dict)
    total_steps: int = 0
    phases: list[dict[str, Any]] = field(default_factory=list)
    ratios: dict[str, float] | None = None
    perplexity: dict[str, float] | None = None
    perplexity_on: str | None = None
    scheduled: bool | None = None
    metrics: str | None = None
    optimizer_steps: int | None = None
    kernels: list[dict[str, Any]] | None = None

    def as_json(self) -> dict[str, Any]:
        """What `state.json` holds; what only a checkpoint can tell is left out where it is unknown."""
        found = {each.name: getattr(self, each.name) for each in fields(self)}
        return {key: value for key, value in found.items() if value is not None or key not in _OPTIONAL}

    def completed(self, plan: Plan, training: Training, devices: int) -> "TrainState":
        """The state with what an old checkpoint did not count: device seconds, and tokens, padding among them."""
        state = self
        if state.device_seconds is None:
            state = replace(state, device_seconds=state.seconds * devices)
        if state.consumed is None:
            read = consumed_between(plan, plan.first_sample, state.step * training.global_batch_size)
            consumed = {key: samples * training.seq_length for key, samples in read.items()}
            state = replace(state, consumed=consumed)
        return state

    def after(self, step: int, seconds: float, devices: int, read: dict[str, float]) -> "TrainState":
        """The state with one more step counted, whatever became of its update.

        Args:
            step: Its number.
            seconds: It took.
            devices: That trained meanwhile.
            read: Labels read by key of the mixture, whether they count or not.
        """
        assert self.consumed is not None and self.device_seconds is not None
        return replace(
            self,
            step=step,
            seconds=self.seconds + seconds,
            device_seconds=self.device_seconds + seconds * devices,
            consumed={key: self.consumed[key] + round(tokens) for key, tokens in read.items()},
        )

    def rolled_back(self, saved: "TrainState") -> "TrainState":
        """The state of an earlier checkpoint; what was consumed stays consumed, and the plan's phases are kept."""
        return replace(
            saved,
            parallel=self.parallel,
            kernels=self.kernels,
            seconds=self.seconds,
            device_seconds=self.device_seconds,
            consumed=self.consumed,
            phases=self.phases,
            ratios=self.ratios,
            perplexity=self.perplexity,
            perplexity_on=self.perplexity_on,
        )

    @property
    def tokens(self) -> int:
        """Labels read."""
        assert self.consumed is not None
        return sum(self.consumed.values())

    def resolved_schedule(self) -> Schedule:
        """The schedule that the run began with: a resume does not ask the recipe."""
        return TypeAdapter(Schedule).validate_python(self.schedule)


_OPTIONAL = ("device_seconds", "consumed", "scheduled", "metrics", "optimizer_steps", "kernels")


def state_of_json(found: dict[str, Any]) -> TrainState:
    """The state that `TrainState.as_json` wrote, or an earlier release.

    Args:
        found: Holds at least `step`.
    """
    known = {each.name for each in fields(TrainState)}
    return TrainState(step=found["step"], **{k: found[k] for k in found if k in known and k != "step"})
