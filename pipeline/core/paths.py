"""Paths of a run's files, as listed under "On disk" in docs/design.md."""

from dataclasses import dataclass
from pathlib import Path

SUCCESS = "_SUCCESS"
"""Name of the empty file that is written last into every artefact."""
VERSIONS, CHECKPOINTS, PLAN = "versions", "checkpoints", "plan"
"""Names of directories by which an artefact is recognised from its path alone."""
METRICS, INITIAL_EVALUATION = "metrics.jsonl", "eval_initial.json"
"""Names of a version's files that only training anew would make again."""


@dataclass(frozen=True)
class RunPaths:
    """Paths of a run, or of a sweep, by what they hold.

    Attributes:
        directory: The run's directory, `<out>`.
    """

    directory: Path

    def version(self, name: str) -> "VersionPaths":
        """Paths of a version, named as in the recipe (in a sweep: with its hash)."""
        return VersionPaths(self.directory / VERSIONS / name)

    def begun_versions(self) -> list[str]:
        """Names of the versions that have recorded inputs, sorted."""
        return sorted(path.parent.name for path in (self.directory / VERSIONS).glob("*/inputs.json"))

    @property
    def contents(self) -> Path:
        """Directory of hashes of the files that sources were read from."""
        return self.directory / "contents"

    @property
    def clean(self) -> Path:
        """Directory of cleaned sources."""
        return self.directory / "clean"

    @property
    def topics(self) -> Path:
        """Directory of the topics of cleaned documents, a directory a source."""
        return self.directory / "topics"

    @property
    def subset(self) -> Path:
        """Directory of what was chosen of each source."""
        return self.directory / "subset"

    @property
    def data(self) -> Path:
        """Directory of tokenised shards, a directory a source."""
        return self.directory / "data"

    @property
    def work(self) -> Path:
        """Directory of artefacts that are being made."""
        return self.directory / "work"

    @property
    def logs(self) -> Path:
        """Directory of the data stage's logs."""
        return self.directory / "logs"

    @property
    def launch(self) -> Path:
        """Directory of job scripts, their logs and ids."""
        return self.directory / "launch"

    @property
    def launched_recipe(self) -> Path:
        """The recipe that the run's jobs read."""
        return self.launch / "recipe.yaml"

    @property
    def jobs(self) -> Path:
        """JSON with the ids of the run's Slurm jobs, by name."""
        return self.launch / "jobs.json"

    @property
    def lock(self) -> Path:
        """File that is locked while a command works in the run's directory."""
        return self.directory / ".lock"

    @property
    def model_hashes(self) -> Path:
        """JSON with the hashes of models outside the run that it starts from and scores with."""
        return self.directory / "hashes.json"

    @property
    def data_record(self) -> Path:
        """JSON that names the run's finished data directories."""
        return self.directory / "data.json"

    @property
    def harness(self) -> Path:
        """Directory of lm-evaluation-harness results of the models that versions start from."""
        return self.directory / "harness"

    @property
    def contamination(self) -> Path:
        """JSON with the overlap between probes and training text."""
        return self.directory / "contamination.json"

    @property
    def forgotten(self) -> Path:
        """JSON with what versions know of forgotten documents."""
        return self.directory / "forgotten.json"

    @property
    def lineage(self) -> Path:
        """JSON with each version's parent and tokens."""
        return self.directory / "lineage.json"

    @property
    def report(self) -> Path:
        """JSON with everything that the report shows."""
        return self.directory / "report.json"

    @property
    def pages(self) -> Path:
        """Directory of the report's HTML pages and TensorBoard events."""
        return self.directory / "report"

    @property
    def sweep(self) -> Path:
        """JSON with the results of a sweep."""
        return self.directory / "sweep.json"

    @property
    def sweep_page(self) -> Path:
        """HTML page of a sweep."""
        return self.directory / "sweep.html"

    @property
    def plots(self) -> Path:
        """Directory of a sweep's charts."""
        return self.directory / "plots"

    def run(self, name: str) -> "RunPaths":
        """Paths of one run of a sweep."""
        return RunPaths(self.directory / "runs" / name)


@dataclass(frozen=True)
class VersionPaths:
    """Paths of a version by what they hold; a later evaluation below it has some of the same files.

    Attributes:
        directory: `<out>/versions/<name>/`, or `eval@<hash8>/` below it.
    """

    directory: Path

    @property
    def recipe(self) -> Path:
        """The recipe as the version's ranks read it."""
        return self.directory / "recipe.yaml"

    @property
    def inputs(self) -> Path:
        """JSON with what the version was made from."""
        return self.directory / "inputs.json"

    @property
    def plan(self) -> Path:
        """Directory of the plan: which samples training reads in which order."""
        return self.directory / PLAN

    @property
    def checkpoints(self) -> Path:
        """Directory of checkpoints."""
        return self.directory / CHECKPOINTS

    def checkpoint(self, step: int) -> Path:
        """The directory of the checkpoint of a step, whether there is one or not."""
        return self.checkpoints / f"step_{step:06d}"

    def finished_checkpoints(self) -> dict[int, Path]:
        """The directories of whole checkpoints by step, in order."""
        found = {
            int(path.name.removeprefix("step_")): path
            for path in self.checkpoints.glob("step_*")
            if path.name.removeprefix("step_").isdecimal() and (path / SUCCESS).exists()
        }
        return dict(sorted(found.items()))

    @property
    def board(self) -> Path:
        """Directory of TensorBoard events."""
        return self.directory / "tb"

    @property
    def metrics(self) -> Path:
        """JSON lines, one a training step."""
        return self.directory / METRICS

    @property
    def lost(self) -> Path:
        """JSON with the device seconds of steps that were lost and done again."""
        return self.directory / "lost.json"

    @property
    def fence(self) -> Path:
        """File with the number of the newest start and who made it."""
        return self.directory / "fence"

    @property
    def lock(self) -> Path:
        """File that is locked while a later evaluation is made."""
        return self.directory / ".lock"

    @property
    def initial_evaluation(self) -> Path:
        """JSON with what was measured before the first step, of a model that has no parent."""
        return self.directory / INITIAL_EVALUATION

    @property
    def evaluation(self) -> Path:
        """JSON with what was measured after the last step."""
        return self.directory / "eval.json"

    @property
    def documents(self) -> Path:
        """Parquet table with the summed loss of each held-out document."""
        return self.directory / "eval_documents.parquet"

    @property
    def harness(self) -> Path:
        """JSON with lm-evaluation-harness results."""
        return self.directory / "harness.json"

    @property
    def passage(self) -> Path:
        """JSON with the passage that the report shows, and which of its tokens were selected."""
        return self.directory / "passage.json"

    @property
    def chosen(self) -> Path:
        """JSON with which kinds of documents the selected tokens were in."""
        return self.directory / "chosen.json"

    @property
    def export(self) -> Path:
        """Directory of the weights in Hugging Face's format."""
        return self.directory / "hf"

    @property
    def adapter(self) -> Path:
        """Directory of the version's adapter in PEFT's format, if it trained one."""
        return self.directory / "adapter"

    @property
    def record(self) -> Path:
        """JSON with what a finished version came to."""
        return self.directory / "version.json"

    @property
    def launch(self) -> Path:
        """Directory of the training job's script and logs."""
        return self.directory / "launch"

    @property
    def attempts(self) -> Path:
        """JSON lines, one an attempt of the training job."""
        return self.launch / "attempts.jsonl"
