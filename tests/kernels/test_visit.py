"""A visit ends in time, keeps what its parts found, says what failed; and each part works from its first line to its last."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from perdure.kernels.visit.__main__ import RESULTS, SECONDS, environment, main, visit
from perdure.kernels.visit.counters import counters, launches, memcheck
from perdure.kernels.visit.parts import PARTS, Part
from perdure.kernels.visit.rows import read_rows, writer

HERE = Path(__file__).parent
SCRIPT = """
import json, subprocess, sys, time
rows, what = sys.argv[1:3]
def record(**row):
    with open(rows, "a") as file:
        file.write(json.dumps(row) + "\\n")
record(begun=what)
if what == "fails":
    sys.exit("nothing works here")
if what == "hangs":
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    record(child=child.pid)
    with open(rows, "a") as file:
        file.write('{"cut')
    time.sleep(600)
"""


@pytest.fixture
def part(tmp_path):
    """Makes parts of a script that works, fails or hangs."""
    script = tmp_path / "part.py"
    script.write_text(SCRIPT)

    def make(what: str, seconds: int = 60) -> Part:
        return Part(what, f"does it {what}?", str(script), seconds, (what,), (what,))

    return make


def is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{process}/stat").read_text() if Path(f"/proc/{process}").exists() else ""
    return bool(status) and status.rsplit(")", 1)[1].split()[0] != "Z"


def test_parts_that_fail_and_hang_leave_their_rows_and_the_rest_goes_on(part, tmp_path, capsys):
    found = visit(tmp_path, [part("fails"), part("hangs", 8), part("works")], 500, tiny=True)["parts"]
    assert found["fails"]["ended"] == "failed: exit status 1"
    assert found["fails"]["said"] == ["nothing works here"] and found["fails"]["rows"] == [{"begun": "fails"}]
    assert found["hangs"]["ended"] == "stopped after 8 s"
    begun, child = found["hangs"]["rows"]  # and not the line that was cut off
    assert begun == {"begun": "hangs"} and not is_running(child["child"])
    assert (found["works"]["ended"], found["works"]["rows"]) == ("done", [{"begun": "works"}])
    assert json.loads((tmp_path / RESULTS).read_text())["parts"] == found
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == [*found]


def test_no_part_is_begun_or_goes_on_when_the_time_is_over(part, tmp_path):
    begun = time.monotonic()
    found = visit(tmp_path, [part("hangs"), part("works")], 12, tiny=True)["parts"]
    assert time.monotonic() - begun < 30
    assert found["hangs"]["ended"] == "stopped after 12 s"
    assert found["works"]["ended"] == "left out: 0 s were left" and found["works"]["rows"] == []


def test_a_visit_that_a_signal_ends_keeps_what_the_running_part_found(part, tmp_path, monkeypatch, capsys):
    """As schedulers end it, a moment after the part's first rows."""
    monkeypatch.setattr("perdure.kernels.visit.__main__.PARTS", (part("hangs"), part("works")))
    rows = tmp_path / "out" / ".hangs.rows"

    def end() -> None:
        while not rows.exists() or rows.read_text().count("\n") < 2:
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    threading.Thread(target=end, daemon=True).start()
    try:
        assert main([str(tmp_path / "out"), "--tiny"]) == 1
    finally:
        for number, handler in zip((signal.SIGTERM, signal.SIGINT), before):
            signal.signal(number, handler)
    (found,) = json.loads((tmp_path / "out" / RESULTS).read_text())["parts"].values()
    assert found["ended"] == "ended by a signal" and found["rows"][0] == {"begun": "hangs"}
    assert not is_running(found["rows"][1]["child"])
    assert "amiss: hangs: ended by a signal" in capsys.readouterr().out


