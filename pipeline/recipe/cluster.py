"""Fields of a cluster: where and how `perdure launch` runs a recipe's stages.

A recipe may carry them as `cluster:`; a team may share them in a site file (`--site`), on top of which the recipe's
own are merged. Values reach jobs literally: the shell never expands them, but for `setup`, which is shell.

What may be secret, the values of `environment` and `setup`, stands in no file that a run writes: dumps have null in their
place, and jobs get them handed over by their own environment, as shell in `PERDURE_SETUP`.
"""

import os
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_serializer

from perdure.pipeline.core.slurm import HANDED_OVER
from perdure.pipeline.recipe.section import Positive, Section

Word = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.,:@+&|*=/\[\]()-]+$")]
Option = Annotated[str, Field(pattern=r"^--[a-z][a-z-]*(=[A-Za-z0-9_.,:@+&|*=/\[\]()-]+)?$")]
Variable = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
Label = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$", max_length=63)]
NoNull = Annotated[str, Field(pattern=r"^[^\x00]*$")]


def _quoted(value: Any) -> Any:
    """YAML reads `24:00:00` as a number to the base of 60."""
    if isinstance(value, int):
        raise ValueError('should stand in quotes, as "24:00:00": without them YAML reads a number')
    return value


TimeLimit = Annotated[str, Field(pattern=r"^\d+(-\d+)?(:\d+){0,2}$"), BeforeValidator(_quoted)]


def without_values(tree: dict[str, Any]) -> dict[str, Any]:
    """A recipe, as read from its file, without what may be secret: `cluster.environment` has its names, `setup` is null."""
    cluster = tree.get("cluster")
    if not isinstance(cluster, dict):
        return tree
    hidden: dict[str, Any] = {}
    if isinstance(environment := cluster.get("environment"), dict):
        hidden["environment"] = dict.fromkeys(environment)
    if cluster.get("setup"):
        hidden["setup"] = None
    return tree | {"cluster": cluster | hidden}


class Container(Section):
    """The image that jobs run in."""

    image: NoNull
    """Slurm: what `srun --container-image` (pyxis) takes. Kubernetes and SkyPilot: an image name."""
    mounts: tuple[NoNull, ...] = ()
    """Slurm: entries of `--container-mounts`, such as `/data:/data`."""


class Slurm(Section):
    """How jobs are submitted to Slurm."""

    partition: Word | None = None
    """Partition of training jobs; default: the cluster's."""
    cpu_partition: Word | None = None
    """Partition of jobs that need no GPU (data, report); default: `partition`."""
    account: Word | None = None
    """Account that is charged."""
    qos: Word | None = None
    """Quality of service."""
    time_limit: TimeLimit | None = None
    """Longest time of one job, as sbatch's `--time` takes it. A job that reaches it saves and is queued again."""
    cpus_per_task: Positive | None = None
    """CPU cores of a rank; default: the cluster's. The data stage gets one a worker, or one a task of its arrays."""
    options: tuple[Option, ...] = ()
    """Further sbatch options, such as `--exclusive` or `--reservation=spring`."""


class Volume(Section):
    """A persistent volume claim that every pod mounts; runs and data must lie on one."""

    claim: Label
    """Name of the claim; it must allow ReadWriteMany."""
    path: Annotated[str, Field(pattern=r"^/[^\x00:]*$")]
    """Where it appears, an absolute path."""


class Kubernetes(Section):
    """How jobs are described to Kubernetes."""

    namespace: Label | None = None
    """Namespace; default: the one `kubectl` is set to."""
    kind: Literal["jobset", "trainjob"] = "jobset"
    """`jobset`: one JobSet for the whole chain, pods of a stage only while it runs. `trainjob`: one TrainJob of Kubeflow
    Trainer v2, whose pods work through all stages."""
    runtime: Label = "torch-distributed"
    """The ClusterTrainingRuntime of a TrainJob."""
    volumes: tuple[Volume, ...] = ()
    """Shared file systems."""
    secrets: tuple[Label, ...] = ()
    """Secrets whose entries become environment variables."""
    service_account: Label | None = None
    """Service account of the pods."""
    node_selector: dict[NoNull, NoNull] = Field(default_factory=dict)
    """Labels that nodes must have."""
    gpu_resource: Word = "nvidia.com/gpu"
    """GPU resource name, such as `nvidia.com/gpu`."""
    cpu: Word | None = None
    """CPU cores of a pod, as Kubernetes writes them."""
    memory: Word | None = None
    """Memory of a pod, such as `512Gi`."""
    shared_memory: Word = "16Gi"
    """Size of `/dev/shm`, through which NCCL talks inside a node."""


class Sky(Section):
    """How a run is described to SkyPilot."""

    accelerator: Word | None = None
    """GPU by SkyPilot's name, such as `H100`; needed with `--gpus-per-node`."""
    infra: Word | None = None
    """Cloud, region or Kubernetes context, as SkyPilot's `infra` takes it."""
    use_spot: bool = False
    """Use spot instances, which may be reclaimed; managed jobs continue elsewhere."""
    volume: Label | None = None
    """SkyPilot volume that is mounted at `mount`; None: `mount` is shared already. (Not a bucket: checkpoints are
    renamed when they are whole, which bucket mounts cannot do.)"""
    mount: Annotated[str, Field(pattern=r"^/[^\x00:]*$")] = "/perdure"
    """Directory that all machines share; the run's directory must lie in it."""


