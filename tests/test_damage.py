"""Damaged files of a run: refused in one line with what to delete, made again, or harmless; never used in silence.

A seeded sample of scene x file x kind of damage. `make soak` tries 240; the suite a few of them.
"""

import io
import json
import os
import random
import re
import shutil
import sys
from collections import Counter
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from unittest.mock import patch

import pytest
from run_recipe import outcome, timeless, write_recipe
from soak import often
from support import start_ranks

from perdure.pipeline.cli.entry import main
from perdure.pipeline.core.errors import PerdureError
from perdure.pipeline.core.hashes import hash_file
from perdure.pipeline.core.manifest import differences, is_finished

pytestmark = pytest.mark.slow

TRIED = often(4, 240)
PASSED_OVER = ("logs", "tb", "report", "work", ".lock", "fence", "lock")
"""Texts for people, pages that every report writes anew, and locks, which hold nothing."""


def start(directory: Path, world_size: int, task: str = "train") -> None:
    """`train.ranks.start`, by forks of a server that has imported everything."""
    done = start_ranks(directory, world_size, task)
    sys.stderr.write(done.stderr)
    if done.returncode:
        raise PerdureError(f"version {directory.name}: the reason stands above")


def call(*arguments: object) -> tuple[int, str, str]:
    """Exit status, stdout and stderr of a command, in this process."""
    words, out, err = [*map(str, arguments)], io.StringIO(), io.StringIO()
    with (
        patch("perdure.pipeline.train.ranks.start", start),
        patch.object(sys, "argv", ["perdure", *words]),
        redirect_stdout(out),
        redirect_stderr(err),
    ):
        status = main(words)
    return status, out.getvalue(), err.getvalue()


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """One run as it stands at three times, and what it comes to: finished, before the update, within it."""
    base = tmp_path_factory.mktemp("damage")
    recipe, out = write_recipe(base), base / "out"
    status, said, errors = call("run", recipe, "--out", out)
    assert status == 0, said + errors
    for name in ("finished", "begun", "cut"):
        shutil.copytree(out, base / name)
    shutil.rmtree(base / "begun" / "versions" / "update")
    update = base / "cut" / "versions" / "update"
    shutil.rmtree(update / "checkpoints" / "step_000016")
    shutil.rmtree(update / "hf")
    for path in [*update.glob("eval*"), *update.glob("*.json"), update / "_SUCCESS"]:
        if path.name not in ("inputs.json", "eval_initial.json"):
            path.unlink(missing_ok=True)
    for name in ("begun", "cut"):
        for path in (base / name).glob("report.json"):
            path.unlink(missing_ok=True)
    return base, recipe


def result(out: Path) -> tuple:
    """What must not differ."""
    return outcome(out), timeless(out)


def difference(found: tuple, expected: tuple) -> list[str]:
    """What differs between two results."""
    trees = [{"outcome": result[0], "report": json.loads(result[1])} for result in (expected, found)]
    return [line[:300] for line in differences(*trees)[:5]]


def reading(scene: str, base: Path, recipe: Path) -> list[tuple]:
    """The commands that read a run."""
    out = base / "out"
    run = ("run", recipe, "--out", out)
    if scene != "finished":
        return [run]
    export = base / "export"
    return [
        run,
        ("report", recipe, "--out", out),
        ("log", recipe, "--out", out),
        ("status", out),
        ("compare", out),
        ("data", "inspect", out),
        ("branch", recipe, "update", "--at", 12, "--tokens", 512, "--out", out),
        ("export", out, "update", "--to", export),
    ]


def files(directory: Path) -> list[Path]:
    found = [path.relative_to(directory) for path in sorted(directory.rglob("*")) if path.is_file()]
    return [path for path in found if not set(path.parts) & set(PASSED_OVER)]


def flip(path, rng, others):
    content = bytearray(path.read_bytes())
    bit = rng.randrange(8 * len(content))
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


def truncate(path, rng, others):
    os.truncate(path, rng.randrange(1, path.stat().st_size))


def empty(path, rng, others):
    path.write_bytes(b"")


def swap(path, rng, others):
    other = rng.choice(others)
    content = path.read_bytes()
    path.write_bytes(other.read_bytes())
    other.write_bytes(content)


def replace(path, rng, others):
    """Another file of the kind, as of another step, version or source."""
    path.write_bytes(rng.choice(others).read_bytes())


def directory(path, rng, others):
    path.unlink()
    path.mkdir()


def delete(path, rng, others):
    path.unlink()


def loop(path, rng, others):
    path.unlink()
    path.symlink_to(path.name)


def remove_key(path, rng, others):
    tree = json.loads(path.read_text())
    tree.pop(rng.choice([key for key in tree if key != "checksum"] or [*tree]))
    path.write_text(json.dumps(tree))


def change_type(path, rng, others):
    tree = json.loads(path.read_text())
    key = rng.choice([key for key in tree if key != "checksum"] or [*tree])
    tree[key] = {"list": 1} if isinstance(tree[key], list) else [tree[key]]
    path.write_text(json.dumps(tree))