def test_without_a_gpu_only_a_tiny_visit_begins(tmp_path, capsys):
    assert main([str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err.startswith("error: no GPU is visible here; --tiny runs every part")
    assert main([str(tmp_path / "out"), "--report"]) == 2
    assert "visit.json is missing; a visit writes it: python -m" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_kernels_are_interpreted_only_where_there_is_no_gpu(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert environment(tiny=True)["TRITON_INTERPRET"] == "1" and "TRITON_INTERPRET" not in environment(
        tiny=False
    )


def test_all_parts_fit_into_the_time_as_far_as_the_most_valuable_go():
    """Limits add up to more than the whole: what is left out is what is worth least."""
    limits = {part.name: part.seconds for part in PARTS}
    names = list(limits)
    first = names[: names.index("attention") + 1]
    assert len(first) == 8 and sum(limits[name] for name in first) <= SECONDS == 540
    assert sum(limits.values()) == 845 and len(names) == len(PARTS)  # as kernels/README.md says
    assert names[:3] == ["facts", "exact", "step"]


CSV = """==PROF== Connected to process 12
"ID","Process ID","Kernel Name","Metric Name","Metric Unit","Metric Value"
"0","12","statistics_kernel(args)","dram__bytes_read.sum","Gbyte","4.71"
"0","12","statistics_kernel(args)","launch__registers_per_thread","register/thread","232"
"1","12","gradient_kernel(args)","dram__bytes_read.sum","Gbyte","1.10"
"1","12","gradient_kernel(args)","something__else","","1"
"""


def test_counters_are_read_by_launch():
    assert launches(CSV) == [
        {"kernel": "statistics_kernel", "DRAM read": "4.71 Gbyte", "registers": "232 register/thread"},
        {"kernel": "gradient_kernel", "DRAM read": "1.10 Gbyte"},
    ]
    assert launches("==ERROR== no permission") == []


@pytest.fixture
def tool(tmp_path, monkeypatch):
    """Puts a program on the search path that prints a text, and notes what it was asked."""
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")

    def make(name: str, text: str, status: int = 0) -> None:
        (tmp_path / "text").write_text(text)
        (tmp_path / name).write_text(
            f'#!/bin/sh\necho "$*" > {tmp_path}/asked\necho "$PYTORCH_NO_CUDA_MEMORY_CACHING" > {tmp_path}/cached\n'
            f"cat {tmp_path}/text\nexit {status}\n"
        )
        (tmp_path / name).chmod(0o755)

    return make


def test_nsight_and_the_memory_check_are_asked_and_read_or_told_missing(tool, tmp_path):
    rows = tmp_path / "rows"
    counters(writer(rows), tiny=True)
    memcheck(writer(rows), tiny=True)
    assert [row["failed"] for row in read_rows(rows)] == [
        "ncu is not installed",
        "compute-sanitizer is not installed",
    ]
    rows.unlink()
    tool("ncu", CSV)
    counters(writer(rows), tiny=True)
    assert [row["kernel"] for row in read_rows(rows)] == ["statistics_kernel", "gradient_kernel"]
    asked = (tmp_path / "asked").read_text()
    assert "--clock-control none" in asked and asked.strip().endswith(
        "perdure.kernels.visit.counters once tiny"
    )
    tool("ncu", "==ERROR== The user does not have permission", 1)
    counters(writer(rows), tiny=True)
    assert [row["failed"] for row in read_rows(rows)[2:]] == [
        "==ERROR== The user does not have permission"
    ] * 2
    assert "--metrics gpu__time_duration.sum,dram__bytes_read.sum" in (tmp_path / "asked").read_text()
    tool("compute-sanitizer", "========= ERROR SUMMARY: 0 errors")
    memcheck(writer(rows), tiny=True)
    assert (
        tmp_path / "cached"
    ).read_text().strip() == "1"  # torch's allocator would hide what is outside a tensor
    assert read_rows(rows)[-1] == {"what": "memcheck", "errors": 0, "exact": True}
    tool("compute-sanitizer", "========= ERROR SUMMARY: 3 errors")
    memcheck(writer(rows), tiny=True)
    assert read_rows(rows)[-1]["exact"] is False


RUN_HERE = ["facts", "exact", "loss", "attention", "transformers", "host"]
"""The trainer's own step and Megatron's run in test_bench.py."""


def parts_run(directory: Path, how: str, names: list[str]) -> dict[str, list[dict]]:
    """Rows by part, all of which end well."""
    wanted = {"TRITON_INTERPRET": "1", "TORCHDYNAMO_DISABLE": "1", "OMP_NUM_THREADS": "1"}
    path = os.pathsep.join(filter(None, [str(HERE.parent), os.environ.get("PYTHONPATH")]))
    command = [sys.executable, str(HERE / "visit_parts.py"), str(directory), how, *names]
    done = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | wanted | {"PYTHONPATH": path}
    )
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("STATUSES"))
    assert json.loads(line.removeprefix("STATUSES")) == dict.fromkeys(names, 0), done.stderr[-3000:]
    return {name: read_rows(directory / f"{name}.rows") for name in names}


def failures(rows: list[dict]) -> dict[str, str]:
    """Why rows are missing, by what they are of."""
    return {
        str(row.get("way") or row.get("rate") or row.get("what")): row["failed"]
        for row in rows
        if "failed" in row
    }


@pytest.mark.slow
def test_every_part_runs_tiny_on_a_cpu(tmp_path):
    found = parts_run(tmp_path, "cpu", RUN_HERE)
    assert {row["exact"] for row in found["exact"]} == {True} and len(found["exact"]) == 13
    (timed,) = (row for row in found["transformers"] if "ms" in row)
    assert (
        timed["ms"] > 0 and timed["mb"] > 0 and timed["loss"] == pytest.approx(5.95, abs=0.05)
    )  # log(384), about
    assert failures(found["loss"]) == failures(found["host"]) == failures(found["exact"]) == {}
    # What a CPU does not have, and nothing else.
    assert failures(found["facts"]).keys() == {"bf16 product, added to fp32"}
    assert failures(found["attention"]).keys() == {
        *("cuDNN", "cuDNN, deterministic", "FlashAttention-3", "FlashAttention-3, deterministic", "varlen")
    }


@pytest.mark.slow
def test_what_only_a_gpu_takes_runs_on_a_pretended_one(tmp_path):
    found = parts_run(tmp_path, "gpu", ["facts", "exact"])
    assert {row["exact"] for row in found["exact"]} == {True} and failures(found["facts"]) == {}
    (device,) = (row for row in found["facts"] if row.get("kind") == "device")
    assert device["device"] == "NVIDIA H100 80GB HBM3"


@pytest.mark.slow
def test_the_arguments_of_a_whole_visit_are_taken_by_every_part(tmp_path):
    names = [part.name for part in PARTS if "/" not in part.module]
    assert all(rows == [] for rows in parts_run(tmp_path, "arguments", names).values())
