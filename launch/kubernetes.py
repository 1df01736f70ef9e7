"""Kubernetes: a recipe as one JobSet, stage after stage, or as one TrainJob whose pods work through all stages.

Started again, both skip what is finished, and a version goes on from its last checkpoint. A JobSet restarts as a whole,
`cluster.max_restarts` times. Whether a TrainJob does is up to its runtime: Kubeflow's stock `torch-distributed` has no
failure policy, so there at most single pods start again.
"""

from typing import Any

from perdure.launch.chain import Job, jobs
from perdure.launch.texts import yaml_text
from perdure.pipeline.core.errors import Problem, RecipeError
from perdure.pipeline.core.hashes import hash_of
from perdure.pipeline.core.slurm import HANDED_OVER
from perdure.pipeline.recipe import Recipe
from perdure.pipeline.recipe.cluster import JobSize

PORT = 29400
"""Where the first pod of a training stage is met by the others."""
NAMES = 53
"""Letters of a JobSet's name, a stage's and the highest number of a pod in all: the operator appends five letters to
`<name>-<stage>-0-<pod>`, and refuses what is longer than 63."""
NODE = "node"
"""What Kubeflow's runtime calls the one stage of a TrainJob, and its container."""
STAGE = 20
"""Letters of a stage's name at most."""


def render(recipe: Recipe, size: JobSize, directory: str, values: bool = False) -> str:
    """The manifest, YAML for `kubectl create -f`.

    What `cluster.environment` and `cluster.setup` hold reaches pods through a Secret.

    Args:
        recipe: The recipe, its `out` absolute.
        size: What its training jobs occupy.
        directory: Where jobs run; relative paths of the recipe start there.
        values: Whether the Secret stands before it, with what no file may hold.

    Raises:
        RecipeError: If the cluster's fields lack what Kubernetes needs.
    """
    found = problems(recipe)
    if found:
        raise RecipeError(recipe.name, found)
    chain = jobs(recipe, recipe.paths.launched_recipe, size.ranks_per_node)
    make = jobset if recipe.cluster.kubernetes.kind == "jobset" else trainjob
    manifest = yaml_text(make(chain, recipe, size, directory))
    if not (values and recipe.cluster.handed_over):
        return manifest
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": _metadata(recipe, secret_name(recipe)),
        "stringData": {HANDED_OVER: recipe.cluster.handed_over},
    }
    return f"{yaml_text(secret)}---\n{manifest}"


def secret_name(recipe: Recipe) -> str:
    """The Secret that holds what is handed over to the pods."""
    return f"perdure-{recipe.name}-setup".replace("_", "-")


def problems(recipe: Recipe) -> list[Problem]:
    """What is missing for a run on Kubernetes."""
    cluster, found = recipe.cluster, []
    if cluster.container is None:
        found.append(Problem("cluster.container", None, "required on Kubernetes: the image of the pods"))
    volumes = cluster.kubernetes.volumes
    if not any(recipe.directory.is_relative_to(volume.path) for volume in volumes):
        found.append(
            Problem(
                "out",
                str(recipe.directory),
                "should lie on one of cluster.kubernetes.volumes, or be lost with its pod",
            )
        )
    if cluster.kubernetes.kind == "trainjob" and cluster.kubernetes.secrets:
        found.append(
            Problem(
                "cluster.kubernetes.secrets",
                list(cluster.kubernetes.secrets),
                "cannot reach the pods of a TrainJob; put them into its runtime, or choose kind: jobset",
            )
        )
    return found


def jobset(chain: list[Job], recipe: Recipe, size: JobSize, directory: str) -> dict[str, Any]:
    """One ReplicatedJob a stage, each created when the one before is complete."""
    name = run_name(recipe, size, STAGE)
    stages: list[dict[str, Any]] = []
    for number, job in enumerate(chain):
        stage = stage_name(job, number)
        nodes = size.nodes if job.ranks else 1
        environment = {
            "PERDURE_NODES": str(nodes),
            "PERDURE_RANKS_PER_NODE": str(size.ranks_per_node),
            "PERDURE_MASTER_ADDR": f"{name}-{stage}-0-0.{name}",
            "PERDURE_MASTER_PORT": str(PORT),
        }
        entry: dict[str, Any] = {"name": stage, "replicas": 1}
        if number:
            entry["dependsOn"] = [{"name": stages[-1]["name"], "status": "Complete"}]
        pod = _pod(recipe, _command(job, recipe), directory, environment, size.gpus_per_node * job.gpus)
        entry["template"] = {
            "spec": {
                "completions": nodes,
                "parallelism": nodes,
                "completionMode": "Indexed",
                "backoffLimit": 0,
                "template": {"spec": pod},
            }
        }
        stages.append(entry)
    return {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": _metadata(recipe, name),
        "spec": {
            "network": {"enableDNSHostnames": True, "publishNotReadyAddresses": True},
            "failurePolicy": {"maxRestarts": recipe.cluster.max_restarts},
            "replicatedJobs": stages,
        },
    }


