"""Paths of a run: what stands on disk is where earlier releases wrote it, and its names stand in one file."""

import re
from pathlib import Path

from perdure.pipeline.core.paths import RunPaths, VersionPaths

ROOT = Path(__file__).parents[3]
SPELLED_ONCE = re.compile(
    r'/ f?"(versions|inputs\.json|version\.json|metrics\.jsonl|checkpoints|eval\.json|report\.json|step_\{.*|hf)"'
)


def test_paths_of_a_version_are_those_of_earlier_releases():
    version = RunPaths(Path("out")).version("v1")
    found = [version.recipe, version.inputs, version.plan, version.checkpoint(500), version.metrics]
    found += [version.evaluation, version.export, version.record, version.attempts]
    assert [path.as_posix() for path in found] == [
        "out/versions/v1/recipe.yaml",
        "out/versions/v1/inputs.json",
        "out/versions/v1/plan",
        "out/versions/v1/checkpoints/step_000500",
        "out/versions/v1/metrics.jsonl",
        "out/versions/v1/eval.json",
        "out/versions/v1/hf",
        "out/versions/v1/version.json",
        "out/versions/v1/launch/attempts.jsonl",
    ]


def test_only_whole_checkpoints_are_found_by_number(tmp_path):
    version = VersionPaths(tmp_path)
    assert version.finished_checkpoints() == {}
    for step in (1000000, 500, 20):
        version.checkpoint(step).mkdir(parents=True)
        (version.checkpoint(step) / "_SUCCESS").touch()
    version.checkpoint(30).mkdir()
    (version.checkpoints / "step_000040.old").mkdir()
    (version.checkpoints / "step_000040.old" / "_SUCCESS").touch()
    assert list(version.finished_checkpoints()) == [20, 500, 1000000]


def test_versions_that_have_begun_are_found(tmp_path):
    run = RunPaths(tmp_path)
    for name in ("b", "a"):
        run.version(name).directory.mkdir(parents=True)
        run.version(name).inputs.touch()
    run.version("waits").directory.mkdir()
    assert run.begun_versions() == ["a", "b"]


def test_no_other_file_spells_these_names():
    files = [path for room in ("pipeline", "launch", "data_recipes") for path in (ROOT / room).rglob("*.py")]
    spelled = [
        f"{path.relative_to(ROOT)}: {found[0]}"
        for path in files
        if path.relative_to(ROOT).as_posix() != "pipeline/core/paths.py"
        and (found := SPELLED_ONCE.search(path.read_text()))
    ]
    assert spelled == []
