"""Tables of text: alignment by hand."""

from perdure.pipeline.evaluate.report.text_tables import markdown_table, text_table

ROWS = [["name", "of", "loss"], ["a", "long parent", "4.5"], ["longer", "b", ""]]


def test_names_stand_on_the_left_and_numbers_on_the_right():
    assert text_table(ROWS, left=2) == [
        "name    of           loss",
        "-------------------------",
        "a       long parent   4.5",
        "longer  b",
    ]
    assert text_table(ROWS, left=1)[2] == "a       long parent   4.5"
    assert text_table(ROWS, left=1)[3] == "longer            b"


def test_markdown():
    assert markdown_table(ROWS[:2]).splitlines() == [
        "| name | of | loss |",
        "| --- | --- | --- |",
        "| a | long parent | 4.5 |",
    ]
