"""Scores of generated Python beside the right answer, as VersiCode has them (Wu et al. 2024, arXiv 2406.07411).

`python -m perdure.pipeline.evaluate.code_scores OUTPUTS.jsonl --k 1` prints those of a file as JSON. A line of it is an item:

- `answer`: the code that is right;
- `outputs`: what the model gave, one or more;
- `name`: the name of the API that an output has to use; default: none is asked for;
- `filled`: with each output in its place, the program that should parse; default: the outputs themselves;
- `passed`: of each output, whether your own tests passed, for pass@k; of every item or of none. Nothing is ever run here.
"""

import argparse
import ast
import io
import math
import textwrap
import tokenize
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from perdure.pipeline.core.console import print_json
from perdure.pipeline.core.errors import PerdureError
from perdure.pipeline.core.hints import near


class Item(BaseModel):
    """A line of a file of outputs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    answer: Annotated[str, Field(min_length=1)]
    outputs: Annotated[list[str], Field(min_length=1)]
    name: Annotated[str, Field(min_length=1)] | None = None
    filled: list[str] | None = None
    passed: list[bool] | None = None

    @model_validator(mode="after")
    def _one_of_each(self) -> "Item":
        for field in ("filled", "passed"):
            values = getattr(self, field)
            if values is not None and len(values) != len(self.outputs):
                raise ValueError(f"`{field}` has {len(values)} entries, `outputs` {len(self.outputs)}")
        return self


def pass_at_k(outputs: int, correct: int, k: int) -> float:
    """The chance that one of k outputs is correct, drawn from all without replacement (Chen et al. 2021, arXiv 2107.03374).

    Args:
        outputs: How many there are, at least k.
        correct: How many of them are correct.
        k: How many are drawn.
    """
    return 1 - math.comb(outputs - correct, k) / math.comb(outputs, k)


def score_at_k(scores: Sequence[float], k: int) -> float:
    """The expected best score of k outputs, drawn from all without replacement; of scores 0 and 1 it is pass@k.

    Args:
        scores: Of each output, at least k.
        k: How many are drawn.
    """
    number = len(scores)
    ranked = sorted(scores, reverse=True)
    ways = (math.comb(number - place, k - 1) * score for place, score in enumerate(ranked, 1))
    return sum(ways) / math.comb(number, k)


def exact_match(answer: str, output: str) -> float:
    """1 if an output is the answer, aside from common indentation, blanks at lines' ends and empty lines around it; else 0."""
    return float(_lines(answer) == _lines(output))


def identifier_match(answer: str, output: str) -> float:
    """ISM: how much of its name the identifier has that shares most with one of the answer.

    The longest common beginning of any identifier of the answer and any of the output, over the length of the longer of these
    two. The longest beginning decides, not the best ratio, and keywords are identifiers, as in the authors' code: a long name
    that both have gives 1, whatever else differs. So look at exact matches beside it.
    """
    return _best(_names(answer), _names(output))


def prefix_match(answer: str, output: str) -> float:
    """PM: as `identifier_match`, of lines as lists of identifiers."""
    return _best([_names(line) for line in answer.split("\n")], [_names(line) for line in output.split("\n")])


def uses(output: str, name: str | None, program: str | None = None) -> bool:
    """Whether an output has the name of an API in it, if one is asked for, and can be read as Python.

    Args:
        output: What the model gave.
        name: The name; None: none is asked for.
        program: The program with the output in its place; None: the output alone, indented or not.
    """
    return (name is None or name in output) and _parses(
        textwrap.dedent(output) if program is None else program
    )


def item_scores(item: Item) -> dict[str, list[float]]:
    """Scores of every output of an item, by `em`, `ism`, `pm` and, if it says which passed, `pass`.

    ISM and PM are 0 for an output that does not use the API that is asked for, or is no Python.
    """
    found: dict[str, list[float]] = {"em": [], "ism": [], "pm": []}
    programs: Sequence[str | None] = item.filled or [None] * len(item.outputs)
    for output, program in zip(item.outputs, programs, strict=True):
        used = uses(output, item.name, program)
        found["em"].append(exact_match(item.answer, output))
        found["ism"].append(identifier_match(item.answer, output) if used else 0.0)
        found["pm"].append(prefix_match(item.answer, output) if used else 0.0)
    return found | ({"pass": [float(passed) for passed in item.passed]} if item.passed is not None else {})


