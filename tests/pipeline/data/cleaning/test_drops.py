"""Steps that drop more than a fifth are told, with two beginnings of what they dropped most of."""

import json

import pytest

from perdure.pipeline.data.cleaning.drops import drops_lines, heavy_drops


def step(name: str, documents: tuple[int, int], words: tuple[int, int], **more: tuple[int, int]) -> dict:
    """A step's record: (in, dropped) of documents and of words."""
    dropped = {"short": {"documents": documents[1], "words": words[1]}}
    dropped |= {reason: {"documents": entry[0], "words": entry[1]} for reason, entry in more.items()}
    return {"step": name, "in": {"documents": documents[0], "words": words[0]}, "dropped": dropped}


@pytest.mark.parametrize(
    ("record", "said"),
    [
        (step("01_a", (100, 20), (1000, 200)), None),
        (step("01_a", (100, 21), (1000, 30)), "01_a dropped 21 of 100 documents (21%): 21 short"),
        (
            step("01_a", (100, 1), (1000, 10), shortened=(0, 300)),
            "01_a dropped 310 of 1,000 words (31%): 300 shortened, 10 short",
        ),
        (
            step("01_a", (100, 60), (1000, 600), long=(10, 9)),
            "01_a dropped 70 of 100 documents (70%): 60 short, 10 long",
        ),
        ({"step": "read", "in": {"documents": 0, "words": 0}, "dropped": {}}, None),
        (step("read", (10, 9), (0, 0)), "read dropped 9 of 10 documents (90%): 9 short"),
    ],
)
def test_more_than_a_fifth_is_told(tmp_path, record, said):
    lines = drops_lines("web", heavy_drops({"steps": [record]}, tmp_path))
    assert lines == ([] if said is None else [f"web: {said}"])


def test_two_documents_are_quoted(tmp_path):
    rows = [
        {"id": str(number), "reason": reason, "text": f"text\n{number} " + "x" * 99}
        for number, reason in enumerate(["long", "short", "short", "short"])
    ]
    (tmp_path / "01_a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (line,) = drops_lines(
        "web", heavy_drops({"steps": [step("01_a", (10, 3), (9, 1), long=(1, 1))]}, tmp_path)
    )
    quoted = "; ".join(f"{number}: 'text {number} {'x' * 73}'" for number in (1, 2))
    assert line == f"web: 01_a dropped 4 of 10 documents (40%): 3 short, 1 long; {quoted}"
