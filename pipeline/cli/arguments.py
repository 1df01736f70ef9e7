"""The command line's verbs and options."""

import argparse
import math
from importlib.metadata import version
from pathlib import Path
from typing import Any

from perdure.launch.backends import BACKENDS

INSPECT = "data inspect"
"""A verb of two words: what follows `data` is else a recipe."""
GPUS_PER_NODE = 8
"""Of `check --nodes`."""
SITE = "the team's `cluster:` fields, below the recipe's"


def parser() -> argparse.ArgumentParser:
    """The parser of the whole command line; `verb` of what it returns is a key of `verbs.VERBS`."""
    parser = argparse.ArgumentParser(
        prog="perdure",
        description="Continual pre-training: an existing model and new text in, the model's next version out.",
        epilog="Begin with `perdure recipe new my.yaml`, `perdure check my.yaml`, `perdure run my.yaml`.",
    )
    parser.add_argument("--version", action="version", version=f"perdure {version('perdure')}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="COMMAND")
    on_recipe, machine = _recipe_options(), _json_option()

    verbs.add_parser("run", parents=[on_recipe], help="all stages of all versions, skipping what is finished")
    check = verbs.add_parser(
        "check",
        parents=[on_recipe, machine],
        help="what a recipe would do, or all of its mistakes; starts nothing",
    )
    check.add_argument(
        "--nodes",
        metavar="N",
        type=_positive,
        help="what it would take on N nodes: memory, days, cost; what this machine lacks is no mistake then",
    )
    check.add_argument(
        "--gpus-per-node", metavar="G", type=_positive, help=f"GPUs of a node; default: {GPUS_PER_NODE}"
    )
    check.add_argument("--site", metavar="FILE", type=Path, help=SITE)
    verbs.add_parser("data", parents=[on_recipe], help="clean, split and tokenise the sources")
    prepare = verbs.add_parser(
        "prepare",
        parents=[on_recipe],
        help="what one version's ranks need (scores, plan), to start them elsewhere",
    )
    inspect = verbs.add_parser(
        INSPECT,
        parents=[on_recipe, machine],
        help="what the data stage read, dropped and kept, by source; takes a recipe or a directory",
    )
    inspect.add_argument("--html", metavar="FILE", type=Path, help="write a page instead of tables")
    train = verbs.add_parser("train", parents=[on_recipe], help="train one version, from where it stopped")
    evaluate = verbs.add_parser(
        "eval",
        parents=[on_recipe],
        help="measure finished versions on held-out documents where that is still to do",
    )
    verbs.add_parser("report", parents=[on_recipe, machine], help="write report.json and report/index.html")
    compare = verbs.add_parser(
        "compare", parents=[machine], help="versions of several runs side by side, from their reports"
    )
    compare.add_argument(
        "places",
        metavar="DIR",
        nargs="+",
        type=Path,
        help="a run's directory, or a version's: RUN/versions/NAME",
    )
    compare.add_argument("--html", metavar="FILE", type=Path, help="write a page as well")
    export = verbs.add_parser("export", help="write a version or a checkpoint as a Hugging Face model")
    imported = verbs.add_parser(
        "import", help="what is understood of a Hugging Face model, as a recipe's sections"
    )

    prepare.add_argument("--version", metavar="NAME", required=True, help="the version to prepare")
    verbs.add_parser(
        "log",
        parents=[on_recipe, machine],
        help="the tree of versions: tokens, schedules, losses, unseen data",
    )
    diff = verbs.add_parser(
        "diff",
        parents=[on_recipe, machine],
        help="what differs between two versions: recipe, schedule, data, results",
    )
    branch = verbs.add_parser(
        "branch",
        help="a recipe that adds a branch to another: a complete decay off a checkpoint of a version",
    )

    for side in ("left", "right"):
        diff.add_argument(side, metavar="VERSION")
    branch.add_argument("recipe", metavar="RECIPE", type=Path, help="the recipe to build on")
    branch.add_argument("parent", metavar="VERSION", help="the version to branch off from")
    branch.add_argument(
        "--at", metavar="STEP", type=int, required=True, help="its step after which to leave it"
    )
    branch.add_argument("--tokens", metavar="N", type=int, required=True, help="the branch's token budget")
    branch.add_argument("--name", metavar="NAME", help="of the branch; default: VERSION-STEP")
    branch.add_argument(
        "--min-lr", metavar="LR", type=float, help="where its decay ends; default: a hundredth"
    )
    branch.add_argument("--to", metavar="FILE", type=Path, help="where to write it; default: print it")
    branch.add_argument(
        "--out", metavar="DIR", type=Path, help="where the run is, if not where the recipe says"
    )
    _add_output(branch)
    train.add_argument("--version", metavar="NAME", required=True, help="the version to train")
    evaluate.add_argument(
        "--version", metavar="NAME", help="the version to measure; default: all that are finished"
    )
    evaluate.add_argument(
        "--ranks",
        metavar="N",
        type=_positive,
        help="how many ranks may be started; default: the recipe's layout",
    )
    export.add_argument("run", metavar="RUN", type=Path, help="a run's directory")
    export.add_argument("name", metavar="VERSION", help="one of its versions")
    export.add_argument("--step", type=int, help="a checkpoint that is kept; default: the finished version")
    export.add_argument("--to", metavar="DIR", type=Path, required=True, help="a new directory")
    export.add_argument(
        "--max-shard-gb",
        metavar="GB",
        type=_gigabytes,
        default=5.0,
        help="bound of a safetensors file; default: 5",
    )
    imported.add_argument("model", metavar="DIR", type=Path, help="a Hugging Face model's directory")
    for command in (compare, export, imported):
        _add_output(command)

    _add_sweep(verbs, on_recipe)
    _add_launch(verbs, on_recipe, machine)

    actions = verbs.add_parser("recipe", help="a new recipe, or the schema of recipes").add_subparsers(
        dest="action", required=True, metavar="ACTION"
    )
    for action, text in (
        ("new", "a commented recipe to copy; refuses to overwrite"),
        ("schema", "the JSON schema, with which editors complete and check recipes"),
    ):
        command = actions.add_parser(action, help=text)
        command.add_argument("file", metavar="FILE", nargs="?", type=Path, help="default: print it")
        _add_output(command)
    return parser


def _add_sweep(verbs: Any, on_recipe: argparse.ArgumentParser) -> None:
    sweep = verbs.add_parser(
        "sweep",
        parents=[on_recipe],
        help="one recipe with several values of some fields and several seeds; takes a recipe or a sweep's file",
    )
    sweep.add_argument(
        "--over",
        metavar="KEY=VALUE,VALUE",
        action="append",
        default=[],
        help="values of a field, as in versions.update.mixture.replay.share=0,0.05; repeatable, all are combined",
    )
    sweep.add_argument("--seeds", metavar="N,N", type=_integers, default=(), help="seeds of every setting")
    sweep.add_argument("--report", action="store_true", help="the table of what is there; runs nothing")
    sweep.add_argument(
        "--print", action="store_true", help="list the runs and what they share; start nothing"
    )
    sweep.add_argument("--to", choices=("slurm",), help="submit the runs instead, as `perdure launch` does")
    _add_size(sweep)


def _integers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text}: should read 1,2,3") from None