def list_for_object(path, rng, others):
    path.write_text(json.dumps([json.loads(path.read_text())]))


ANY = (flip, truncate, empty, swap, replace, directory, delete, loop)
JSON = (remove_key, change_type, list_for_object)


def damages(base: Path) -> list[tuple[str, Path, object, int]]:
    """A seeded sample: scene, file, kind, seed. Every kind of file counts alike, however many of it there are."""
    rng = random.Random(7)
    found = []
    for scene in ("finished", "begun", "cut"):
        kinds: dict[str, list[Path]] = {}
        for path in files(base / scene):
            place = re.sub(r"@[0-9a-f]{8}|step_\d+|\d{5}", "", str(path))
            kinds.setdefault(place, []).append(path)
        for paths in kinds.values():
            for kind in (*ANY, *(JSON if paths[0].suffix == ".json" else ())):
                found.append((scene, rng.choice(paths), kind, rng.randrange(1 << 30)))
    rng.shuffle(found)
    return found


def commit(out: Path, file: Path, kind, seed: int) -> bool:
    """Damages a file; whether that is possible and changed anything."""
    path, rng = out / file, random.Random(seed)
    if kind in (flip, truncate) and path.stat().st_size < 2:
        return False
    others = [
        out / other
        for other in files(out)
        if (out / other).suffix == path.suffix and (out / other).read_bytes() != path.read_bytes()
    ]
    near = [other for other in others if other.parent == path.parent or other.name == path.name]
    if kind in (swap, replace) and not others:
        return False
    before = path.read_bytes()
    kind(path, rng, near or others)
    return not path.is_file() or path.read_bytes() != before


def remove(place: Path) -> None:
    if place.is_dir() and not place.is_symlink():
        shutil.rmtree(place)
    else:
        place.unlink(missing_ok=True)


def judge(base: Path, recipe: Path, scene: str, file: Path, kind, seed: int, expected: dict) -> str:
    """What became of one damage: `refused`, `made again`, `harmless`, or what is wrong."""
    out = base / "out"
    shutil.rmtree(out)
    shutil.copytree(base / scene, out, symlinks=True)
    if not commit(out, file, kind, seed):
        return "none"
    refused = False
    for command in reading(scene, base, recipe):
        shutil.rmtree(base / "export", ignore_errors=True)
        try:
            status, said, errors = call(*command)
        except BaseException as error:
            return f"unreadable: {command[0]}: {type(error).__name__}: {error}"
        if status == 0:
            if command[0] not in ("run", "report", "compare") and said != expected[command[0]]:
                return f"silent: {command[0]} says something else: {said}"
            continue
        if "Traceback" in errors or "--debug" in errors or not errors.startswith("error: "):
            return f"unreadable: {command[0]}: {errors}"
        if str(out) not in errors and str(file) not in errors:
            return f"unreadable: {command[0]} names no file: {errors}"
        refused = True
        if command[0] == "run":
            remedies = errors
    if not refused:
        if result(out) != expected["result"]:
            return "silent: another result"
        path = out / file
        same = path.is_file() and hash_file(path) == hash_file(base / scene / file)
        return "made again" if same else "harmless"
    status, said, errors = call("run", recipe, "--out", out)
    for _ in range(5):  # as often as something is named
        if status == 0:
            break
        if again := re.search(r"(/\S+): .*copy it again, or `echo", errors):
            place = Path(again[1])
            remove(place)
            shutil.copyfile(base / scene / place.relative_to(out), place)
            status, said, errors = call("run", recipe, "--out", out)
            continue
        named = re.search(r"delete (\S+)(?: and (\S+) and run again)?", errors)
        if not named:
            return f"unreadable: no remedy: {errors}"
        for path in filter(None, named.groups()):
            remove(Path(path.rstrip(",;:")))
        status, said, errors = call("run", recipe, "--out", out)
    if status:
        return f"unreadable: the remedy does not help: {errors}"
    if result(out) != expected["result"]:
        print(difference(result(out), expected["result"]))
        return f"silent: another result after the remedy: {remedies if scene != 'finished' else ''}"
    return "refused"


def test_damage_is_refused_made_again_or_harmless(scenes):
    base, recipe = scenes
    expected = {"result": result(base / "out")}  # as it was finished: the place stands in it
    for command in reading("finished", base, recipe):
        status, said, errors = call(*command)
        assert status == 0, errors
        expected[command[0]] = said
    assert is_finished(base / "out" / "versions" / "update")
    counts, wrong = Counter(), []
    for scene, file, kind, seed in damages(base)[:TRIED]:
        found = judge(base, recipe, scene, file, kind, seed, expected)
        counts[found.partition(":")[0]] += 1
        line = f"{scene} {file} {kind.__name__} {seed}: {found}"
        print(line, flush=True)
        if ":" in found:
            wrong.append(line)
    print(f"\n{sum(counts.values())} damages: {dict(counts)}", flush=True)
    assert not wrong, "\n".join(wrong)
