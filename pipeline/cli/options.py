"""Options that several commands have, and the types of their values."""

import argparse
import math
from pathlib import Path

SITE = "the team's `cluster:` fields, below the recipe's"


def recipe_options() -> argparse.ArgumentParser:
    """Options of every command on a recipe."""
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
    add_output(options)
    return options


def json_option() -> argparse.ArgumentParser:
    """The option of commands that can print JSON."""
    options = argparse.ArgumentParser(add_help=False)
    options.add_argument("--json", action="store_true", help="print JSON")
    return options


def add_output(command: argparse.ArgumentParser) -> None:
    """Adds the options of every command that say what is shown; `level` is that of `logs.configure`."""
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


def add_size(command: argparse.ArgumentParser) -> None:
    """Adds what a job on a cluster occupies."""
    command.add_argument("--nodes", metavar="N", type=positive, default=1, help="nodes of a training job")
    command.add_argument("--gpus-per-node", metavar="G", type=natural, default=0, help="0 trains on CPUs")
    command.add_argument(
        "--ranks-per-node", metavar="R", type=positive, help="default: one per GPU, or one on CPUs"
    )
    command.add_argument("--site", metavar="FILE", type=Path, help=SITE)
    command.add_argument("--after", metavar="JOB", help="id of a Slurm job that the chain waits for")


def positive(text: str, least: int = 1) -> int:
    """A whole number of at least `least`."""
    if not text.isdecimal() or int(text) < least:
        raise argparse.ArgumentTypeError(f"{text}: should be a whole number, at least {least}")
    return int(text)


def natural(text: str) -> int:
    """A whole number, 0 or more."""
    return positive(text, least=0)


def gigabytes(text: str) -> float:
    """A number above 0."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text}: should be a number above 0")
    return value


def integers(text: str) -> tuple[int, ...]:
    """Whole numbers with commas between."""
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text}: should read 1,2,3") from None
