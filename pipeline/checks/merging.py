"""Checks of versions that are merged from others."""

import math
from collections.abc import Iterator

from perdure.pipeline.core.errors import PerdureError, Problem
from perdure.pipeline.core.hints import near
from perdure.pipeline.core.manifest import is_finished
from perdure.pipeline.model.exports import unlike
from perdure.pipeline.model.shape import model_shape
from perdure.pipeline.plan.domains import measured_domains
from perdure.pipeline.plan.merged import old_and_new
from perdure.pipeline.recipe import Merge, Recipe, Version

Problems = Iterator[Problem]
TOLERANCE = 1e-9
"""How far from 1 shares may sum."""


def shares(recipe: Recipe, name: str, version: Version) -> Problems:
    """Checks shares: of one kind, summing to 1 where weights are averaged, positive where signs are counted."""
    start, where = version.start, f"versions.{name}.start"
    if not isinstance(start, Merge):
        return
    if start.weights and start.versions:
        yield Problem(
            f"{where}.versions", list(start.versions), "cannot stand beside `weights`, which names them"
        )
    if start.versions and start.fitted is None:
        yield Problem(f"{where}.fitted", None, "required by `versions`; or give the shares as `weights`")
    total = math.fsum(start.weights.values())
    if start.method == "linear" and start.weights and abs(total - 1) > TOLERANCE:
        yield Problem(f"{where}.weights", dict(start.weights), f"sum to {total:.12g}; should sum to 1")
    if start.method == "ties":
        for parent, share in start.weights.items():
            if share <= 0:
                yield Problem(
                    f"{where}.weights.{parent}", share, "should be greater than 0 with `method: ties`"
                )


def methods(recipe: Recipe, name: str, version: Version) -> Problems:
    """Checks that a method has the fields that it needs and no others."""
    start, where = version.start, f"versions.{name}.start"
    if not isinstance(start, Merge):
        return
    needed = {"linear": (), "task_arithmetic": ("base",), "ties": ("base", "density")}[start.method]
    used = {*needed, *(() if start.method == "linear" else ("scale",))}
    for field in ("base", "scale", "density"):
        value = getattr(start, field)
        if field in needed and value is None:
            yield Problem(f"{where}.{field}", None, f"required by `method: {start.method}`")
        elif field not in used and value is not None:
            yield Problem(f"{where}.{field}", value, f"has no use with `method: {start.method}`")


def blocks(recipe: Recipe, name: str, version: Version) -> Problems:
    """Checks shares by runs of layers: linear, of two versions, one for each run, no more runs than layers."""
    start, where = version.start, f"versions.{name}.start"
    if not isinstance(start, Merge):
        return
    by_block = start.blocks is not None or start.parent_share or start.fitted is not None
    if by_block and start.method != "linear":
        yield Problem(
            f"{where}.method", start.method, "cannot stand beside shares by layers, which are linear"
        )
    if by_block and len(start.named) != 2:
        remedy = f"should name two versions, names {len(start.named)}: shares by layers are the first one's"
        yield Problem(f"{where}.{'weights' if start.weights else 'versions'}", list(start.named), remedy)
    if start.fitted is not None and start.parent_share:
        yield Problem(
            f"{where}.parent_share", list(start.parent_share), "is what `fitted` finds; leave one of them out"
        )
    if start.fitted is not None and start.weights:
        yield Problem(
            f"{where}.weights", dict(start.weights), "are what `fitted` finds; name the two in `versions`"
        )
    if start.fitted is None and len(start.parent_share) != (start.blocks or 0):
        remedy = f"should have {start.blocks or 0} shares, one for each of `blocks`"
        yield Problem(f"{where}.parent_share", list(start.parent_share), remedy)
    if start.blocks is not None:
        try:
            layers = model_shape(recipe).num_layers
        except PerdureError:
            return  # a problem of its own
        if start.blocks > layers:
            yield Problem(f"{where}.blocks", start.blocks, f"should be at most {layers}, the model's layers")


def fitted(recipe: Recipe, name: str, version: Version) -> Problems:
    """Checks that shares are fitted to domains that are measured, old ones and new ones."""
    start, where = version.start, f"versions.{name}.start.fitted"
    if not isinstance(start, Merge) or start.fitted is None or len(start.named) != 2:
        return
    known = measured_domains(recipe)
    old, new = old_and_new(recipe, version)
    for field, domains in (("old", old), ("new", new)):
        for domain in domains:
            if domain not in known:
                yield Problem(
                    f"{where}.{field}", domain, f"is no domain that is measured{near(domain, known)}"
                )
    if not new:
        yield Problem(f"{where}.new", None, f"required: all new sources of `{start.named[-1]}` are in `old`")
    for domain in dict.fromkeys(new):
        if domain in old:
            yield Problem(f"{where}.new", domain, "stands in `old` already; leave one out")


def alike(recipe: Recipe, name: str, version: Version) -> Problems:
    """Checks that parents that are finished can be summed: one tokenizer, the same tensors."""
    start, paths = version.start, recipe.paths
    if not isinstance(start, Merge) or is_finished(paths.version(name).directory):
        return
    ready = [parent for parent in start.models if is_finished(paths.version(parent).directory)]
    exports = {parent: paths.version(parent).export for parent in ready}
    for other in ready[1:]:
        try:
            difference = unlike(exports[ready[0]], exports[other])
        except PerdureError as error:
            difference = str(error)
        if difference:
            yield Problem(
                f"versions.{name}.start", other, f"cannot be merged with `{ready[0]}`: {difference}"
            )


CHECKS = (shares, methods, blocks, fitted, alike)
