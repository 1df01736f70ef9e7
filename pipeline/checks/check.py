"""Preflight: everything that types cannot judge about a recipe, found at once, before anything starts."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from itertools import islice

from perdure.pipeline.checks import (
    adapters,
    amounts,
    anchors,
    averaging,
    chats,
    cleaning,
    code,
    dates,
    evaluation,
    forgetting,
    hooks,
    kernels,
    merging,
    mixtures,
    model,
    names,
    preference,
    prefixes,
    schedules,
    scoring,
    sources,
    versions,
    withdrawn,
)
from perdure.pipeline.checks.finished import against_data
from perdure.pipeline.checks.lenient import BROKEN, BrokenField, lenient_recipe
from perdure.pipeline.checks.sizes import embedding_rows
from perdure.pipeline.core.errors import PerdureError, Problem, RecipeError
from perdure.pipeline.core.inputs_once import inputs_read_once
from perdure.pipeline.model.layout import layout_of
from perdure.pipeline.model.shape import model_shape
from perdure.pipeline.recipe import (
    HuggingFaceModel,
    Recipe,
    RecipeSource,
    Version,
    load_recipe,
    read_tree,
    structural_problems,
    with_field,
)
from perdure.pipeline.recipe.load import UNKNOWN_FIELD
from perdure.pipeline.recipe.remembered import remembering

VersionCheck = Callable[[Recipe, str, Version], Iterator[Problem]]
MOST = 1_000
"""Mistakes of sense after which no more are looked for."""


def load_checked(source: RecipeSource) -> Recipe:
    """Reads a recipe that is ready to run.

    Raises:
        RecipeError: With all mistakes, of types and of sense alike.
    """
    tree = read_tree(source)
    if found := tree_problems(tree):
        raise RecipeError(str(source.path), found)
    return Recipe.model_validate(tree)


def load_lineage(source: RecipeSource) -> Recipe:
    """Reads a recipe for what is there already, though its sources may be gone.

    Raises:
        RecipeError: If its fields have mistakes, a parent does not stand before its versions, or there is no such source.
    """
    recipe = load_recipe(source.path, source.overrides, source.out)
    found = [
        problem
        for check in (versions.parent, versions.budget, mixtures.known_sources)
        for name, version in recipe.versions.items()
        for problem in check(recipe, name, version)
    ]
    if found:
        raise RecipeError(str(source.path), found)
    return recipe


def load_on_paper(
    source: RecipeSource, nodes: int = 1, ranks_per_node: int = 1
) -> tuple[Recipe, list[Problem]]:
    """Reads a recipe that is to run on other machines, its replicas as many as fill them.

    Returns:
        The recipe, and what it needs that is not on this machine.

    Raises:
        RecipeError: With all mistakes; what is absent is one only if the model's size cannot be told without it. Or if
            the nodes' ranks are no multiple of tensor x pipeline parallel.
    """
    tree, found = filling(read_tree(source), nodes, ranks_per_node)
    if mistakes := [problem for problem in found if not problem.absent]:
        raise RecipeError(str(source.path), mistakes)
    recipe = Recipe.model_validate(tree)
    if not _has_size(recipe):
        needed = [problem for problem in found if problem.path.startswith(("model.", "tokenizer."))]
        if isinstance(recipe.model, HuggingFaceModel):
            needed.append(Problem("model.shape", None, "or state here what is in the model's `config.json`"))
        raise RecipeError(str(source.path), needed)
    return recipe, found


def _has_size(recipe: Recipe) -> bool:
    try:
        model_shape(recipe)
        return embedding_rows(recipe) is not None
    except PerdureError:
        return False


def filling(
    tree: dict, nodes: int, ranks_per_node: int, with_data: bool = True
) -> tuple[dict, list[Problem]]:
    """A recipe's tree with as many data-parallel replicas as fill some nodes, and its mistakes, as `tree_problems` says.

    One is that the nodes' ranks are no multiple of tensor x pipeline parallel.
    """
    if structural_problems(tree):
        return tree, tree_problems(tree, with_data)
    layout, ranks = layout_of(Recipe.model_validate(tree)), nodes * ranks_per_node
    if (filled := layout.filling(ranks)) is None:
        value = f"tensor {layout.tensor} x pipeline {layout.pipeline}"
        remedy = f"should divide the {ranks} ranks of {nodes} nodes x {ranks_per_node}"
        return tree, [Problem("parallel", value, remedy)]
    tree = with_field(tree, "parallel.data_parallel", filled.data)
    return tree, tree_problems(tree, with_data)


def tree_problems(tree: dict, with_data: bool = True) -> list[Problem]:
    """Lists all mistakes, of types and of sense alike, of what `read_tree` returns; `with_data`, also those that data show.

    Where the only mistakes of types are unknown fields, no file is looked at: that may take long, and the field is soon mended.
    """
    structural = structural_problems(tree)
    if not structural:
        return problems(Recipe.model_validate(tree), with_data)
    if all(problem.remedy.startswith(UNKNOWN_FIELD) for problem in structural):
        with remembering():
            return structural + _parents(lenient_recipe(tree))[1]
    return structural + problems(lenient_recipe(tree), with_data=False)


def problems(recipe: Recipe, with_data: bool = True) -> list[Problem]:
    """All mistakes of sense in a recipe.

    Args:
        recipe: A recipe, or one from `lenient_recipe`, of which checks that need a broken part are passed over.
        with_data: Whether to ask finished data, too; not of a recipe with broken parts.
    """
    with remembering(), inputs_read_once():
        return _problems(recipe, with_data)


def _problems(recipe: Recipe, with_data: bool) -> list[Problem]:
    recipe, found = _parents(recipe)
    too_many: list[Problem] = []
    with suppress(BrokenField):
        too_many += amounts.places(recipe)
    found += too_many
    for check in _checks(recipe, of_versions=not too_many):
        if len(found) >= MOST:
            break
        try:
            found += islice(check(), MOST - len(found))
        except BrokenField:
            continue  # its own mistake is listed already
        except OSError as error:  # a directory without permission, a disk that fails
            remedy = f"cannot be read: {error.strerror}"
            found.append(Problem("files", str(error.filename), remedy, absent=True))
    if with_data and not any(problem.path.startswith(("versions", "tokenizer.")) for problem in found):
        found += against_data(recipe)
    return found


def _parents(recipe: Recipe) -> tuple[Recipe, list[Problem]]:
    """Mistakes in what versions start from and in their budgets, and a recipe in which these are broken parts.

    So whatever follows a version's ancestors stops there, instead of going in a circle.
    """
    if not isinstance(recipe.versions, dict):
        return recipe, []
    found: list[Problem] = []
    broken = {}
    for name, version in recipe.versions.items():
        with suppress(BrokenField):
            if wrong := list(versions.parent(recipe, name, version)):
                found += wrong
                broken[name] = version.model_copy(update={"start": BROKEN})
            elif wrong := list(versions.budget(recipe, name, version)):
                found += wrong
                broken[name] = version.model_copy(update={"tokens": BROKEN})
    return recipe.model_copy(update={"versions": recipe.versions | broken}) if broken else recipe, found


def _checks(recipe: Recipe, of_versions: bool) -> list[Callable[[], Iterator[Problem]]]:
    """One callable each, so that a broken part costs no more than the checks that need it."""
    checks: list[Callable[[], Iterator[Problem]]] = [
        partial(check, recipe)
        for check in (
            *(
                sources.output,
                sources.nested,
                sources.tasks,
                sources.open_files,
                sources.executor,
                scoring.windows,
                scoring.positions,
                chats.conversations,
                code.between_texts,
            ),
            *model.CHECKS,
            *kernels.CHECKS,
            *evaluation.CHECKS,
            dates.model_cutoff,
            *names.CHECKS,
        )
    ]
    if isinstance(recipe.sources, dict):
        checks += [
            partial(check, name, source)
            for name, source in recipe.sources.items()
            for check in (
                sources.source,
                cleaning.cleaning,
                cleaning.labels,
                dates.date_field,
                prefixes.prefix,
            )
        ]
    if of_versions and isinstance(recipe.versions, dict):
        checks += [
            partial(check, recipe, name, version)
            for name, version in recipe.versions.items()
            for check in (
                *versions.CHECKS,
                *merging.CHECKS,
                *averaging.CHECKS,
                *adapters.CHECKS,
                *map(
                    _of_training,
                    (
                        *mixtures.CHECKS,
                        *prefixes.CHECKS,
                        dates.one_spelling,
                        chats.instruct,
                        chats.packing,
                        *preference.CHECKS,
                        withdrawn.listed,
                        *forgetting.CHECKS,
                        *schedules.CHECKS,
                        *anchors.CHECKS,
                        *hooks.CHECKS,
                    ),
                ),
            )
        ]
    return checks


def _of_training(check: VersionCheck) -> VersionCheck:
    """A check of what versions train on, which passes over those that do not: theirs is their first parent's."""

    def made(recipe: Recipe, name: str, version: Version) -> Iterator[Problem]:
        if not version.is_computed:
            yield from check(recipe, name, version)

    return made
