"""Scores of generated code: VersiCode's values, and files of outputs."""

import json
import subprocess
import sys

import pytest

from perdure.pipeline.core.errors import PerdureError
from perdure.pipeline.evaluate.code_scores import (
    exact_match,
    identifier_match,
    pass_at_k,
    prefix_match,
    score_at_k,
    score_file,
    uses,
)


def test_pass_at_k():
    assert pass_at_k(6, 2, 3) == pytest.approx(0.8)
    assert pass_at_k(6, 0, 3) == 0 and pass_at_k(6, 4, 3) == 1
    for correct in range(7):
        scores = [1.0] * correct + [0.0] * (6 - correct)
        for k in range(1, 7):
            assert score_at_k(scores, k) == pytest.approx(pass_at_k(6, correct, k))


def test_score_at_k():
    expected = {1: 0.5, 2: 5 / 6, 3: 1.0}
    for scores in ([1.0, 0.5, 0.0], [0.0, 1.0, 0.5]):
        assert {k: score_at_k(scores, k) for k in (1, 2, 3)} == pytest.approx(expected)


def test_identifiers():
    assert identifier_match("x = torch_load(p)", "x = torch_load2(p)") == pytest.approx(10 / 11)
    assert identifier_match("load(a)", "save(b)") == 0
    assert identifier_match("return a", "return b") == 1  # keywords are identifiers, too
    assert (
        identifier_match("abcd, ab = f", "abcx, ab = g") == 3 / 4
    )  # the longest beginning, not the best ratio
    assert identifier_match("f(", "f(x") == 1  # up to where it is no Python


def test_lines():
    assert prefix_match("x = load(p, q)", "x = load(p, r)") == 3 / 4
    assert prefix_match("a = 1\nx = load(p)", "y\nx = load(p)\nz") == 1
    assert prefix_match("a = b", "c = b") == 0


def test_exact_matches_and_use():
    assert exact_match("  x = 1 \n", "x = 1") == 1 and exact_match("x = 1", "x = 2") == 0
    assert uses("x = torch_load2(p)", "torch_load") and not uses("x = other(p)", "torch_load")
    assert not uses("x = torch_load(p", "torch_load")
    assert uses("f(x)", None) and not uses("f(x", None)
    assert exact_match("    x = 1\n    y = 2", "x = 1\ny = 2") == 1
    assert exact_match("if a:\n    x = 1", "if a:\n  x = 1") == 0  # inside a block indentation counts
    assert uses("    return f(x)", "f") and uses("f(", "f", "f()") and not uses("f()", "f", "f(")


def items(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_file_of_outputs(tmp_path):
    answer = "x = torch_load(p)"
    outputs = ["x = torch_load2(p)", "x = torch_load(p", answer]
    first = {"answer": answer, "name": "torch_load", "outputs": outputs, "passed": [True, False, True]}
    path = items(
        tmp_path / "a.jsonl",
        first,
        {"answer": "f", "name": "f", "outputs": ["g", "f", "h"], "passed": [False] * 3},
    )
    found = score_file(path)
    expected = {
        "items": 2,
        "em@1": 1 / 3,
        "ism@1": ((10 / 11 + 0 + 1) / 3 + 1 / 3) / 2,
        "pm@1": ((1 / 3 + 0 + 1) / 3 + 1 / 3) / 2,
        "pass@1": (2 / 3) / 2,
    }
    assert found == pytest.approx(expected)
    assert score_file(path, 3)["em@3"] == 1
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())  # a byte order mark
    assert score_file(path) == found
    del first["passed"]
    assert "pass@1" not in score_file(items(tmp_path / "a.jsonl", first, {"answer": "f", "outputs": ["f"]}))


def test_no_name_is_asked_for_if_none_is_given(tmp_path):
    """Blanks in a call are no other call."""
    path = items(tmp_path / "a.jsonl", {"answer": "np.matmul(a, b)", "outputs": ["np.matmul(a,b)"]})
    assert score_file(path) == {"items": 1, "em@1": 0, "ism@1": 1, "pm@1": 1}


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ('{"answer": "f"}', "line 2: outputs: Field required"),
        ("{", "line 2: Invalid JSON"),
        ('{"answer": "f", "outputs": ["f"]}', "line 2: has 1 outputs, fewer than k = 2"),
        (
            '{"answer": "f", "outputs": ["f", "g"], "passed": [true]}',
            "line 2: `passed` has 1 entries",
        ),
        (
            '{"answer": "f", "outputs": ["f", "g"], "passed": [true, true]}',
            "line 2: has `passed`, which the first item lacks",
        ),
        (
            '{"answer": "f", "outputs": ["f", "g"], "nmae": "f"}',
            "line 2: nmae: unknown field; did you mean `name`",
        ),
    ],
)
def test_a_line_that_is_no_item(tmp_path, line, told):
    path = tmp_path / "outputs.jsonl"
    path.write_text('{"answer": "f", "outputs": ["f", "g"]}\n' + line)
    with pytest.raises(PerdureError, match=told):
        score_file(path, 2)


def test_the_command(tmp_path):
    path = items(tmp_path / "a.jsonl", {"answer": "f", "outputs": ["f"]})
    command = [sys.executable, "-m", "perdure.pipeline.evaluate.code_scores"]
    told = subprocess.run([*command, str(path)], capture_output=True, text=True, check=True)
    assert json.loads(told.stdout) == {"items": 1, "em@1": 1.0, "ism@1": 1.0, "pm@1": 1.0}
    told = subprocess.run([*command, str(tmp_path / "no")], capture_output=True, text=True)
    assert told.returncode == 1 and told.stderr.count("\n") == 1 and "cannot be read" in told.stderr
