"""Pages from templates: the report, the comparison, the inspection of data, and a sweep. They share a head and a style."""

from collections.abc import Callable
from typing import Any

PACKAGES = (
    "perdure.pipeline.evaluate.report",
    "perdure.pipeline.cli.inspection",
    "perdure.pipeline.run.sweep",
)
"""Where templates stand; no two have the same name."""


def render(template: str, filters: dict[str, Callable[..., Any]], **values: Any) -> str:
    """Renders a template.

    Args:
        template: Its name, such as `page.html`.
        filters: What it may apply to values, by name.
        values: What it may show.

    Returns:
        HTML; equal arguments give equal bytes.
    """
    from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=ChoiceLoader([PackageLoader(package, ".") for package in PACKAGES]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= filters
    return environment.get_template(template).render(**values)
