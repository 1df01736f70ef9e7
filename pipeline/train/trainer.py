"""The training loop: the steps of one version, from where it stands to the end of its budget."""

import logging
import signal
import time
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NoReturn

from megatron.core.optimizer.optimizer import MegatronOptimizer

from perdure.pipeline.core.errors import Stopped
from perdure.pipeline.core.hashes import hash_of
from perdure.pipeline.model.anchors import taken_penalty
from perdure.pipeline.model.collectives import from_first
from perdure.pipeline.model.device import devices
from perdure.pipeline.model.optimizer import set_learning_rate
from perdure.pipeline.model.orthogonal import OrthogonalPenalty
from perdure.pipeline.model.shape import flops_per_token, model_shape
from perdure.pipeline.model.step_hooks import set_step
from perdure.pipeline.plan.domains import measured_domains
from perdure.pipeline.plan.lineage import kept_steps
from perdure.pipeline.plan.plan import shares_from
from perdure.pipeline.plan.schedule import learning_rate
from perdure.pipeline.recipe import Schedule
from perdure.pipeline.train import process
from perdure.pipeline.train.checkpoint import Checkpoints, load_checkpoint
from perdure.pipeline.train.counts import Counts
from perdure.pipeline.train.dataset import Dataset
from perdure.pipeline.train.evaluate import evaluate, summaries
from perdure.pipeline.train.guard import StepVerdict, action_on, agree, assess, remember, rolls_back
from perdure.pipeline.train.loader import Loader
from perdure.pipeline.train.metrics import Recorder, StepResult, competing
from perdure.pipeline.train.objectives.objective import Objective
from perdure.pipeline.train.progress import Pace, heldout_words, model_flop_utilisation
from perdure.pipeline.train.reweight import reweight
from perdure.pipeline.train.saved import agreed, checkpoint_state, finished_checkpoints, last_scheduled
from perdure.pipeline.train.session import Session
from perdure.pipeline.train.state import TrainState
from perdure.pipeline.train.step import train_step

logger = logging.getLogger(__name__)


