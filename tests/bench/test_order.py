"""Ten million documents ordered and planned: bounded memory, and a time per document that does not grow."""

import sys
from pathlib import Path

import pytest
from support import on_rank

NUMBERS = (1_000_000, 10_000_000)


@pytest.mark.bench
def test_ordering_takes_bounded_memory_and_the_same_time_per_document(tmp_path: Path):
    sys.path.insert(0, str(Path(__file__).parent))
    from ordering import write_documents

    found = {}
    print("\n| documents | buckets | CPU microseconds per document | peak memory |\n|---|---|---|---|")
    for number in NUMBERS:
        write_documents(tmp_path / str(number), number)
        for buckets in (None, 10):
            result = on_rank("order", tmp_path / str(number), number, buckets, script="bench/ordering.py")
            found[number, buckets] = result
            each = result["seconds"] / number * 1e6
            print(f"| {number:,} | {buckets or ''} | {each:.2f} | {result['bytes'] / 1e6:,.0f} MB |")
    for buckets in (None, 10):
        few, many = (found[number, buckets] for number in NUMBERS)
        assert many["bytes"] < 2e9
        # Sorting is n log n: 1.17 times the work per document. What is fixed weighs on the few.
        assert many["seconds"] / NUMBERS[1] < 1.3 * few["seconds"] / NUMBERS[0]
