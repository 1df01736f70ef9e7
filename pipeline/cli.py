"""The command line: a verb, a recipe, and a function for it. What a verb needs is imported when it is called."""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perdure.pipeline.errors import Stopped

if TYPE_CHECKING:
    from perdure.pipeline.recipe import Recipe

Say = Callable[[str], None]
INSPECT = "data inspect"
"""A verb of two words: what follows `data` is else a recipe."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command.

    Args:
        arguments: What stands after `perdure`; default: the process's own.

    Returns:
        The exit status: 0 (also when a signal stopped training, which is saved), 1 for a mishap, 2 for a bad recipe
        or command line, 130 when interrupted, 141 when nobody reads the output.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if arguments[:2] == INSPECT.split():
        arguments[:2] = [INSPECT]
    options = _parser().parse_args(arguments)
    try:
        VERBS[options.verb](options)
    except KeyboardInterrupt:
        print("interrupted; run the same command again to go on", file=sys.stderr)
        return 130
    except Stopped:  # by a signal, after saving; the trainer has said so
        return 0
    except BrokenPipeError:  # whoever read our output has gone, as `head` does; Python would complain at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except Exception as error:
        if options.debug:
            raise
        return _report(error)
    return 0


def _report(error: Exception) -> int:
    from perdure.pipeline.errors import PerdureError

    if isinstance(error, PerdureError):
        print(f"error: {error}", file=sys.stderr)
        return error.exit_status
    text = " ".join(str(error).split())
    print(f"error: {type(error).__name__}: {text}; run again with --debug for the traceback", file=sys.stderr)
    return 1


# ------------------------------------------------------------------------------------------- verbs


def _run(options: argparse.Namespace) -> None:
    recipe = _ready(options)
    from perdure.pipeline.run import run

    with _disk_errors(recipe):
        run(recipe, options.recipe, _say())


def _check(options: argparse.Namespace) -> None:
    from perdure.pipeline.errors import RecipeError

    try:
        recipe = _ready(options)
    except RecipeError as error:
        if options.json:
            _print_json({"problems": [vars(problem) for problem in error.problems]})
        raise
    from perdure.pipeline.preview import preview

    if options.json:
        _print_json({"problems": []} | preview(recipe))
    else:
        from perdure.pipeline.preview_text import print_preview

        print_preview(preview(recipe))


def _data(options: argparse.Namespace) -> None:
    recipe = _ready(options)
    from perdure.pipeline.data.stage import run_data

    with _disk_errors(recipe):
        run_data(recipe, _say())


def _inspect(options: argparse.Namespace) -> None:
    from perdure.pipeline.errors import PerdureError
    from perdure.pipeline.inspection.gather import of_directory, of_recipe

    if options.recipe.is_dir():
        if options.set or options.out:
            raise PerdureError(f"{options.recipe} is a directory: --set and --out are for recipes")
        found = of_directory(options.recipe)
    else:
        found = of_recipe(_load(options))
    if options.html is not None:
        from perdure.pipeline.inspection.page import render_inspection
        from perdure.pipeline.manifest import disk_errors, write_atomic

        with disk_errors(options.html):
            write_atomic(options.html, render_inspection(found))
        print(f"wrote {options.html}", file=sys.stderr)
    if options.json:
        _print_json(found)
    elif options.html is None:
        from perdure.pipeline.inspection.text import print_inspection

        print_inspection(found)


def _train(options: argparse.Namespace) -> None:
    recipe = _ready(options)
    name = _known_version(recipe, options.recipe, options.version)
    from perdure.pipeline.run import train

    with _disk_errors(recipe):
        train(recipe, options.recipe, name, _say())


def _eval(options: argparse.Namespace) -> None:
    recipe = _load(options)
    name = _known_version(recipe, options.recipe, options.version) if options.version else None
    from perdure.pipeline.run import evaluate

    with _disk_errors(recipe):
        evaluate(recipe, options.recipe, name, _say())


def _report_verb(options: argparse.Namespace) -> None:
    recipe = _load(options)
    from perdure.pipeline.evaluate.report import write_report
    from perdure.pipeline.manifest import read_json

    with _disk_errors(recipe):
        write_report(recipe, _say(sys.stderr if options.json else None))
    if options.json:
        _print_json(read_json(recipe.directory / "report.json"))


def _export(options: argparse.Namespace) -> None:
    from perdure.pipeline.convert.verbs import export

    max_shard_bytes = int(options.max_shard_gb * 1e9)
    export(options.run, options.name, options.step, options.to, max_shard_bytes, _say())


def _import(options: argparse.Namespace) -> None:
    from perdure.pipeline.convert.verbs import describe

    print(describe(options.model), end="")


def _prepare(options: argparse.Namespace) -> None:
    recipe = _ready(options)
    name = _known_version(recipe, options.recipe, options.version)
    from perdure.pipeline.run import prepare

    with _disk_errors(recipe):
        prepare(recipe, options.recipe, name, _say())


def _launch(options: argparse.Namespace) -> None:
    from perdure.launch.launch import fitted, launch, texts
    from perdure.launch.slurm import Size

    ranks = options.ranks_per_node or options.gpus_per_node or 1
    size = Size(options.nodes, options.gpus_per_node, ranks)
    recipe = fitted(options.recipe, options.set, options.out, options.site, size)
    if options.print:
        for file, text in texts(recipe, options.to, size, Path.cwd()):
            print(f"# ==> {file}\n{text}")
    else:
        launch(recipe, options.to, size, Path.cwd(), options.after, _say())


def _status(options: argparse.Namespace) -> None:
    from perdure.launch.status import lines, status

    found = status(options.directory)
    if options.json:
        _print_json(found)
    else:
        for line in lines(found):
            print(line)


def _logs(options: argparse.Namespace) -> None:
    from perdure.launch.status import log_files

    files = log_files(options.directory, options.version)
    if options.follow:
        os.execvp("tail", ["tail", "-n", "50", "-F", *map(str, files)])
    for file in files:
        print(f"==> {file} <==", flush=True)
        sys.stdout.write(file.read_text(encoding="utf-8", errors="replace"))


def _log(options: argparse.Namespace) -> None:
    recipe = _load_lineage(options)
    from perdure.pipeline.log import log

    if options.json:
        _print_json(log(recipe))
    else:
        from perdure.pipeline.log_text import print_log

        print_log(log(recipe))


def _diff(options: argparse.Namespace) -> None:
    recipe = _load_lineage(options)
    from perdure.pipeline.log import diff

    names = [
        _known_version(recipe, options.recipe, name, "version") for name in (options.left, options.right)
    ]
    if options.json:
        _print_json(diff(recipe, *names))
    else:
        from perdure.pipeline.log_text import print_diff

        print_diff(diff(recipe, *names))


def _branch(options: argparse.Namespace) -> None:
    from perdure.pipeline.log import branch_recipe

    schedule = {"type": "decay"} | ({} if options.min_lr is None else {"min_lr": options.min_lr})
    name = options.name or f"{options.parent}-{options.at}"
    text = branch_recipe(
        options.recipe, options.to, options.out, options.parent, name, options.at, options.tokens, schedule
    )
    if options.to is None:
        print(text, end="")
    else:
        _write_new(options.to, text)


def _recipe(options: argparse.Namespace) -> None:
    if options.action == "schema":
        from perdure.pipeline.recipe import json_schema

        content = json_schema() + "\n"
    else:
        from importlib.resources import files

        content = (files("perdure.data_recipes") / "template.yaml").read_text(encoding="utf-8")
    if options.file is None:
        print(content, end="")
    else:
        _write_new(options.file, content)


VERBS: dict[str, Callable[[argparse.Namespace], None]] = {
    "run": _run,
    "check": _check,
    "data": _data,
    INSPECT: _inspect,
    "prepare": _prepare,
    "train": _train,
    "eval": _eval,
    "report": _report_verb,
    "export": _export,
    "import": _import,
    "launch": _launch,
    "status": _status,
    "logs": _logs,
    "log": _log,
    "diff": _diff,
    "branch": _branch,
    "recipe": _recipe,
}


# ------------------------------------------------------------------------------------------- pieces


def _ready(options: argparse.Namespace) -> "Recipe":
    """The recipe, free of mistakes."""
    from perdure.pipeline.check import load_checked

    return load_checked(options.recipe, options.set, options.out)


def _load(options: argparse.Namespace) -> "Recipe":
    """The recipe, for verbs that work on what is there: its sources may be gone."""
    from perdure.pipeline.recipe import load_recipe

    return load_recipe(options.recipe, options.set, options.out)


def _load_lineage(options: argparse.Namespace) -> "Recipe":
    """The recipe, its sources aside: every parent stands before its versions."""
    from perdure.pipeline.checks.versions import parent
    from perdure.pipeline.errors import RecipeError

    recipe = _load(options)
    found = [
        problem for name, version in recipe.versions.items() for problem in parent(recipe, name, version)
    ]
    if found:
        raise RecipeError(str(options.recipe), found)
    return recipe


def _known_version(recipe: "Recipe", source: Path, name: str, option: str = "--version") -> str:
    from perdure.pipeline.checks.hints import near
    from perdure.pipeline.errors import Problem, RecipeError

    if name not in recipe.versions:
        remedy = f"no such version{near(name, recipe.versions)}"
        raise RecipeError(str(source), [Problem(option, name, remedy)])
    return name


def _say(stream: Any = None) -> Say:
    """Prints a line: through rich on a terminal, plainly otherwise, at once in either case."""
    stream = stream or sys.stdout
    if stream.isatty():
        from rich.console import Console

        console = Console(file=stream, highlight=True)
        return lambda line: console.print(line, markup=False, soft_wrap=True)
    return lambda line: print(line, file=stream, flush=True)


def _disk_errors(recipe: "Recipe") -> Any:
    from perdure.pipeline.manifest import disk_errors

    return disk_errors(recipe.directory)


def _print_json(value: Any) -> None:
    import json

    print(json.dumps(value, indent=1, default=str, ensure_ascii=False))


def _write_new(path: Path, content: str) -> None:
    from perdure.pipeline.errors import PerdureError

    if path.exists():
        raise PerdureError(f"{path} exists already; choose another name or delete it")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as file:
            file.write(content)
    except OSError as error:
        raise PerdureError(f"{path}: cannot be written ({error.strerror})") from None
    print(f"wrote {path}")


# ----------------------------------------------------------------------------------- command line


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="perdure",
        description="Continual pre-training: an existing model and new text in, the model's next version out.",
        epilog="Begin with `perdure recipe new my.yaml`, `perdure check my.yaml`, `perdure run my.yaml`.",
    )
    parser.add_argument("--version", action="version", version=f"perdure {version('perdure')}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="COMMAND")
    on_recipe, machine = _recipe_options(), _json_option()

    verbs.add_parser("run", parents=[on_recipe], help="all stages of all versions, skipping what is finished")
    verbs.add_parser(
        "check",
        parents=[on_recipe, machine],
        help="what a recipe would do, or all of its mistakes; starts nothing",
    )
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
    branch.add_argument("--debug", action="store_true", help="show the traceback of an error")
    train.add_argument("--version", metavar="NAME", required=True, help="the version to train")
    evaluate.add_argument(
        "--version", metavar="NAME", help="the version to measure; default: all that are finished"
    )
    export.add_argument("run", metavar="RUN", type=Path, help="a run's directory")
    export.add_argument("name", metavar="VERSION", help="one of its versions")
    export.add_argument("--step", type=int, help="a checkpoint that is kept; default: the finished version")
    export.add_argument("--to", metavar="DIR", type=Path, required=True, help="a new directory")
    export.add_argument(
        "--max-shard-gb",
        metavar="GB",
        type=float,
        default=5.0,
        help="bound of a safetensors file; default: 5",
    )
    imported.add_argument("model", metavar="DIR", type=Path, help="a Hugging Face model's directory")
    for command in (export, imported):
        command.add_argument("--debug", action="store_true", help="show the traceback of an error")

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
        command.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def _add_launch(verbs: Any, on_recipe: argparse.ArgumentParser, machine: argparse.ArgumentParser) -> None:
    launch = verbs.add_parser(
        "launch",
        parents=[on_recipe],
        help="run a recipe on a cluster: a chain of jobs, finished stages skipped",
    )
    launch.add_argument("--to", choices=("slurm", "k8s", "sky"), required=True, help="the scheduler")
    launch.add_argument("--nodes", metavar="N", type=_positive, default=1, help="nodes of a training job")
    launch.add_argument("--gpus-per-node", metavar="G", type=_natural, default=0, help="0 trains on CPUs")
    launch.add_argument(
        "--ranks-per-node", metavar="R", type=_positive, help="default: one per GPU, or one on CPUs"
    )
    launch.add_argument(
        "--site", metavar="FILE", type=Path, help="the team's `cluster:` fields, below the recipe's"
    )
    launch.add_argument("--after", metavar="JOB", help="id of a Slurm job that the chain waits for")
    launch.add_argument("--print", action="store_true", help="print the scripts; write and submit nothing")

    directory = argparse.ArgumentParser(add_help=False)
    directory.add_argument(
        "directory", metavar="DIR", type=Path, help="the run's directory, such as runs/NAME"
    )
    directory.add_argument("--debug", action="store_true", help="show the traceback of an error")
    verbs.add_parser("status", parents=[directory, machine], help="where a run stands, from its files")
    logs = verbs.add_parser("logs", parents=[directory], help="what a launched run's jobs have printed")
    logs.add_argument("--version", metavar="NAME", help="of this version's jobs alone")
    logs.add_argument("-f", "--follow", action="store_true", help="the last lines, and those to come")


def _positive(text: str) -> int:
    if (value := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{text}: should be at least 1")
    return value


def _natural(text: str) -> int:
    if (value := int(text)) < 0:
        raise argparse.ArgumentTypeError(f"{text}: should be at least 0")
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
        help="change a field, as in training.seq_length=512; repeatable",
    )
    options.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return options


def _json_option() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(add_help=False)
    options.add_argument("--json", action="store_true", help="print JSON")
    return options


if __name__ == "__main__":
    sys.exit(main())