@dataclass
class Trainer:
    """Trains a version; every rank has one, and all ranks call its methods together.

    Attributes:
        session: The version, and this rank's model.
        optimizer: The model's.
        dataset: Where samples come from; its plan grows as shares are moved.
        loader: Reads them ahead of the steps; whoever makes a trainer closes it.
        objective: What is trained on, not yet told the threshold of a batch before.
        state: After the last step.
        checkpoints: Writes checkpoints.
        recorder: Writes metrics, on rank 0; None elsewhere.
        orthogonal: O-LoRA's penalty, if its adapter has one.
        saved: Step of the newest checkpoint, or that this start began at.
        signal: The signal that asked for a stop, 0 for none, as all ranks agreed on it last.
    """

    session: Session
    optimizer: MegatronOptimizer
    dataset: Dataset
    loader: Loader
    objective: Objective
    state: TrainState
    checkpoints: Checkpoints
    recorder: Recorder | None
    orthogonal: OrthogonalPenalty | None = None
    saved: int = -1
    signal: int = 0

    @cached_property
    def schedule(self) -> Schedule:
        """The schedule that the run began with."""
        return self.state.resolved_schedule()

    @cached_property
    def kept(self) -> set[int]:
        """Steps whose checkpoints are kept for good."""
        return set(kept_steps(self.session.recipe, self.session.name))

    @cached_property
    def flops(self) -> float:
        """Of the model, a token."""
        recipe, vocab_size = self.session.recipe, self.session.inputs["vocab_size"]
        return flops_per_token(model_shape(recipe), vocab_size, recipe.training.seq_length)

    @cached_property
    def measured_on(self) -> str:
        """Hash of the text that held-out losses are of."""
        return hash_of(self.session.inputs["measured"])[:8]

    def train(self) -> TrainState:
        """Steps until the budget is spent; returns the final state.

        Raises:
            Stopped: If a signal asked for it; everything is saved.
            PerdureError: If a step is broken, and the guard stops there.
        """
        self.begin()
        pace = Pace(self.state.step)
        for step in range(self.state.step + 1, self.state.total_steps + 1):
            heldout = self.measure_before(step)
            self.move_shares(step)
            result = replace(self.step(step), heldout=heldout)
            self.record(result, pace)
            self.checkpoints.poll()
            if self.save_if_due(step):
                self.signal = agree(process.requested())  # a save may take long
            if self.signal:
                self.leave(self.signal)
        self.checkpoints.wait()
        return self.state

    def begin(self) -> None:
        """Completes the state of an old checkpoint; saves one to roll back to, if the guard may need it."""
        training = self.session.recipe.training
        self.state = state = self.state.completed(self.dataset.plan, training, devices()[1])
        self.saved = state.step
        directory = self.checkpoints.directory
        if rolls_back(training.guard) and not from_first(lambda: bool(finished_checkpoints(directory))):
            self.checkpoints.save(self.session.model, self.optimizer, replace(state, scheduled=True))

    def measure_before(self, step: int) -> dict[str, float] | None:
        """Held-out loss by domain right before a step, if `evaluation.interval` asks for it."""
        session, interval = self.session, self.session.recipe.evaluation.interval
        if not interval or (step - 1) % interval:
            return None
        # What a signal interrupts is measured by the next start, before its first step.
        measured = evaluate(
            session.model,
            session.recipe,
            measured_domains(session.recipe),
            session.data,
            session.device,
            lambda: bool(agree(process.requested())),
        )
        if measured is None or agree(process.requested()):
            self.leave(agree(process.requested()))
        logger.info(f"step {step - 1}: {heldout_words(summaries(measured))}")
        return {name: domain.summary["loss"] for name, domain in measured.items()}

    def move_shares(self, step: int) -> None:
        """Reweights the mixture if it is time, and tells of a phase of the plan that begins with a step."""
        session = self.session
        self.dataset, self.state = reweight(
            self.dataset,
            self.state,
            session.recipe,
            session.version,
            session.model,
            session.data,
            session.device,
        )
        if (shares := shares_from(self.dataset.plan, self.first_sample(step))) and self.recorder:
            self.recorder.mixture(step, shares)
            if step > 1:
                told = ", ".join(f"{key} {share:.2%}" for key, share in shares.items() if share)
                logger.info(f"step {step}: mixture {told}")

    def first_sample(self, step: int) -> int:
        """Global index of the first sample of a step: a function of the step alone."""
        return self.dataset.plan.first_sample + (step - 1) * self.session.recipe.training.global_batch_size

    def step(self, step: int) -> StepResult:
        """One optimizer step, or what the guard makes of a broken one; the state is that after it."""
        session, state, training = self.session, self.state, self.session.recipe.training
        self.loader.follow(self.dataset)
        begun = time.perf_counter()
        lr = learning_rate(self.schedule, step, state.total_steps)
        decay = session.version.weight_decay
        set_learning_rate(self.optimizer, lr, training.weight_decay if decay is None else decay)
        set_step(self.optimizer, step)
        counts, grad_norm, found = train_step(
            session.model,
            self.optimizer,
            self.objective.with_threshold(state.threshold),
            self.loader,
            training,
            self.first_sample(step),
            self.judge,
        )
        # The host waits for the answer, and so for the update's last kernels, which are part of the step.
        self.signal = agree(process.requested())
        seconds = time.perf_counter() - begun
        skipped = None
        if verdict := StepVerdict(found):
            what = f"loss {self.objective.loss(counts):.4g} and gradient norm {grad_norm:.4g} at step {step}"
            self.checkpoints.wait()
            skipped = self.pass_over(step, verdict, f"version {session.paths.directory.name}: {what}")
        else:
            self.accept(counts)
        read = dict(zip(self.dataset.plan.keys, counts.read_tokens, strict=True))
        self.state = self.state.after(step, seconds, devices()[1], read)
        return StepResult(
            step=step,
            tokens=self.state.tokens,
            budget_tokens=step * training.seq_length * training.global_batch_size,
            lr=lr,
            grad_norm=grad_norm,
            counts=counts,
            scalars=self.objective.scalars(counts),
            seconds=seconds,
            selective=session.version.selection is not None,
            skipped=skipped,
            anchor_penalty=None if verdict else taken_penalty(self.optimizer),
            orthogonal_penalty=None if verdict or not self.orthogonal else self.orthogonal.value(),
        )

    def judge(self, counts: Counts, grad_norm: float) -> int:
        """The verdict on a step before its update, equal on all ranks as what it is made of."""
        guard, losses = self.session.recipe.training.guard, self.state.losses
        return assess(guard, losses, self.objective.loss(counts), grad_norm)

    def accept(self, counts: Counts) -> None:
        """Remembers what a step that updated the weights selected and lost."""
        guard, state = self.session.recipe.training.guard, self.state
        self.state = replace(
            state,
            scored=state.scored + round(competing(self.dataset.plan.keys, counts)[0]),
            selected=state.selected + round(counts.selected_tokens),
            threshold=counts.threshold,
            losses=remember(guard, state.losses, self.objective.loss(counts) if any(counts.tokens) else None),
        )

    def pass_over(self, step: int, verdict: StepVerdict, what: str) -> str:
        """Skips or rolls back a step whose update was refused.

        Args:
            step: Its number.
            verdict: Why it was refused.
            what: The step in words.

        Returns:
            What the metrics call it.

        Raises:
            PerdureError: If the guard stops here.
        """
        guard, batch = self.session.recipe.training.guard, self.session.recipe.training.global_batch_size
        before, first, done = self.state, step - 1, len(self.state.skipped)
        action = action_on(guard, verdict, done, what)
        if action == "rollback":
            target = agreed(lambda: last_scheduled(self.checkpoints.directory))
            assert target is not None
            load_checkpoint(target, self.session.model, self.optimizer)
            self.state = before.rolled_back(checkpoint_state(target))
            first = self.state.step
        entry = {
            "step": step,
            "reason": verdict.name.lower(),
            "first_sample": self.first_sample(first + 1),
            "num_samples": (step - first) * batch,
        }
        self.state = replace(self.state, skipped=[*before.skipped, entry])
        place = f"samples {entry['first_sample']} to {self.first_sample(step) + batch - 1}"
        told = "skipped" if action == "skip" else f"rolled back to step {first}"
        logger.warning(f"{what}: {told}, without {place} ({done + 1} of at most {guard.max_skips})")
        return told

    def record(self, result: StepResult, pace: Pace) -> None:
        """Writes a step's metrics, on rank 0, and its console line if one is due."""
        if self.recorder is None:
            return
        session, training = self.session, self.session.recipe.training  # the model computes padding, too
        rate = training.seq_length * training.global_batch_size / result.seconds
        mfu = model_flop_utilisation(rate, self.flops, session.layout.world_size, training.precision)
        line = self.recorder.step(replace(result, mfu=mfu, heldout_on=self.measured_on))
        pace.add(sum(result.counts.read_tokens), result.seconds)
        if result.step % training.log_interval == 0 or result.step == self.state.total_steps:
            logger.info(pace.line(line, self.state.total_steps))

    def save_if_due(self, step: int) -> bool:
        """Saves after a step of `checkpoint_interval`, the last one, or one that the recipe names or branches from."""
        scheduled = step % self.session.recipe.training.checkpoint_interval == 0
        if due := scheduled or step == self.state.total_steps or step in self.kept:
            self.save(scheduled)
        return due

    def save(self, scheduled: bool) -> None:
        """Saves a checkpoint; what was recorded up to it is never told again."""
        state = replace(self.state, scheduled=scheduled)
        if self.recorder:
            self.recorder.flush()
            state = replace(state, metrics=self.recorder.told.hexdigest())
        self.checkpoints.save(self.session.model, self.optimizer, state)
        self.saved = state.step

    def leave(self, number: int) -> NoReturn:
        """Saves what is not saved yet, says that a signal ended the run, and ends it."""
        step = self.state.step
        if self.saved != step:
            self.save(scheduled=False)
        self.checkpoints.wait()
        name, outcome = signal.Signals(number).name, "saved" if step else "nothing is lost"
        logger.info(f"stopped by {name} at step {step}: {outcome}; run the same command again to go on")
        raise Stopped
