"""Small inputs that version 0.1 answered wrongly, each through the command line as its user would meet it.

Each stands for a kind, and the kind has its own tests beside the code. A test is named after what was wrong.
"""

from collections.abc import Callable
from pathlib import Path

import pytest
from support import start_ranks

from tests.cases.small import Case, english, write_lines, write_model, write_tokenizer


@pytest.fixture
def case(tmp_path, monkeypatch, capsys) -> Case:
    monkeypatch.chdir(tmp_path)
    made = Case(tmp_path, capsys)

    def start(directory: Path, world_size: int, task: str = "train") -> None:
        outcome = start_ranks(directory, world_size, task)
        assert outcome.returncode == 0, outcome.stderr

    monkeypatch.setattr("perdure.pipeline.train.ranks.start", start)
    return made


@pytest.fixture
def tokenized(case) -> Case:
    """A case over 120 English documents in `in/a.jsonl`."""
    write_tokenizer(case.directory / "tok")
    write_lines(case.directory / "in" / "a.jsonl", [english(number) for number in range(120)])
    return case


@pytest.fixture
def with_model(case) -> Callable[..., Case]:
    """A case over a model directory, made with other fields of its configuration."""

    def make(**changes) -> Case:
        write_model(case.directory / "model", **changes)
        write_lines(case.directory / "in" / "a.jsonl", [english(number) for number in range(60)])
        case.tree["tokenizer"] = {"type": "huggingface", "path": "model"}
        case.tree["model"] = {"type": "huggingface", "path": "model"}
        return case

    return make
