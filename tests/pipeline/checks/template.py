"""The template recipe, and what `check` finds in it under overrides."""

from pathlib import Path

from perdure.pipeline.checks.check import load_checked
from perdure.pipeline.core.errors import RecipeError
from perdure.pipeline.recipe import RecipeSource

TEMPLATE = Path(__file__).parents[3] / "data_recipes" / "template.yaml"
SOURCES = "versions.base.mixture.sources"
DOMAIN_ORDER = "versions.base.mixture.domain_order"
LOWEST = "{lowest_perplexity: {share: .5}}"
MAPPED = "sources.code.topics={type: metadata, field: subject, map: {Battle: war, Trade: peace}}"


def found(*overrides: str, out: Path | None = None) -> dict[str, tuple]:
    """Path -> (value, remedy) of the problems of the template with overrides."""
    try:
        load_checked(RecipeSource(TEMPLATE, overrides, out))
    except RecipeError as error:
        return {problem.path: (problem.value, problem.remedy) for problem in error.problems}
    return {}
