"""Plants faults in a copy of the tree, one at a time, and runs the tests that should notice: `python -m tests.audit [IDS ...]`.

`faults/*.yaml` lists them, a file a room. A fault is noticed if its tests pass without it and fail with it; one that makes them
hang, or whose tests fail anyway, counts as not noticed. What was found is kept in `found.json`, so that pieces add up,
and docs/audit.md is written from it: everything that was not run since it was last changed stands there as not run.
"""

import argparse
import hashlib
import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import NoReturn

import yaml

ROOT = Path(__file__).parents[2]
FOLDER = Path(__file__).parent / "faults"
FOUND = Path(__file__).parent / "found.json"
PAGE = ROOT / "docs" / "audit.md"
SECONDS = 600
"""How long the tests of one fault may take."""
LARGE = (
    *(
        "numpy",
        "pydantic",
        "pyarrow.parquet",
        "pytest",
        "hypothesis",
        "torch",
        "transformers",
        "datatrove.data",
    ),
    *("megatron.core.models.gpt.gpt_model", "megatron.core.optimizer", "megatron.core.dist_checkpointing"),
)
"""Packages that most tests import."""
FIRST = "version 0.1"
"""The room of faults that nobody noticed in version 0.1, wherever they are."""

NOTICED, SURVIVED, HUNG, BROKEN, UNKNOWN = "noticed", "survived", "hung", "tests fail anyway", "not run"


@dataclass(frozen=True)
class Fault:
    """A small mistake.

    Attributes:
        room: Part of the code.
        id: Its name.
        file: Where it is planted, from the root.
        old: Text that stands there exactly once.
        new: What stands there instead.
        tests: What should notice, as pytest names it.
        why: What goes wrong, in a sentence.
    """

    room: str
    id: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]
    why: str

    @property
    def key(self) -> str:
        """Changes with the fault, so that what was found of another one is not taken for it."""
        return hashlib.sha256(repr(astuple(self)).encode()).hexdigest()[:16]


def all_faults() -> list[Fault]:
    """Every fault of the list, by room."""
    return [
        Fault(room["room"], **entry | {"tests": tuple(entry["tests"].split())})
        for path in sorted(FOLDER.glob("*.yaml"))
        for room in [yaml.safe_load(path.read_text())]
        for entry in room["faults"]
    ]


def planted(fault: Fault, text: str) -> str:
    """A file's text with the fault in it."""
    assert text.count(fault.old) == 1, (
        f"{fault.id}: its text stands {text.count(fault.old)} times in {fault.file}"
    )
    return text.replace(fault.old, fault.new)


