"""Knowledge probes: questions with choices, tagged by what a version should do with what it knew.

Kinds as in CKL (Jang et al. 2022): `invariant` facts should be kept, `updated` ones have changed, `new` ones are new.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from perdure.pipeline.errors import PerdureError
from perdure.pipeline.manifest import hash_file

Kind = Literal["invariant", "updated", "new"]
KINDS: tuple[Kind, ...] = get_args(Kind)
BLANK = "___"
"""Where a choice goes in a cloze question; in others it follows after a blank."""


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
    date: Annotated[str, Field(pattern=r"^\d{4}(-\d\d(-\d\d)?)?$")] | None = None
    """When the fact became true: a year, a month or a day."""

    def filled(self, choice: str) -> tuple[str, str]:
        """The text that a choice makes: what comes before it, and the choice with what follows."""
        before, blank, after = self.question.partition(BLANK)
        return (before, choice + after) if blank else (self.question.rstrip() + " ", choice)


@dataclass(frozen=True)
class ProbeFile:
    """A file of probes, by name; the names of a recipe's files differ."""

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
            if isinstance(item, str):
                raise PerdureError(f"{path}: {item}")
            probes.append(item)
        found.append(ProbeFile(path.name, probes))
    return found


def probe_hashes(paths: Sequence[Path]) -> dict[str, str]:
    """What identifies each file's content, by name.

    Raises:
        PerdureError: If a file is missing, or an item is no probe.
    """
    for path in paths:
        if not path.is_file():
            raise PerdureError(f"{path}: no such file of probes; restore it, or change evaluation.probes")
    probe_files(paths)  # what is wrong with an item should not be found out by ranks
    return {path.name: hash_file(path) for path in paths}


def parse_probes(path: Path) -> Iterator[Probe | str]:
    """The probes of a JSONL file and, in place of items that are none, what is wrong with them, with the line."""
    lines: dict[str, int] = {}
    empty = True
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            empty = False
            probe = _parse(line)
            if isinstance(probe, Probe) and probe.id in lines:
                probe = f"id {probe.id!r} stands in line {lines[probe.id]} already; ids should differ"
            if isinstance(probe, Probe):
                lines[probe.id] = number
                yield probe
            else:
                yield f"line {number}: {probe}"
    if empty:
        yield "holds no probe; should have one a line"


def _parse(line: bytes) -> Probe | str:
    try:
        probe = Probe.model_validate(json.loads(line))
    except UnicodeDecodeError:
        return "not UTF-8"
    except json.JSONDecodeError as error:
        return f"not JSON ({error})"
    except ValidationError as error:
        return _complaint(error)
    if len(set(probe.choices)) < len(probe.choices):
        return "two choices are equal; they should differ"
    for field, value in (("answer", probe.answer), ("old_answer", probe.old_answer)):
        if value is not None and value not in probe.choices:
            return f"{field} {value!r} is not among the choices {probe.choices}"
    if probe.old_answer == probe.answer:
        return f"old_answer {probe.answer!r} is the answer; it should be another choice"
    if probe.question.count(BLANK) > 1:
        return f"the question has {probe.question.count(BLANK)} blanks `{BLANK}`; it should have one at most"
    return probe


def _complaint(error: ValidationError) -> str:
    detail = error.errors()[0]
    place, kind = ".".join(map(str, detail["loc"])), detail["type"]
    if not place:
        return "should be an object with id, kind, question, choices and answer"
    if kind == "missing":
        return f"{place} is missing"
    if kind == "extra_forbidden":
        return f"unknown key `{place}`; there is {', '.join(Probe.model_fields)}"
    return f"{place} = {detail['input']!r}: {detail['msg'].replace('Input should', 'should')}"