def _add_size(command: argparse.ArgumentParser) -> None:
    """What a job on a cluster occupies."""
    command.add_argument("--nodes", metavar="N", type=_positive, default=1, help="nodes of a training job")
    command.add_argument("--gpus-per-node", metavar="G", type=_natural, default=0, help="0 trains on CPUs")
    command.add_argument(
        "--ranks-per-node", metavar="R", type=_positive, help="default: one per GPU, or one on CPUs"
    )
    command.add_argument("--site", metavar="FILE", type=Path, help=SITE)
    command.add_argument("--after", metavar="JOB", help="id of a Slurm job that the chain waits for")


def _add_launch(verbs: Any, on_recipe: argparse.ArgumentParser, machine: argparse.ArgumentParser) -> None:
    launch = verbs.add_parser(
        "launch",
        parents=[on_recipe],
        help="run a recipe on a cluster or here: a chain of jobs, finished stages skipped",
    )
    launch.add_argument(
        "--to",
        choices=BACKENDS,
        required=True,
        help="the scheduler; local: this machine",
    )
    _add_size(launch)
    launch.add_argument("--print", action="store_true", help="print the scripts; write and submit nothing")

    directory = argparse.ArgumentParser(add_help=False)
    directory.add_argument(
        "directory", metavar="DIR", type=Path, help="the run's directory, such as runs/NAME"
    )
    _add_output(directory)
    text = "compare all files of a run, a sweep, an artefact or an export with the hashes recorded as they were made"
    verify = verbs.add_parser(
        "verify", help=text, description=f"{text[0].upper()}{text[1:]}. Exit status 1 if any is damaged."
    )
    verify.add_argument("directory", metavar="DIR", type=Path, help="where to look, and below")
    _add_output(verify)
    verbs.add_parser("status", parents=[directory, machine], help="where a run stands, from its files")
    logs = verbs.add_parser("logs", parents=[directory], help="what a launched run's jobs have printed")
    logs.add_argument("--version", metavar="NAME", help="of this version's jobs alone")
    logs.add_argument("-f", "--follow", action="store_true", help="the last lines, and those to come")


def _positive(text: str, least: int = 1) -> int:
    if not text.isdecimal() or int(text) < least:
        raise argparse.ArgumentTypeError(f"{text}: should be a whole number, at least {least}")
    return int(text)


def _natural(text: str) -> int:
    return _positive(text, least=0)


def _gigabytes(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text}: should be a number above 0")
    return value


def _recipe_options() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(add_help=False)
    options.add_argument("recipe", metavar="RECIPE", type=Path, help="a YAML file")
    options.add_argument(
        "--out", metavar="DIR", type=Path, help="where everything is written (default runs/NAME)"
    )
    options.add_argument(
        "--set",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="change a field, as in training.seq_length=512 (a mapping is merged; KEY:=VALUE replaces it); repeatable",
    )
    _add_output(options)
    return options


def _json_option() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(add_help=False)
    options.add_argument("--json", action="store_true", help="print JSON")
    return options


def _add_output(command: argparse.ArgumentParser) -> None:
    """What is shown, an option of every command; `level` is that of `logs.configure`."""
    command.add_argument("--debug", action="store_true", help="show the traceback of an error")
    levels = command.add_mutually_exclusive_group()
    levels.add_argument(
        "--quiet", dest="level", action="store_const", const="WARNING", help="warnings and errors only"
    )
    levels.add_argument(
        "--verbose",
        dest="level",
        action="store_const",
        const="DEBUG",
        help="details as well, each line with its time, level, rank and version",
    )
