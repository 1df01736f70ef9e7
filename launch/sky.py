"""SkyPilot: a run as one task, whose machines work through all stages; `sky jobs launch` brings it back elsewhere."""

import shlex
from typing import Any

from perdure.launch.texts import yaml_text
from perdure.pipeline.core.errors import Problem, RecipeError
from perdure.pipeline.core.slurm import HANDED_OVER
from perdure.pipeline.recipe import Recipe
from perdure.pipeline.recipe.cluster import JobSize


def render(recipe: Recipe, size: JobSize, directory: str, values: bool = False) -> str:
    """The task, YAML for `sky jobs launch`.

    What `cluster.environment` and `cluster.setup` hold reaches machines as a secret.

    Args:
        recipe: The recipe, its `out` absolute.
        size: What the run occupies.
        directory: Where it runs; relative paths of the recipe start there.
        values: Whether the secret's value is given, which no file may hold.

    Raises:
        RecipeError: If the cluster's fields lack what SkyPilot needs.
    """
    cluster, sky = recipe.cluster, recipe.cluster.sky
    found = []
    if size.gpus_per_node and sky.accelerator is None:
        found.append(Problem("cluster.sky.accelerator", None, "required with --gpus-per-node, such as H100"))
    if not recipe.directory.is_relative_to(sky.mount):
        found.append(
            Problem(
                "out",
                str(recipe.directory),
                f"should lie in cluster.sky.mount = {sky.mount}, or be lost with its machine",
            )
        )
    if found:
        raise RecipeError(recipe.name, found)
    resources: dict[str, Any] = {
        "use_spot": sky.use_spot,
        "job_recovery": {"max_restarts_on_errors": cluster.max_restarts},
    }
    if size.gpus_per_node:
        resources["accelerators"] = f"{sky.accelerator}:{size.gpus_per_node}"
    if sky.infra:
        resources["infra"] = sky.infra
    if cluster.container:
        resources["image_id"] = f"docker:{cluster.container.image}"
    variables = {"PERDURE_RANKS_PER_NODE": str(size.ranks_per_node)} | cluster.variables
    run = [f"cd -- {shlex.quote(directory)} || exit 1"]
    if setup := cluster.handed_over:
        run.append(f'eval "${HANDED_OVER}"')
    run.append(
        f"exec python -m perdure.launch.node --recipe {shlex.quote(str(recipe.paths.launched_recipe))}"
    )
    task: dict[str, Any] = {
        "name": f"perdure-{recipe.name}".replace("_", "-"),
        "num_nodes": size.nodes,
        "resources": resources,
        "envs": variables,
    }
    if setup:
        task["secrets"] = {HANDED_OVER: setup if values else None}
    if sky.volume:
        task["volumes"] = {sky.mount: sky.volume}
    task["run"] = "\n".join(run) + "\n"
    return yaml_text(task)
