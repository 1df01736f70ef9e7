"""Measures, and writes docs/benchmarks.md with all that was found: `python tests/bench/run.py [NAME ...]`.

Without names, all benches are run. What was found before on such a machine stays in the page for the others.
"""

import os
import statistics
import sys
import tempfile
import time
import traceback
from importlib import import_module
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from turns import AGREEING, busy_cores, claim, machine, said

from perdure.pipeline.core.cores import sleep_while_waiting
from perdure.pipeline.core.files import read_json, write_atomic, write_json

NAMES = ("loading", "trillion", "ordering", "cleaning", "leaks", "scoring", "training", "loss", "saving")
"""The benches, `bench_<name>.py` with a section `<name>.md`, in the order of the page."""

DOCS = HERE.parents[1] / "docs"


def main(names: list[str]) -> int:
    """Measures by name, all if there is none; the exit status: 1 if a bench failed or a requirement is not met."""
    if unknown := set(names) - set(NAMES):
        print(
            f"error: no bench is called {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}",
            file=sys.stderr,
        )
        return 2
    kept, here, failed = DOCS / "benchmarks.json", machine(), []
    found = read_json(kept) if kept.exists() else {}
    if found.get("machine") != here:
        found = {"machine": here, "benches": {}}
    for name in names or NAMES:
        print(f"{name} ...", file=sys.stderr, flush=True)
        try:
            entry = run(name, import_module(f"bench_{name}").FULL)
        except Exception:
            traceback.print_exc()
            failed.append(name)
            continue
        print(section(name, entry), flush=True)
        found["benches"][name] = entry
        write_json(kept, found, checksum=False)
    missing = [name for name in NAMES if name not in found["benches"]]
    if missing:
        print(f"docs/benchmarks.md is not written before there are {', '.join(missing)}", file=sys.stderr)
    else:
        write_atomic(DOCS / "benchmarks.md", page(found))
    unmet = [line for name in names or NAMES for line in found["benches"].get(name, {}).get("unmet", [])]
    for line in unmet:
        print(f"not met: {line}", file=sys.stderr)
    return int(bool(failed or unmet))


def run(name: str, sizes: dict) -> dict:
    """One bench: what it found, which requirements are not met, and what else the machine did before and after."""
    bench, busy, begun = import_module(f"bench_{name}"), [busy_cores(2)], time.perf_counter()
    with tempfile.TemporaryDirectory() as directory:
        found = bench.measure(Path(directory), **sizes)
    seconds = time.perf_counter() - begun
    busy.append(busy_cores(2))
    unmet = [line for line, holds in bench.required(found).items() if not holds]
    return {
        "date": time.strftime("%Y-%m-%d"),
        "seconds": seconds,
        "busy": busy,
        "unmet": unmet,
        "found": found,
    }


def section(name: str, entry: dict) -> str:
    """A bench's part of the page."""
    return _pages().get_template(f"{name}.md").render(entry["found"], entry=entry)


def page(found: dict) -> str:
    """docs/benchmarks.md from what is kept in docs/benchmarks.json."""
    sections = [section(name, found["benches"][name]) for name in NAMES]
    minutes = sum(entry["seconds"] for entry in found["benches"].values()) / 60
    return _pages().get_template("page.md").render(found["machine"], sections=sections, minutes=minutes)


def _pages() -> Environment:
    pages = Environment(
        loader=FileSystemLoader(HERE), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    pages.filters |= {"said": said, "claim": claim, "median": statistics.median}
    pages.globals["agreeing"] = AGREEING
    return pages


if __name__ == "__main__":
    # Benches, and with them torch, are imported later.
    sleep_while_waiting()  # as all commands of ours do
    os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    sys.exit(main(sys.argv[1:]))
