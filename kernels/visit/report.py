"""What a visit found, as Markdown for kernels/README.md, as what is amiss, and as what `perdure check` reads."""

from collections.abc import Iterable, Iterator
from typing import Any

K1_TFLOPS = 550.0
FLOOR = 0.75
MFU = 0.45
"""What is required on an H100 or H200: K1's rate, a selective step's share of its floor, MFU of a step at 1.2 billion."""
CHECKS = ("exact", "host")
"""Parts that check; of these a row that failed is amiss, too."""
HIDDEN = {"of", "bits", "top"}
"""Keys that tables leave out."""


def rows_of(results: dict[str, Any], part: str) -> list[dict[str, Any]]:
    """What a part found; empty if it was not run."""
    return results["parts"].get(part, {}).get("rows", [])


def measured(results: dict[str, Any]) -> list[dict[str, Any]]:
    """Whole training steps on a GPU: what they were of, their speed and their memory."""
    device = _fact(results, "device").get("device")
    rows = [row for row in rows_of(results, "step") if isinstance(row.get("ms"), float) and row["k"] == 1]
    if results["tiny"] or device is None:
        return []
    return [
        {
            "date": results["begun"][:10],
            "device": device,
            "model": row["model"],
            "tokens_per_second": row["tokens_per_second"],
            "mfu": row["mfu"],
            "peak_bytes": row["mb"] * 1e6,
            "of": row["of"],
        }
        for row in rows
    ]


def findings(results: dict[str, Any]) -> list[str]:
    """What is amiss, a line each: parts that did not end well, and checks that failed."""
    lines = []
    for name, part in results["parts"].items():
        if part["ended"] != "done":
            lines.append(": ".join([name, part["ended"], *part.get("said", [])[-1:]]))
        lines += [
            f"{name}: {_named(row)}"
            for row in part["rows"]
            if row.get("exact") is False or (name in CHECKS and "failed" in row)
        ]
    first, second = (
        {row["bits"] for row in rows_of(results, part) if row.get("bits")} for part in ("step", "again")
    )
    if first and second and first != second:
        lines.append(f"again: two processes found other bits: {first} and {second}")
    return lines


def requirements(results: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    """What is required, what was found, and whether that is met."""
    loss = {
        (row["head"], row["k"], row["method"]): row
        for row in rows_of(results, "loss")
        if "ms" in row and "head" in row
    }
    heads = list(dict.fromkeys(head for head, *_ in loss))
    own = {head: loss.get((head, 0.6, "triton")) for head in heads}
    for head in heads:
        k1 = loss.get((head, 0.6, "scoring, triton"))
        yield _judged(f"K1 on {head}", f"{K1_TFLOPS:.0f} TFLOP/s", k1["tflops"] if k1 else None, K1_TFLOPS)
        step = own[head]
        yield _judged(
            f"step at k = 0.6 on {head}", f"{FLOOR:.0%} of its floor", step["floor"] if step else None, FLOOR
        )
    for name in ("peers", "compiled"):
        for row in rows_of(results, name):
            ours = own.get(row.get("head"))
            if ours and isinstance(row.get("ms"), float) and row["k"] == 0.6:
                what = f"faster than {row['method']} on {row['head']}"
                yield what, "x 1", _judged(what, "x 1", row["ms"] / ours["ms"], 1.0)[2]
    for row in rows_of(results, "step"):
        if row.get("k") == 1 and "ms" in row:
            yield _judged(f"MFU of {row['model']}", f"{MFU:.0%}", row["mfu"], MFU)


def _judged(what: str, wanted: str, found: float | None, least: float) -> tuple[str, str, str]:
    if found is None:
        return what, wanted, "not measured"
    return what, wanted, f"{_cell(found)}: {'met' if found >= least else 'not met'}"


def markdown(results: dict[str, Any]) -> str:
    """The whole report."""
    device, versions = _fact(results, "device"), _fact(results, "versions")
    told = ", ".join(f"{name} {value}" for name, value in versions.items() if value and name != "kind")
    tiny = " **At tiny sizes, which say nothing of speed.**" if results["tiny"] else ""
    lines = [
        f"Measured on {device.get('device', 'an unknown device')} on {results['begun'][:10]} at commit "
        f"{results['commit'] or 'unknown'}: {told}.{tiny}",
        "",
    ]
    if met := list(requirements(results)):
        lines += [*_table(("required", "at least", "found"), met), ""]
    if wrong := findings(results):
        lines += ["Amiss:", "", *(f"- {line}" for line in wrong), ""]
    for name, part in results["parts"].items():
        lines += [f"### {name}", f"{part['question']} ({part['ended']}, {part['seconds']:.0f} s)", ""]
        for group in _alike(row for row in part["rows"] if "profile" not in row):
            keys = [key for key in group[0] if key not in HIDDEN]
            lines += [*_table(keys, ([row[key] for key in keys] for row in group)), ""]
        for row in part["rows"]:
            if "profile" in row:
                lines += [*_profile(row["profile"]), ""]
    return "\n".join(lines).rstrip()


def _profile(found: dict[str, Any]) -> Iterator[str]:
    """Where a step's time went."""
    busy = "unknown" if found["busy"] is None else f"{found['busy']:.1%}"
    yield f"A step of {found['parts']} at k = {found['k']}: {found['ms']:.4g} ms, {found['kernels']} kernels, busy {busy}."
    if found["top"]:
        yield ""
        yield from _table(("kernel", "ms", "calls"), found["top"])


def _fact(results: dict[str, Any], kind: str) -> dict[str, Any]:
    return next((row for row in rows_of(results, "facts") if row.get("kind") == kind), {})


def _alike(rows: Iterable[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """Runs of rows that have the same keys."""
    group: list[dict[str, Any]] = []
    for row in rows:
        if group and row.keys() != group[0].keys():
            yield group
            group = []
        group.append(row)
    if group:
        yield group


def _named(row: dict[str, Any]) -> str:
    return ", ".join(f"{key} {_cell(value)}" for key, value in row.items() if key not in HIDDEN | {"exact"})


def _table(head: Iterable[str], rows: Iterable[Iterable[Any]]) -> list[str]:
    names = list(head)
    lines = [names, ["---"] * len(names), *([_cell(value) for value in row] for row in rows)]
    return ["| " + " | ".join(line) + " |" for line in lines]


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        return ", ".join(f"{key} {_cell(own)}" for key, own in value.items())
    return str(value).replace("|", "\\|").replace("\n", " ")
