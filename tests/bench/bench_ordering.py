"""Documents ordered and planned: bounded memory, and a time per document that does not grow."""

from pathlib import Path

from support import on_rank

FULL = {"numbers": (1_000_000, 10_000_000)}
TINY = {"numbers": (1_000, 2_000)}


def measure(directory: Path, numbers: tuple[int, int]) -> dict:
    """CPU seconds and peak memory by number of documents and of buckets, each in a process of its own."""
    from ordering import write_documents

    rows = []
    for number in numbers:
        write_documents(directory / str(number), number)
        for buckets in (None, 10):
            result = on_rank("order", directory / str(number), number, buckets, script="bench/ordering.py")
            rows.append({"documents": number, "buckets": buckets} | result)
    return {"rows": rows}


def required(found: dict) -> dict[str, bool]:
    few, many = found["rows"][:2], found["rows"][2:]
    # Sorting is n log n: 1.17 times the work per document. What is fixed weighs on the few.
    longer = [b["seconds"] / b["documents"] / (a["seconds"] / a["documents"]) for a, b in zip(few, many)]
    return {
        "ten million documents take less than 2 GB": max(row["bytes"] for row in many) < 2e9,
        "a document takes no longer among more": max(longer) < 1.3,
    }