def trainjob(chain: list[Job], recipe: Recipe, size: JobSize, directory: str) -> dict[str, Any]:
    """Pods of one size that work through all stages; the runtime says where the first one is."""
    cluster = recipe.cluster
    (file,) = {job.command[1] for job in chain if job.name == "data"}
    command = ["python", "-m", "perdure.launch.node", "--recipe", file]
    pod = _pod(recipe, command, directory, {}, size.gpus_per_node)
    (container,) = pod["containers"]
    patched = ("volumes", "nodeSelector", "serviceAccountName", "terminationGracePeriodSeconds")
    patch: dict[str, Any] = {key: pod[key] for key in patched if key in pod}
    patch["containers"] = [{"name": NODE, "volumeMounts": container["volumeMounts"]}]
    job = {"name": NODE, "template": {"spec": {"template": {"spec": patch}}}}
    return {
        "apiVersion": "trainer.kubeflow.org/v1alpha1",
        "kind": "TrainJob",
        "metadata": _metadata(recipe, run_name(recipe, size, len(NODE))),
        "spec": {
            "runtimeRef": {"name": cluster.kubernetes.runtime, "kind": "ClusterTrainingRuntime"},
            "trainer": {
                "image": container["image"],
                "command": container["command"],
                "numNodes": size.nodes,
                "numProcPerNode": size.ranks_per_node,
                "env": container["env"],
                "resourcesPerNode": container["resources"],
            },
            "runtimePatches": [
                {
                    "manager": "perdure.dev/launch",
                    "trainingRuntimeSpec": {"template": {"spec": {"replicatedJobs": [job]}}},
                }
            ],
        },
    }


def run_name(recipe: Recipe, size: JobSize, stage: int) -> str:
    """The name of a JobSet or TrainJob, cut where pods' names would grow too long; what is cut stays unique by its hash.

    Args:
        recipe: The recipe.
        size: Its nodes are pods.
        stage: Letters of the longest stage's name.
    """
    name = f"perdure-{recipe.name}".replace("_", "-").rstrip("-")
    room = NAMES - stage - len(str(size.nodes - 1))
    if len(name) <= room:
        return name
    return f"{name[: room - 9].rstrip('-')}-{hash_of(recipe.name)[:8]}"


def stage_name(job: Job, number: int) -> str:
    """A stage's name, as short and plain as host names have to be."""
    return f"s{number}-{job.name}".replace("_", "-")[:STAGE].rstrip("-")


def literal(text: str) -> str:
    """Text that Kubernetes takes literally in commands and environments: it expands `$(NAME)`, and `$$` is `$`."""
    return text.replace("$", "$$")


def _command(job: Job, recipe: Recipe) -> list[str]:
    if job.ranks:
        assert job.version is not None
        return ["python", "-m", "perdure.launch.node", str(recipe.paths.version(job.version).directory)]
    return ["python", "-m", "perdure.pipeline.cli", *job.command]


def _metadata(recipe: Recipe, name: str) -> dict[str, str]:
    namespace = recipe.cluster.kubernetes.namespace
    return {"name": name} | ({"namespace": namespace} if namespace else {})


def _pod(
    recipe: Recipe, command: list[str], directory: str, environment: dict[str, str], gpus: int
) -> dict[str, Any]:
    cluster, kubernetes = recipe.cluster, recipe.cluster.kubernetes
    assert cluster.container is not None
    variables = environment | cluster.variables
    env: list[dict[str, Any]] = [{"name": name, "value": literal(value)} for name, value in variables.items()]
    if environment:
        index = {"fieldPath": "metadata.annotations['batch.kubernetes.io/job-completion-index']"}
        env.append({"name": "PERDURE_NODE_RANK", "valueFrom": {"fieldRef": index}})
    resources = {kubernetes.gpu_resource: str(gpus)} if gpus else {}
    resources |= {name: size for name in ("cpu", "memory") if (size := getattr(kubernetes, name))}
    # What is handed over is shell; the command behind it is taken word by word.
    script = 'cd -- "$0" || exit 1\nexec "$@"'
    if cluster.handed_over:
        held = {"name": secret_name(recipe), "key": HANDED_OVER}
        env.append({"name": HANDED_OVER, "valueFrom": {"secretKeyRef": held}})
        script = f'cd -- "$0" || exit 1\neval "${HANDED_OVER}"\nexec "$@"'
    container: dict[str, Any] = {
        "name": "perdure",
        "image": cluster.container.image,
        "command": [literal(word) for word in ["bash", "-c", script, directory, *command]],
        "env": env,
        "resources": {"limits": resources, "requests": resources},
        "volumeMounts": [
            {"name": f"volume-{number}", "mountPath": volume.path}
            for number, volume in enumerate(kubernetes.volumes)
        ]
        + [{"name": "shared-memory", "mountPath": "/dev/shm"}],
    }
    if kubernetes.secrets:
        container["envFrom"] = [{"secretRef": {"name": name}} for name in kubernetes.secrets]
    pod: dict[str, Any] = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": cluster.grace_seconds,
        "containers": [container],
        "volumes": [
            {"name": f"volume-{number}", "persistentVolumeClaim": {"claimName": volume.claim}}
            for number, volume in enumerate(kubernetes.volumes)
        ]
        + [
            {"name": "shared-memory", "emptyDir": {"medium": "Memory", "sizeLimit": kubernetes.shared_memory}}
        ],
    }
    if kubernetes.service_account:
        pod["serviceAccountName"] = kubernetes.service_account
    if kubernetes.node_selector:
        pod["nodeSelector"] = dict(kubernetes.node_selector)
    return pod
