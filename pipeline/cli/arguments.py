"""The command line's verbs and options."""

import argparse
import shutil
import textwrap
from importlib.metadata import version
from pathlib import Path

from perdure.launch.backends import BACKENDS
from perdure.pipeline.cli.options import (
    SITE,
    add_output,
    add_size,
    gigabytes,
    integers,
    json_option,
    positive,
    recipe_options,
)

INSPECT = "data inspect"
"""A verb of two words: what follows `data` is else a recipe."""
GPUS_PER_NODE = 8
"""Of `check --nodes`."""


GROUPS = ("make", "look", "move")
"""Headings of `perdure --help`, in order."""
OLD_SPELLINGS = ("log", "diff", "branch", "compare")
"""Commands that now stand under `versions`, and go on working without it."""


class _Verbs:
    """Adds commands to a parser, and lists them by group."""

    def __init__(self, parser: argparse.ArgumentParser):
        self.parsers = parser.add_subparsers(
            dest="verb", required=True, metavar="COMMAND", prog=parser.prog, help=argparse.SUPPRESS
        )
        self.listed: dict[str, list[tuple[str, str]]] = {group: [] for group in GROUPS}

    def add(
        self, group: str, verb: str, text: str, *parents: argparse.ArgumentParser
    ) -> argparse.ArgumentParser:
        """Adds a command with its line of help."""
        self.listed[group].append((verb, text))
        return self.parsers.add_parser(verb, parents=list(parents), description=_sentence(text))

    def text(self) -> str:
        """The commands with their help, below the headings of their groups."""
        width = max(60, min(shutil.get_terminal_size().columns, 120))
        lines = []
        for group, verbs in self.listed.items():
            lines.append(f"{group}:")
            for verb, text in verbs:
                lines += textwrap.wrap(
                    text, width, initial_indent=f"  {verb:<14}", subsequent_indent=" " * 16
                )
            lines.append("")
        return "\n".join(lines)


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


def parser() -> argparse.ArgumentParser:
    """The parser of the whole command line; `verb` of what it returns is a key of `entry.VERBS`."""
    parser = argparse.ArgumentParser(
        prog="perdure",
        usage="perdure [-h] [--version] COMMAND ...",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Begin with `perdure recipe new my.yaml`, `perdure check my.yaml`, `perdure run my.yaml`.",
    )
    parser.add_argument("--version", action="version", version=f"perdure {version('perdure')}")
    verbs, on_recipe, machine = _Verbs(parser), recipe_options(), json_option()
    _add_recipe(verbs)
    _add_stages(verbs, on_recipe, machine)
    _add_sweep(verbs, on_recipe)
    _add_launch(verbs, on_recipe)
    _add_check(verbs, on_recipe, machine)
    _add_looks(verbs, on_recipe, machine)
    _add_versions(verbs, on_recipe, machine)
    _add_models(verbs)
    purpose = "Continual pre-training: an existing model and new text in, the model's next version out."
    old = f"old spellings: {', '.join(OLD_SPELLINGS)} (now of `perdure versions`)"
    parser.description = f"{purpose}\n\n{verbs.text()}\n{old}"
    return parser


def _add_recipe(verbs: _Verbs) -> None:
    recipe = verbs.add("make", "recipe", "a new recipe, or the schema of recipes")
    actions = recipe.add_subparsers(dest="action", required=True, metavar="ACTION")
    for action, text in (
        ("new", "a commented recipe to copy; refuses to overwrite"),
        ("schema", "the JSON schema, with which editors complete and check recipes"),
    ):
        command = actions.add_parser(action, help=text)
        command.add_argument("file", metavar="FILE", nargs="?", type=Path, help="default: print it")
        add_output(command)


def _add_stages(verbs: _Verbs, on_recipe: argparse.ArgumentParser, machine: argparse.ArgumentParser) -> None:
    verbs.add("make", "run", "all stages of all versions, skipping what is finished", on_recipe)
    verbs.add("make", "data", "clean, split and tokenise the sources", on_recipe)
    text = "what one version's ranks need (scores, plan), to start them elsewhere"
    prepare = verbs.add("make", "prepare", text, on_recipe)
    prepare.add_argument("--version", metavar="NAME", required=True, help="the version to prepare")
    train = verbs.add("make", "train", "train one version, from where it stopped", on_recipe)
    train.add_argument("--version", metavar="NAME", required=True, help="the version to train")
    text = "measure finished versions on held-out documents where that is still to do"
    evaluate = verbs.add("make", "eval", text, on_recipe)
    evaluate.add_argument(
        "--version", metavar="NAME", help="the version to measure; default: all that are finished"
    )
    evaluate.add_argument(
        "--ranks",
        metavar="N",
        type=positive,
        help="how many ranks may be started; default: the recipe's layout",
    )
    verbs.add("make", "report", "write report.json and report/index.html", on_recipe, machine)


def _add_check(verbs: _Verbs, on_recipe: argparse.ArgumentParser, machine: argparse.ArgumentParser) -> None:
    text = "what a recipe would do, or all of its mistakes; starts nothing"
    check = verbs.add("look", "check", text, on_recipe, machine)
    check.add_argument(
        "--nodes",
        metavar="N",
        type=positive,
        help="what it would take on N nodes: memory, days, cost; what this machine lacks is no mistake then",
    )
    check.add_argument(
        "--gpus-per-node", metavar="G", type=positive, help=f"GPUs of a node; default: {GPUS_PER_NODE}"
    )
    check.add_argument("--site", metavar="FILE", type=Path, help=SITE)