class Gpu(Section):
    """What `perdure check --nodes` reckons with, where nothing was measured. The defaults are an H100 with 400 Gb/s of network
    and an assumed MFU; set them to what your machines have."""

    memory_gib: Annotated[float, Field(ge=1e-3, le=1e9)] = 79.6
    """Memory of a GPU, as `nvidia-smi` counts it."""
    peak_tflops: Annotated[float, Field(ge=1e-6, le=1e9)] = 989.0
    """Dense peak in the precision of training."""
    mfu: Annotated[float, Field(ge=1e-6, le=1)] = 0.4
    """Share of the peak that forward and backward passes reach, the pipeline's bubble and the reduction of gradients left
    out. The trainer logs what the whole step reaches."""
    network_gb_per_second: Annotated[float, Field(ge=1e-6, le=1e9)] = 50.0
    """Bandwidth of a GPU to other nodes, in 10^9 bytes per second."""
    measured: tuple[Path, ...] = ()
    """Runs' directories, and what visits wrote (`visit.json` of `python -m perdure.kernels.visit`): where speed and memory of
    equal steps on such a GPU are taken from, beside the versions in the recipe's own directory. `mfu`, if it is set, goes
    before them."""
    price_per_hour: Annotated[float, Field(gt=0, le=1e9)] | None = None
    """Price of a GPU hour, in any currency; None: no cost is told."""


class Cluster(Section):
    """Where and how jobs run."""

    slurm: Slurm = Slurm()
    """Settings for Slurm alone."""
    kubernetes: Kubernetes = Kubernetes()
    """Settings for Kubernetes alone."""
    sky: Sky = Sky()
    """Settings for SkyPilot alone."""
    gpu: Gpu = Gpu()
    """Assumptions of `perdure check --nodes` about GPUs."""
    container: Container | None = None
    """The image that jobs run in; default: the environment that `perdure launch` runs in."""
    setup: NoNull | None = ""
    """Shell lines at the beginning of every job: `module load cuda`, `source env/bin/activate`. Null: those that
    `PERDURE_SETUP` holds, as in a job."""
    environment: dict[Variable, NoNull | None] = Field(default_factory=dict)
    """Environment variables of every job, taken literally. Null: the value that the variable has where the command runs,
    such as `WANDB_API_KEY: null`."""
    network_interface: Word | None = None
    """Network interface of ranks (`NCCL_SOCKET_IFNAME`, `GLOO_SOCKET_IFNAME`); default: the libraries' choice."""
    timeout_seconds: Annotated[int, Field(ge=10, le=10**8)] = 600
    """Time that ranks wait for one another in a collective before they give up, as those that a cut link isolates."""
    grace_seconds: Annotated[int, Field(ge=60, le=10**8)] = 300
    """Time before the limit at which ranks are told to save; Slurm looks every 30 s only."""
    max_restarts: Annotated[int, Field(ge=0, le=10**6)] = 20
    """Times that a job is queued again before it is given up."""
    max_restarts_without_progress: Positive = 3
    """Attempts in a row that may end without a new checkpoint; then the job is given up."""

    @field_serializer("environment")
    def _names(self, environment: dict[str, str | None]) -> dict[str, None]:
        return dict.fromkeys(environment)

    @field_serializer("setup")
    def _whether(self, setup: str | None) -> str | None:
        return "" if setup == "" else None

    def __getstate__(self) -> dict[Any, Any]:
        """What pickles hold: no more than dumps do."""
        state = super().__getstate__()
        return state | {"__dict__": without_values({"cluster": state["__dict__"]})["cluster"]}

    @property
    def variables(self) -> dict[str, str]:
        """Environment variables of every job that are no secret."""
        names = ("NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME") if self.network_interface else ()
        common = {"PYTHONSAFEPATH": "1", "PYTHONUNBUFFERED": "1"}
        common["PERDURE_TIMEOUT_SECONDS"] = str(self.timeout_seconds)
        return common | dict.fromkeys(names, self.network_interface or "")

    @property
    def values(self) -> dict[str, str]:
        """The variables of `environment` with their values; those that are not set here are left out."""
        found = {
            name: os.environ.get(name) if value is None else value for name, value in self.environment.items()
        }
        return {name: value for name, value in found.items() if value is not None}

    @property
    def handed_over(self) -> str:
        """Shell that sets `environment` and runs `setup`, which jobs find in `PERDURE_SETUP`; empty if there is neither.

        In a job, whose recipe has lost the values, it is what the job itself was handed.
        """
        if self.setup is None:
            return os.environ.get(HANDED_OVER, "")
        lines = [f"export {name}={shlex.quote(value)}" for name, value in self.values.items()]
        return "".join(f"{line}\n" for line in [*lines, *self.setup.splitlines()])


@dataclass(frozen=True)
class JobSize:
    """What a training job occupies: nodes, GPUs of each (0 on a cluster of CPUs), ranks on each."""

    nodes: int
    gpus_per_node: int
    ranks_per_node: int
