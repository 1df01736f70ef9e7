"""`perdure launch --to local`: a recipe's stages as one script on this machine, readable and runnable by hand."""

import shlex
import sys
from pathlib import Path

from perdure.pipeline.data.backends.slurm_scripts import shell_environment
from perdure.pipeline.recipe import Recipe
from perdure.pipeline.recipe.cluster import JobSize

SCRIPT = """\
#!/bin/bash
# {name} on this machine. Written by `perdure launch`; to run it by hand: bash {file}
cd -- {directory} || exit 1
{environment}\
export PERDURE_NODES=1 PERDURE_NODE_RANK=0 PERDURE_RANKS_PER_NODE={ranks}
# Port 0: a free one.
export PERDURE_MASTER_ADDR=127.0.0.1 PERDURE_MASTER_PORT=0
# The console's lines stand in the log as well, also those after Ctrl-C.
exec > >(exec tee -ai {log}) 2>&1
exec {python} -m perdure.launch.node --recipe {recipe_file} --go-on
"""


def render(recipe: Recipe, recipe_file: Path, size: JobSize, directory: Path) -> str:
    """The script.

    Args:
        recipe: The recipe, its `out` absolute.
        recipe_file: The file that stages read it from.
        size: Ranks, and whether they use GPUs; without, GPUs are hidden from them.
        directory: Where it runs; relative paths of the recipe start there.
    """
    # Ranks of one machine meet on its loopback interface, whatever a cluster's is called.
    cluster = recipe.cluster.model_copy(update={"network_interface": None})
    hidden = {} if size.gpus_per_node else {"CUDA_VISIBLE_DEVICES": ""}
    return SCRIPT.format(
        name=recipe.name,
        file=shlex.quote(script_file(recipe).name),
        directory=shlex.quote(str(directory)),
        environment=shell_environment(cluster, **hidden),
        ranks=size.ranks_per_node,
        log=shlex.quote(str(script_file(recipe).with_suffix(".log"))),
        python=shlex.quote(sys.executable),
        recipe_file=shlex.quote(str(recipe_file)),
    )


def script_file(recipe: Recipe) -> Path:
    """Where the script stands; its log stands beside it."""
    return recipe.paths.launch / "local.sh"