def _add_looks(verbs: _Verbs, on_recipe: argparse.ArgumentParser, machine: argparse.ArgumentParser) -> None:
    text = "what the data stage read, dropped and kept, by source; takes a recipe or a directory"
    inspect = verbs.add("look", INSPECT, text, on_recipe, machine)
    inspect.add_argument("--html", metavar="FILE", type=Path, help="write a page instead of tables")
    directory = argparse.ArgumentParser(add_help=False)
    directory.add_argument(
        "directory", metavar="DIR", type=Path, help="the run's directory, such as runs/NAME"
    )
    add_output(directory)
    verbs.add("look", "status", "where a run stands, from its files", directory, machine)
    logs = verbs.add("look", "logs", "what a launched run's jobs have printed", directory)
    logs.add_argument("--version", metavar="NAME", help="of this version's jobs alone")
    logs.add_argument("-f", "--follow", action="store_true", help="the last lines, and those to come")
    text = "compare all files of a run, a sweep, an artefact or an export with the hashes recorded as they were made"
    verify = verbs.add("look", "verify", text)
    verify.description = f"{_sentence(text)} Exit status 1 if any is damaged."
    verify.add_argument("directory", metavar="DIR", type=Path, help="where to look, and below")
    add_output(verify)


def _add_versions(
    verbs: _Verbs, on_recipe: argparse.ArgumentParser, machine: argparse.ArgumentParser
) -> None:
    """Adds `versions log | diff | branch | compare`, and each of them as a command of its own, which `--help` does not list."""
    versions = verbs.add("look", "versions", "versions of a run: log, diff, branch; of several runs: compare")
    actions = versions.add_subparsers(dest="action", required=True, metavar="ACTION")
    texts = {
        "log": "the tree of versions: tokens, schedules, losses, unseen data; who read a document",
        "diff": "what differs between two versions: recipe, schedule, data, results",
        "branch": "a recipe that adds a branch to another: a complete decay off a checkpoint of a version",
        "compare": "versions of several runs side by side, from their reports",
    }
    parents = {"log": [on_recipe, machine], "diff": [on_recipe, machine], "branch": [], "compare": [machine]}
    for name, text in texts.items():
        listed = actions.add_parser(name, parents=parents[name], help=text, description=_sentence(text))
        old = verbs.parsers.add_parser(name, parents=parents[name], description=_sentence(text))
        for command in (listed, old):
            if name == "log":
                text = "which versions read the document with this id (or SOURCE:ID), in which steps, and which had not"
                command.add_argument("--contains", metavar="ID", help=text)
            elif name == "diff":
                _diff_options(command)
            elif name == "branch":
                _branch_options(command)
            elif name == "compare":
                _compare_options(command)


def _diff_options(diff: argparse.ArgumentParser) -> None:
    for side in ("left", "right"):
        diff.add_argument(side, metavar="VERSION")


def _branch_options(branch: argparse.ArgumentParser) -> None:
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
    add_output(branch)


def _compare_options(compare: argparse.ArgumentParser) -> None:
    compare.add_argument(
        "places",
        metavar="DIR",
        nargs="+",
        type=Path,
        help="a run's directory, or a version's: RUN/versions/NAME",
    )
    compare.add_argument("--html", metavar="FILE", type=Path, help="write a page as well")
    add_output(compare)


def _add_models(verbs: _Verbs) -> None:
    export = verbs.add("move", "export", "write a version or a checkpoint as a Hugging Face model")
    export.add_argument("run", metavar="RUN", type=Path, help="a run's directory")
    export.add_argument("name", metavar="VERSION", help="one of its versions")
    export.add_argument("--step", type=int, help="a checkpoint that is kept; default: the finished version")
    export.add_argument("--to", metavar="DIR", type=Path, required=True, help="a new directory")
    export.add_argument(
        "--max-shard-gb",
        metavar="GB",
        type=gigabytes,
        default=5.0,
        help="bound of a safetensors file; default: 5",
    )
    text = "what is understood of a Hugging Face model, as a recipe's sections"
    imported = verbs.add("move", "import", text)
    imported.add_argument("model", metavar="DIR", type=Path, help="a Hugging Face model's directory")
    for command in (export, imported):
        add_output(command)


def _add_sweep(verbs: _Verbs, on_recipe: argparse.ArgumentParser) -> None:
    text = "one recipe with several values of some fields and several seeds; takes a recipe or a sweep's file"
    sweep = verbs.add("make", "sweep", text, on_recipe)
    sweep.add_argument(
        "--over",
        metavar="KEY=VALUE,VALUE",
        action="append",
        default=[],
        help="values of a field, as in versions.update.mixture.replay.share=0,0.05; repeatable, all are combined",
    )
    sweep.add_argument("--seeds", metavar="N,N", type=integers, default=(), help="seeds of every setting")
    sweep.add_argument("--report", action="store_true", help="the table of what is there; runs nothing")
    sweep.add_argument(
        "--print", action="store_true", help="list the runs and what they share; start nothing"
    )
    sweep.add_argument("--to", choices=("slurm",), help="submit the runs instead, as `perdure launch` does")
    add_size(sweep)


def _add_launch(verbs: _Verbs, on_recipe: argparse.ArgumentParser) -> None:
    text = "run a recipe on a cluster or here: a chain of jobs, finished stages skipped"
    launch = verbs.add("make", "launch", text, on_recipe)
    launch.add_argument(
        "--to",
        choices=BACKENDS,
        required=True,
        help="the scheduler; local: this machine",
    )
    add_size(launch)
    launch.add_argument("--print", action="store_true", help="print the scripts; write and submit nothing")
