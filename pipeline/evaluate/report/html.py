"""Renders HTML pages from templates: reports, comparisons, sweeps and inspections of data.

This package has the head, the style sheet and the table of all pages (`head.html`, `page.css`, `table.html`); each page's own
template stands beside the code that gathers what it shows.
"""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, NamedTuple

from perdure.pipeline.core.formats import format_duration, format_tokens
from perdure.pipeline.evaluate.report.formats import format_change, format_hours, format_share

SHARED = "perdure.pipeline.evaluate.report"
"""The package of the templates that all pages include."""
FILTERS: dict[str, Callable[..., str]] = {
    "integer": "{:,}".format,
    "duration": format_duration,
    "hours": format_hours,
    "loss": "{:.3f}".format,
    "share": format_share,
    "signed": format_change,
    "tokens": format_tokens,
}
"""Formats of numbers for every template: as filters, and as functions in `form`."""


class Column(NamedTuple):
    """The head of a table's column.

    Attributes:
        name: What stands in it, in lines.
        kind: Its cells' class in the style sheet; empty for text, which is aligned on the left.
    """

    name: str
    kind: str


def text(*names: str) -> list[Column]:
    """Heads of columns of text."""
    return [Column(name, "") for name in names]


def numbers(*names: str) -> list[Column]:
    """Heads of columns of numbers, aligned on the right."""
    return [Column(name, "number") for name in names]


def centred(*names: str) -> list[Column]:
    """Heads of centred columns."""
    return [Column(name, "centred") for name in names]


def render(package: str, template: str, filters: dict[str, Callable[..., Any]], **values: Any) -> str:
    """Renders a template.

    Args:
        package: The package in which the template stands.
        template: Its file, such as `page.html`.
        filters: What it may apply to values by name, beside `FILTERS`.
        values: What it may show.

    Returns:
        HTML; equal arguments give equal bytes.
    """
    from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=ChoiceLoader([PackageLoader(place, ".") for place in dict.fromkeys((package, SHARED))]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= FILTERS | filters
    environment.globals |= {"text": text, "numbers": numbers, "centred": centred}
    environment.globals |= {"form": SimpleNamespace(**FILTERS)}
    return environment.get_template(template).render(**values)
