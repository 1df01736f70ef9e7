"""What version 0.1 did not say, or said twice, through the command line as its user would meet it."""

import json
import stat
import subprocess
import sys

import pytest
import yaml

from tests.cases.small import english, write_lines, write_tokenizer

pytestmark = pytest.mark.slow


# ----------------------------------------------------------------------------------------- check keeps its promise


def test_17_no_separator_is_found_by_check(case):
    write_tokenizer(case.directory / "tok", eos=None)
    write_lines(case.directory / "in" / "a.jsonl", [english(number) for number in range(120)])
    status, _, err = case.perdure("check")
    assert status == 2 and "tokenizer.eos_token" in err


def test_19_a_file_added_after_training_is_said_by_check(tokenized):
    status, _, err = tokenized.perdure("run")
    assert status == 0, err
    write_lines(tokenized.directory / "in" / "b.jsonl", [english(number) for number in range(500, 520)])
    status, out, err = tokenized.perdure("check")
    assert status == 2 and "versions.v" in err, out


def test_23_one_mistake_of_a_probe_file_once_and_all_kinds_at_once(tokenized):
    rows = [
        {
            "id": number,
            "kind": "old",
            "question": f"Which number follows {number}?",
            "choices": [str(number + 1), str(number + 2)],
            "answer": 0,
        }
        for number in range(40)
    ]
    (tokenized.directory / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    tokenized.tree["evaluation"]["probes"] = ["p.jsonl"]
    status, _, err = tokenized.perdure("check")
    problems = [line for line in err.splitlines() if line.startswith("  ")]
    assert status == 2 and len(problems) <= 4
    assert all(field in err for field in ("kind", "answer")) and "40" in err


@pytest.mark.parametrize("mask", [0o022, 0o077])
def test_26_files_follow_the_umask(tokenized, mask):
    (tokenized.directory / "r.yaml").write_text(yaml.safe_dump(tokenized.tree))
    command = [sys.executable, "-m", "perdure.pipeline.cli", "run", "r.yaml"]
    done = subprocess.run(command, umask=mask, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = {path: stat.S_IMODE(path.stat().st_mode) for path in (tokenized.directory / "out").rglob("*")}
    wrong = {
        str(path): oct(mode)
        for path, mode in found.items()
        if mode != (0o777 if path.is_dir() else 0o666) & ~mask
    }
    assert len(found) > 20 and not wrong


def test_27_tasks_that_do_not_exist(tokenized):
    (tokenized.directory / "tasks").mkdir()
    task = {
        "task": "arithmetic_small",
        "dataset_path": "json",
        "output_type": "multiple_choice",
        "doc_to_text": "{{q}}",
    }
    (tokenized.directory / "tasks" / "small.yaml").write_text(yaml.safe_dump(task))
    tokenized.tree["evaluation"]["harness"] = {"include_path": "tasks", "tasks": ["arithmetic_smal"]}
    status, _, err = tokenized.perdure("check")
    assert status == 2 and "arithmetic_small" in err and "evaluation.harness.tasks" in err
