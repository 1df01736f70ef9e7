"""Checks of documents that are withdrawn, before and after data is there, and how many they are."""

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from perdure.pipeline.core.errors import PerdureError, Problem
from perdure.pipeline.core.files import read_json
from perdure.pipeline.core.hints import near
from perdure.pipeline.data.stage import finished_data
from perdure.pipeline.plan.domains import source_of
from perdure.pipeline.plan.forecast import expected_mixture
from perdure.pipeline.plan.lineage import lineage
from perdure.pipeline.plan.mixture import members
from perdure.pipeline.plan.withdrawn import (
    documents_with,
    forgotten_sources,
    is_forgotten,
    read_ids,
    training_documents,
    unknown_ids,
    unknown_words,
    withdrawals,
    withdrawn_texts,
)
from perdure.pipeline.recipe import Recipe, Version
from perdure.pipeline.recipe.remembered import asked_once

Problems = Iterator[Problem]


def listed(recipe: Recipe, name: str, version: Version) -> Problems:
    """Checks that withdrawn documents are of sources of the recipe, and that files of ids can be read."""
    for source, ids in version.mixture.withdrawn.items():
        where = f"versions.{name}.mixture.withdrawn.{source}"
        if source not in recipe.sources:
            yield Problem(where, source, f"no such source{near(source, recipe.sources)}")
            continue
        try:
            read_ids(ids)
        except PerdureError as error:
            yield Problem(where, str(ids), str(error).removeprefix(f"{ids}: "), absent=True)
    if any(source.repository is not None for source in recipe.sources.values()) and withdrawals(recipe, name):
        yield from _not_in_repositories(recipe, name)


def _not_in_repositories(recipe: Recipe, name: str) -> Problems:
    """Checks that no copy of what is withdrawn, by a version or what it comes from, can stand in a repository that it reads."""
    read = {source_of(domain) for domain, _ in members(expected_mixture(recipe, name)).values()}
    for where, source, _ in withdrawals(recipe, name):
        for other in sorted(read & recipe.sources.keys() - {source}):
            if recipe.sources[other].repository is None:
                continue
            remedy = (
                f"copies of documents of `{source}` would stay in repositories of `{other}`, whose files are not looked for "
                "one by one; leave out its `repository`"
            )
            if where.startswith(f"versions.{name}."):
                yield Problem(where, source, remedy)
            else:
                yield Problem(f"versions.{name}.mixture", other, f"{where} applies here, too: {remedy}")


def known(recipe: Recipe, name: str, version: Version) -> Problems:
    """Checks, of sources whose data is there, that every withdrawn id is some document's, and that a source keeps documents."""
    data, wrong = _finished(recipe), False
    for source, ids in version.mixture.withdrawn.items():
        if (directory := data.get(source)) and (unknown := unknown_ids(directory, read_ids(ids))):
            where = f"versions.{name}.mixture.withdrawn.{source}"
            yield Problem(where, unknown[0], unknown_words(source, unknown))
            wrong = True
    if wrong or not withdrawals(recipe, name):
        return
    told_before = forgotten_sources(recipe, name)  # by the checks of forgetting
    for key, (domain, _member) in members(expected_mixture(recipe, name)).items():
        known_already = is_forgotten(version, key) or source_of(domain) in told_before
        told = None if known_already else left_out(recipe, name, source_of(domain))
        if told and (directory := data[source_of(domain)]):
            counts = read_json(directory / "manifest.json")["counts"]["train"]
            if told["documents"] == counts["documents"]:
                remedy = (
                    "all of its documents are withdrawn; leave it out, or name the others in `replay.sources`"
                )
                yield Problem(f"versions.{name}.mixture", domain, remedy)


def exact_texts(recipe: Recipe) -> Problems:
    """Checks, of sources whose data is there, that exact references did not read what is forgotten in another source."""
    data = _finished(recipe)
    for source, reference in recipe.evaluation.exact.items():
        if not (directory := data.get(source)) or reference not in recipe.versions:
            continue
        forgotten = {
            text for batch in training_documents(directory, ["hash"]) for text in batch["hash"].to_pylist()
        }
        for name in lineage(recipe, reference):
            try:
                left = sorted(forgotten - set(withdrawn_texts(recipe, name, _there(data))))
            except PerdureError:
                continue  # told by other checks
            domains = dict.fromkeys(domain for domain, _ in members(expected_mixture(recipe, name)).values())
            for other in (each for each in domains if each != source and data.get(each)):
                if number := _size(_there(data)[other], tuple(left))[0]:
                    copies = f"{number:,} documents" if number > 1 else "a document"
                    remedy = (
                        f"`{name}` reads {copies} of `{other}` with the text of one of `{source}`; leave such out of it "
                        "(`mixture.withdrawn`), or name a version that never read them"
                    )
                    yield Problem(f"evaluation.exact.{source}", reference, remedy)


def left_out(recipe: Recipe, name: str, source: str) -> dict[str, int] | None:
    """Training documents of a source that a version leaves out, and their tokens; None if there are none, or nobody knows."""
    named = (
        {source, *(source for _, source, _ in withdrawals(recipe, name))}
        if withdrawals(recipe, name)
        else set()
    )
    data = {each: directory for each in named if (directory := _finished(recipe).get(each))}
    if not named or data.keys() != named:
        return None
    try:
        texts = withdrawn_texts(recipe, name, data)
    except PerdureError:
        return None  # told by the checks
    number, tokens = _size(data[source], tuple(texts))
    return {"documents": number, "tokens": tokens} if number else None


def _there(data: dict[str, Path | None]) -> dict[str, Path]:
    return {source: directory for source, directory in data.items() if directory}


@asked_once
def _finished(recipe: Recipe) -> dict[str, Path | None]:
    try:
        return finished_data(recipe)
    except PerdureError:
        return {}  # an input is missing, so that nobody can tell which data is the recipe's


@lru_cache(maxsize=256)
def _size(data: Path, texts: tuple[str, ...]) -> tuple[int, int]:
    found = documents_with(data, "hash", list(texts))
    return len(found.numbers), int(found.tokens.sum())