@contextmanager
def copied_tree() -> Iterator[Path]:
    """A copy of the working tree, in a folder from which it is imported as `perdure`."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\0")
    with tempfile.TemporaryDirectory(prefix="perdure-audit-") as directory:
        tree = Path(directory) / "perdure"
        for name in filter(None, names):
            if (ROOT / name).is_file():
                (tree / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, tree / name, follow_symlinks=False)
        yield tree


def write(path: Path, text: str, second: int) -> None:
    """Writes a module as of another second than before: Python takes a compiled file that is as old and long for it."""
    path.write_text(text)
    os.utime(path, (second, second))


def outcome(tree: Path, tests: Iterable[str], seconds: float = SECONDS) -> tuple[str, str]:
    """`SURVIVED` if the tests pass, `NOTICED` if one fails, or `HUNG`; and what they say.

    They run in a fork of this process, which has imported what is large, but nothing of ours.
    """
    with tempfile.TemporaryFile("w+") as said:
        if (process := os.fork()) == 0:
            _become_tests(tree, list(tests), said.fileno())
        deadline = time.monotonic() + seconds
        while (ended := os.waitpid(process, os.WNOHANG)) == (0, 0) and time.monotonic() < deadline:
            time.sleep(0.05)
        with suppress(ProcessLookupError):
            os.killpg(process, signal.SIGKILL)  # and whatever it has left behind
        if ended == (0, 0):
            os.waitpid(process, 0)
            return HUNG, f"after {seconds} s"
        said.seek(0)
        status, text = os.waitstatus_to_exitcode(ended[1]), said.read()
    if status not in (0, 1, 2):  # 2: a file of tests cannot be imported
        sys.exit(f"{' '.join(tests)}: pytest ends with {status}\n{text}")
    return (NOTICED if status else SURVIVED), text


def _become_tests(tree: Path, tests: list[str], output: int) -> NoReturn:
    status = 3
    try:
        os.setpgid(0, 0)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.chdir(tree)
        os.environ["PYTHONPATH"] = str(tree.parent)
        sys.path[:0] = [str(tree.parent), str(tree)]
        import pytest

        import perdure.pipeline as ours

        assert Path(ours.__file__).is_relative_to(tree), ours.__file__
        status = pytest.main(["-x", "-q", "-n", "0", "-p", "no:cacheprovider", *tests])
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)  # without this process's exit functions, which would remove the copy


def audit(faults: list[Fault], loud: bool) -> dict[str, str]:
    """What becomes of each fault, by key."""
    found: dict[str, str] = {}
    sets = dict.fromkeys(fault.tests for fault in faults)
    with copied_tree() as tree:
        import_what_is_large()
        everything = dict.fromkeys(test for tests in sets for test in tests)
        state, said = outcome(tree, everything, SECONDS * len(sets)) if sets else (SURVIVED, "")
        print(f"{'the tests pass' if state == SURVIVED else said} without a fault", flush=True)
        sound = {tests: state == SURVIVED or outcome(tree, tests)[0] == SURVIVED for tests in sets}
        for number, fault in enumerate(faults):
            begun, path = time.monotonic(), tree / fault.file
            if sound[fault.tests]:
                text = path.read_text()
                write(path, planted(fault, text), 2 * number + 1)
                found[fault.key], said = outcome(tree, fault.tests)
                write(path, text, 2 * number + 2)
            else:
                found[fault.key] = BROKEN
            remember({fault.key: found[fault.key]})  # what is killed loses nothing
            print(f"{found[fault.key]:<17} {fault.id}  ({time.monotonic() - begun:.0f} s)", flush=True)
            if loud:
                print(said, flush=True)
    return found


def import_what_is_large() -> None:
    """Other people's packages, once for all forks; settings as tests/conftest.py has them, which comes too late for these."""
    os.environ |= {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
    os.environ |= {"HF_DATASETS_OFFLINE": "1", "PYTORCH_NVML_BASED_CUDA_CHECK": "1", "TRITON_INTERPRET": "1"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in LARGE:
            importlib.import_module(name)


def page(faults: list[Fault], found: dict[str, str]) -> str:
    """docs/audit.md."""
    rooms = list(dict.fromkeys(fault.room for fault in faults))
    states = {fault.id: found.get(fault.key, UNKNOWN) for fault in faults}
    lines = [
        "# Faults that tests notice",
        "",
        "Written by `make audit`: it plants small faults in a copy of the tree, one at a time (off by one, a dropped",
        "argument, a wrong reduction, a missing exchange between ranks), and runs the tests that should notice. A fault",
        "counts as noticed if they pass without it and fail with it; faults that make them hang do not count.",
        f"`tests/audit/faults/` has the list; `{FIRST}` are those that no test noticed then, the others are spread over the",
        "code. A fault that survives gets a test if it is none that changes nothing: so a new list says more of the tests",
        "than a high score of this one.",
        "",
        "| Room | Faults | Noticed |",
        "|---|---|---|",
    ]
    for room in rooms:
        own = [fault for fault in faults if fault.room == room]
        lines.append(f"| {room} | {len(own)} | {sum(states[fault.id] == NOTICED for fault in own)} |")
    noticed = sum(state == NOTICED for state in states.values())
    lines += [f"| all | {len(faults)} | {noticed} ({noticed / len(faults):.0%}) |", "", "## Not noticed", ""]
    left = [
        f"- `{fault.id}` ({states[fault.id]}): {fault.why}" for fault in faults if states[fault.id] != NOTICED
    ]
    lines += left or ["None."]
    for room in rooms:
        lines += [
            "",
            f"## {room[0].upper()}{room[1:]}",
            "",
            "| Fault | What goes wrong | Noticed by |",
            "|---|---|---|",
        ]
        for fault in (fault for fault in faults if fault.room == room):
            tests = ", ".join(f"`{test.removeprefix('tests/')}`" for test in fault.tests)
            lines.append(
                f"| `{fault.id}` | {fault.why} | {tests if states[fault.id] == NOTICED else states[fault.id]} |"
            )
    return "\n".join(lines) + "\n"


def found_before() -> dict[str, str]:
    """What earlier audits found, by key."""
    return json.loads(FOUND.read_text()) if FOUND.exists() else {}


def remember(found: dict[str, str]) -> None:
    """Adds to that; what is no longer in the list is forgotten."""
    known, keys = found_before() | found, {fault.key for fault in all_faults()}
    FOUND.write_text(json.dumps({key: state for key, state in known.items() if key in keys}, indent=1) + "\n")


def main() -> None:
    """Audits the faults that the command line names, or all; exits with 1 if one of them is not noticed."""
    parser = argparse.ArgumentParser(prog="python -m tests.audit", description=__doc__.split("\n")[0])
    parser.add_argument("ids", nargs="*", help="faults or rooms; default: all")
    parser.add_argument("--new", action="store_true", help="only those of which nothing is known")
    parser.add_argument("--loud", action="store_true", help="show what the tests say")
    options, faults = parser.parse_args(), all_faults()
    if unknown := set(options.ids) - {name for fault in faults for name in (fault.id, fault.room)}:
        parser.error(f"no such fault or room: {', '.join(sorted(unknown))}")
    known = found_before()
    chosen = [fault for fault in faults if not options.ids or {fault.id, fault.room} & set(options.ids)]
    chosen = [fault for fault in chosen if not (options.new and fault.key in known)]
    found = audit(chosen, options.loud)
    PAGE.write_text(page(faults, found_before()))
    noticed = sum(state == NOTICED for state in found.values())
    print(f"{noticed} of {len(found)} noticed; docs/audit.md has all")
    sys.exit(noticed < len(found))


if __name__ == "__main__":
    main()
