"""One machine of several, where a scheduler starts the same command on each: Kubernetes, SkyPilot.

`python -m perdure.launch.node VERSION_DIRECTORY` runs this machine's ranks of a prepared version; with `--recipe FILE`
the machines work through all stages together: the first one does what needs one machine, the others wait for it. With
`--go-on` as well, as where no scheduler brings a failed machine back, a version whose ranks fail is tried again.
"""

import argparse
import logging
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from itertools import count
from pathlib import Path

from perdure.launch import attempt
from perdure.pipeline.core import logs
from perdure.pipeline.core.cores import warning_when_crowded
from perdure.pipeline.core.errors import PerdureError, Stopped
from perdure.pipeline.core.manifest import is_finished
from perdure.pipeline.core.paths import VersionPaths
from perdure.pipeline.model.layout import layout_of
from perdure.pipeline.plan.recorded import version_recipe
from perdure.pipeline.recipe import Recipe, load_recipe
from perdure.pipeline.train.ranks import Node, handing_on, start

logger = logging.getLogger("perdure.launch.node")  # also when it is `__main__`

PORT = 29400
"""Where the first machine is met by the others, if the scheduler names no port."""
POLL_SECONDS = 1.0


def this_node(environment: Mapping[str, str]) -> tuple[Node, int]:
    """This machine's place and its number of ranks, as the scheduler says them.

    `PERDURE_*` comes from our own manifests, `PET_*` from Kubeflow's torch runtime, `SKYPILOT_*` from SkyPilot.

    Raises:
        PerdureError: If none of them has said it.
    """
    if "SKYPILOT_NODE_RANK" in environment:
        addresses = environment["SKYPILOT_NODE_IPS"].split()
        node = Node(len(addresses), int(environment["SKYPILOT_NODE_RANK"]), addresses[0], PORT)
        return node, int(environment["PERDURE_RANKS_PER_NODE"])
    if "PERDURE_NODES" in environment:
        names = (
            "PERDURE_NODES PERDURE_NODE_RANK PERDURE_MASTER_ADDR PERDURE_MASTER_PORT PERDURE_RANKS_PER_NODE"
        )
    elif "PET_NNODES" in environment:
        names = "PET_NNODES PET_NODE_RANK PET_MASTER_ADDR PET_MASTER_PORT PET_NPROC_PER_NODE"
    else:
        raise PerdureError(
            "no scheduler has said which machine this is (PERDURE_NODES, PET_NNODES or SKYPILOT_NODE_RANK); on one "
            "machine use `perdure run`"
        )
    count, rank, address, port, ranks = (environment[name] for name in names.split())
    return Node(int(count), int(rank), address, int(port)), int(ranks)


def run_version(directory: Path, recipe: Recipe, node: Node, ranks: int) -> None:
    """Runs this machine's ranks of a prepared version, unless it is whole."""
    if is_finished(directory):
        logger.info(f"version {directory.name}: finished, skipped")
        return
    if (needed := layout_of(recipe).world_size) != node.count * ranks:
        raise PerdureError(
            f"version {directory.name} needs {needed} ranks, but {node.count} machines x {ranks} are here; launch it again"
        )
    with warning_when_crowded():
        start(directory, needed, node=node)


def run_attempts(directory: Path, recipe: Recipe, node: Node, ranks: int) -> None:
    """The same, again after a failure: as long as every attempt leaves a new checkpoint, `cluster.max_restarts` times."""
    for restarts in count():
        step = 0 if is_finished(directory) else attempt.record(directory)
        try:
            return run_version(directory, recipe, node, ranks)
        except PerdureError as error:
            newest = attempt.newest_step(directory)
            if newest <= step or restarts == recipe.cluster.max_restarts:
                raise
            logger.error(f"error: {error}\nversion {directory.name}: trying again from step {newest:,}")


def run_recipe(file: Path, node: Node, ranks: int, go_on: bool = False) -> None:
    """Works through all stages of a recipe together with the other machines."""
    recipe = load_recipe(file)
    for name in recipe.versions:
        directory = recipe.paths.version(name).directory
        if node.rank == 0:
            _perdure("prepare", str(file), "--version", name)
        while not VersionPaths(directory).inputs.exists():
            time.sleep(POLL_SECONDS)
        (run_attempts if go_on else run_version)(directory, recipe, node, ranks)
    if node.rank == 0:
        _perdure("eval", str(file), "--ranks", str(ranks))


def _perdure(*arguments: str) -> None:
    process = subprocess.Popen([sys.executable, "-m", "perdure.pipeline.cli", *arguments])
    with handing_on([process]) as received:
        status = process.wait()
    if received:
        raise Stopped
    if status:
        raise PerdureError(f"`perdure {' '.join(arguments)}` failed; the reason stands above")


def main(arguments: list[str]) -> int:
    """The exit status: 0 only if everything is whole, so that schedulers bring a stopped run back."""
    parser = argparse.ArgumentParser(prog="perdure.launch.node")
    parser.add_argument("version_directory", type=Path, nargs="?")
    parser.add_argument("--recipe", type=Path)
    parser.add_argument("--go-on", action="store_true")
    options = parser.parse_args(arguments)
    logs.configure(plain=True)
    try:
        node, ranks = this_node(os.environ)
        if options.recipe:
            run_recipe(options.recipe, node, ranks, options.go_on)
        else:
            directory = options.version_directory
            run_version(directory, version_recipe(directory), node, ranks)
    except PerdureError as error:
        logger.error(f"error: {error}")
        return 1
    except Stopped:
        return 1
    except KeyboardInterrupt:
        logger.warning("interrupted; run the same command again to go on")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
