"""Knowledge probes: multiple-choice questions about invariant, updated and new facts.

Kinds as in CKL (Jang et al. 2022): `invariant` facts should be kept, `updated` ones have changed, `new` ones are new.
"""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from perdure.pipeline.core.errors import PerdureError
from perdure.pipeline.core.hashes import hash_file
from perdure.pipeline.recipe.periods import period

Kind = Literal["invariant", "updated", "new"]
KINDS: tuple[Kind, ...] = get_args(Kind)
BLANK = "___"
"""Where a choice goes in a cloze question; in others it follows after a space."""
DATE = re.compile(r"^\d{4}(-\d\d(-\d\d)?)?$")
ANSWERS = ("answer", "old_answer")
"""Fields that hold the text of a choice."""


class Probe(BaseModel):
    """One line of a probe file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: Annotated[str, Field(min_length=1)]
    """Unique in its file."""
    kind: Kind
    question: Annotated[str, Field(min_length=1)]
    """A question or a beginning, or a text with one `___` (cloze)."""
    choices: Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=2)]
    """Different answers."""
    answer: str
    """The right one of `choices`."""
    old_answer: str | None = None
    """Of `choices`, what was right before the update."""
    date: Annotated[str, Field(pattern=DATE.pattern)] | None = None
    """When the fact became true: a year, a month or a day."""

    def filled(self, choice: str) -> tuple[str, str]:
        """The context before a choice, and the choice with the text after it."""
        before, blank, after = self.question.partition(BLANK)
        return (before, choice + after) if blank else (self.question.rstrip() + " ", choice)


@dataclass(frozen=True)
class Mistake:
    """A mistake in an item of a probe file.

    Attributes:
        line: Its line, from 1; None for the whole file.
        kind: The same for the same mistake of other items.
        text: What is wrong, in words.
    """

    line: int | None
    kind: str
    text: str

    def __str__(self) -> str:
        return self.text if self.line is None else f"line {self.line}: {self.text}"


@dataclass(frozen=True)
class ProbeFile:
    """A file of probes; the names of a recipe's files differ."""

    name: str
    probes: list[Probe]


def probe_files(paths: Iterable[Path]) -> list[ProbeFile]:
    """Reads files of probes.

    Raises:
        PerdureError: At the first item that is no probe, naming file and line.
    """
    found = []
    for path in paths:
        probes = []
        for item in parse_probes(path):
            if isinstance(item, list):
                raise PerdureError(f"{path}: {item[0]}")
            probes.append(item)
        found.append(ProbeFile(path.name, probes))
    return found


def probe_hashes(paths: Sequence[Path]) -> dict[str, str]:
    """SHA-256 of each file by name, after all items were checked.

    Raises:
        PerdureError: If a file is missing, or an item is no probe.
    """
    for path in paths:
        if not path.is_file():
            raise PerdureError(f"{path}: no such file of probes; restore it, or change evaluation.probes")
    probe_files(paths)  # what is wrong with an item should not be found out by ranks
    return {path.name: hash_file(path) for path in paths}


def parse_probes(path: Path) -> Iterator[Probe | list[Mistake]]:
    """Yields the probes of a JSONL file and, in place of invalid items, their mistakes."""
    lines: dict[str, int] = {}
    empty = True
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            empty = False
            item, found = _parse(line)
            name = item.get("id") if isinstance(item, dict) else None
            if isinstance(name, str) and lines.setdefault(name, number) != number:
                found["id twice"] = f"id {name!r} stands in line {lines[name]} already; ids should differ"
            if found:
                yield [Mistake(number, kind, text) for kind, text in found.items()]
            else:
                yield Probe.model_validate(item)
    if empty:
        yield [Mistake(None, "empty", "holds no probe; should have one a line")]


def _parse(line: bytes) -> tuple[Any, dict[str, str]]:
    """The parsed line, and its mistakes by kind."""
    try:
        item = json.loads(line)
    except UnicodeDecodeError:
        return None, {"UTF-8": "not UTF-8"}
    except (ValueError, RecursionError) as error:
        return None, {"JSON": f"not JSON ({error})"}
    if not isinstance(item, dict):
        return item, {"object": "should be an object with id, kind, question, choices and answer"}
    try:
        Probe.model_validate(item)
        found = {}
    except ValidationError as error:
        found = dict(_of_type(detail, item) for detail in error.errors())
    return item, found | dict(_of_sense(item))


def _of_type(detail: Any, item: dict) -> tuple[str, str]:
    """Kind and message of one of pydantic's error entries."""
    place, kind = ".".join(map(str, detail["loc"])), detail["type"]
    field, value = detail["loc"][0], detail["input"]
    if kind == "missing":
        return f"{place} {kind}", f"{place} is missing"
    if kind == "extra_forbidden":
        return f"{place} {kind}", f"unknown key `{place}`; there is {', '.join(Probe.model_fields)}"
    remedy, choices = detail["msg"].replace("Input should", "should"), item.get("choices")
    if (
        field in ANSWERS
        and isinstance(value, int)
        and isinstance(choices, list)
        and 0 <= value < len(choices)
    ):
        remedy = f"should be the text of a choice, such as {choices[value]!r}, not its number"
    return f"{field} {kind}", f"{place} = {value!r}: {remedy}"


def _of_sense(item: dict) -> Iterator[tuple[str, str]]:
    """Yields kinds and messages of mistakes between fields, such as an answer that is no choice."""
    choices, answer, question = item.get("choices"), item.get("answer"), item.get("question")
    if isinstance(date := item.get("date"), str) and DATE.fullmatch(date) and period(date) is None:
        yield "no date", f"date {date!r} is no date; should be as 2024, 2024-05 or 2024-05-17"
    if isinstance(choices, list) and all(isinstance(choice, str) for choice in choices):
        if len(set(choices)) < len(choices):
            yield "equal choices", "two choices are equal; they should differ"
        for field in ANSWERS:
            if isinstance(value := item.get(field), str) and value not in choices:
                yield f"{field} no choice", f"{field} {value!r} is not among the choices {choices}"
    if isinstance(answer, str) and item.get("old_answer") == answer:
        yield "old answer", f"old_answer {answer!r} is the answer; it should be another choice"
    if isinstance(question, str) and question.count(BLANK) > 1:
        yield (
            "blanks",
            f"the question has {question.count(BLANK)} blanks `{BLANK}`; it should have one at most",
        )