def score_file(path: Path, k: int = 1) -> dict[str, float]:
    """Means over the items of a file of outputs.

    Args:
        path: JSON lines, see above.
        k: Outputs that are drawn of each item.

    Returns:
        `items`, and `em@k`, `ism@k`, `pm@k`; `pass@k` if the items say which outputs passed.

    Raises:
        PerdureError: At the first line that is no item, has fewer than k outputs, or lacks `passed` where another has it.
    """
    sums: dict[str, float] = {}
    items = read_items(path, k)
    for item in items:
        for name, scores in item_scores(item).items():
            sums[name] = sums.get(name, 0.0) + score_at_k(scores, k)
    return {"items": len(items)} | {f"{name}@{k}": value / len(items) for name, value in sums.items()}


def read_items(path: Path, k: int) -> list[Item]:
    """Reads a file of outputs.

    Raises:
        PerdureError: As `score_file` does.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise PerdureError(
            f"{path}: cannot be read ({error}); should be JSON lines with `answer` and `outputs`"
        ) from None
    found: list[Item] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            item = Item.model_validate_json(line)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"]))
            told = f"{place}: {first['msg']}" if place else first["msg"].removeprefix("Value error, ")
            if first["type"] == "extra_forbidden":
                told = f"{place}: unknown field{near(place, Item.model_fields)}"
            raise PerdureError(f"{path}: line {number}: {told}") from None
        if len(item.outputs) < k:
            raise PerdureError(f"{path}: line {number}: has {len(item.outputs)} outputs, fewer than k = {k}")
        if found and (item.passed is None) != (found[0].passed is None):
            has, other = ("lacks", "has") if item.passed is None else ("has", "lacks")
            raise PerdureError(
                f"{path}: line {number}: {has} `passed`, which the first item {other}; should be in all or in none"
            )
        found.append(item)
    if not found:
        raise PerdureError(f"{path}: has no item; should be JSON lines with `answer` and `outputs`")
    return found


def _lines(code: str) -> list[str]:
    return [line.rstrip() for line in textwrap.dedent(code).strip("\n").split("\n")]


def _parses(code: str) -> bool:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # invalid escapes
        try:
            ast.parse(code)
        except (SyntaxError, ValueError, RecursionError, MemoryError):  # null bytes are a ValueError
            return False
    return True


def _names(code: str) -> list[str]:
    """Identifiers and keywords of some code, up to where it is no Python."""
    found = []
    try:
        for token in tokenize.generate_tokens(io.StringIO(code).readline):
            if token.type == tokenize.NAME:
                found.append(token.string)
    except (tokenize.TokenError, SyntaxError):  # a bracket that stays open, an indentation that never was
        pass
    return found


def _best(answers: Sequence[Sequence], outputs: Sequence[Sequence]) -> float:
    """The longest common beginning of any two sequences, over the length of the longer one; of equally long, the first."""
    longest, share = 0, 0.0
    for answer in answers:
        for output in outputs:
            pairs = zip(answer, output)
            common = next(
                (place for place, (a, b) in enumerate(pairs) if a != b), min(len(answer), len(output))
            )
            if common > longest:
                longest, share = common, common / max(len(answer), len(output))
    return share


def main() -> None:
    """Prints the scores of a file."""
    command = "python -m perdure.pipeline.evaluate.code_scores"
    parser = argparse.ArgumentParser(
        prog=command, description="Scores of generated Python, as VersiCode has them."
    )
    parser.add_argument("outputs", metavar="FILE", type=Path, help="JSON lines with `answer` and `outputs`")
    parser.add_argument("--k", type=int, default=1, help="outputs drawn of each item; default: 1")
    options = parser.parse_args()
    if options.k < 1:
        parser.error("--k should be at least 1")
    try:
        print_json(score_file(options.outputs, options.k))
    except PerdureError as error:
        parser.exit(1, f"{error}\n")


if __name__ == "__main__":
    main()
