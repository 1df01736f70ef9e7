"""Tables in plain text and in Markdown."""

from collections.abc import Sequence


def text_table(rows: Sequence[Sequence[str]], left: int) -> list[str]:
    """Lines of a table in plain text: aligned columns, with a rule below the head.

    Args:
        rows: The head, then the rows, with the same number of cells each.
        left: How many of the first columns are aligned on the left; the others, numbers, are on the right.
    """
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = [
        "  ".join(
            cell.ljust(width) if place < left else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths))
        ).rstrip()
        for row in rows
    ]
    return [lines[0], "-" * max(map(len, lines)), *lines[1:]]


def markdown_table(rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown.

    Args:
        rows: The head, then the rows.
    """
    head, *others = rows
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *others))
