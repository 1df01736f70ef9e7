"""`perdure versions log --contains ID`: which versions read a document, when, and what came before them."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from perdure.pipeline.core.errors import PerdureError
from perdure.pipeline.core.records import read_inputs
from perdure.pipeline.plan.exposure import last_clean, reads_of
from perdure.pipeline.plan.recorded import recorded
from perdure.pipeline.plan.withdrawn import matching
from perdure.pipeline.recipe import Recipe

COLUMNS = ["id", "hash", "split", "num_tokens"]


def contains(recipe: Recipe, document: str) -> dict[str, Any]:
    """Which versions of a run read a document, or any other with the same text, in training.

    Args:
        recipe: The run's.
        document: Its id, or `source:id`.

    Returns:
        `id`; `documents`: `source`, `id`, `split` and `num_tokens` of all with the id or the text; `versions`: `id`, `reads` by
        place in the mixture (`Reads`), and `last_without` (`Clean`), null if nothing on its path read it.

    Raises:
        PerdureError: If no version has begun, no document of theirs has the id, or unlike ones of several sources have it.
    """
    recipes = recorded(recipe)
    data = _data(recipes)
    if not data:
        raise PerdureError(f"{recipe.directory}: no version has begun yet, so that none has read anything")
    names = sorted({source for source, _ in data})
    only, _, name = document.partition(":")
    named, wanted = ([only], name) if only in names else (names, document)
    by_source: dict[str, set[str]] = {}
    for source, place in data:
        if source in named and (own := {row["hash"] for row in _rows(place, "id", [wanted])}):
            by_source[source] = by_source.get(source, set()) | own
    texts = set[str]().union(*by_source.values())
    if not texts:
        remedy = "documents that cleaning dropped have none"
        raise PerdureError(f"no document of {', '.join(named)} has the id {wanted}; {remedy}")
    if any(own != texts for own in by_source.values()):
        first, *_ = by_source
        raise PerdureError(
            f"documents of {', '.join(by_source)} have the id {wanted}; say which, as in {first}:{wanted}"
        )
    listed = sorted(texts)
    documents = [
        {"source": source} | {key: row[key] for key in ("id", "split", "num_tokens")}
        for source, place in data
        for row in _rows(place, "hash", listed)
    ]
    reads = {name: reads_of(made, name, listed) for name, made in recipes.items()}
    versions = []
    for name in recipes:
        clean = last_clean(recipes, name, reads)
        told = {place: asdict(each) for place, each in reads[name].items()}
        versions.append({"id": name, "reads": told, "last_without": clean and asdict(clean)})
    return {"id": wanted, "documents": documents, "versions": versions}


def _data(recipes: dict[str, Recipe]) -> list[tuple[str, Path]]:
    """Sources and their data directories that some version was made from, each once."""
    found: dict[tuple[str, Path], None] = {}
    for name, made in recipes.items():
        paths = made.paths.version(name)
        if paths.inputs.exists():
            for source, place in read_inputs(paths)["data"].items():
                found[source, made.paths.data / Path(place).name] = None
    return [(source, place) for source, place in found if (place / "docs.parquet").exists()]


def _rows(data: Path, column: str, values: list[str]) -> list[dict[str, Any]]:
    return [row for batch in matching(data, column, values, COLUMNS) for row in batch.to_pylist()]


def print_contains(found: dict[str, Any]) -> None:
    """Prints what `contains` returned."""
    console = Console(highlight=False, soft_wrap=True, markup=False)
    for document in found["documents"]:
        same = "" if document["id"] == found["id"] else " has the same text:"
        held = ", held out, so that nothing trains on it" if document["split"] == "heldout" else ""
        console.print(f"{document['source']}{same} {document['id']}, {document['num_tokens']:,} tokens{held}")
    for version in found["versions"]:
        console.print(f"{version['id']}: {_reads_words(version['reads'])}{_clean_words(version)}")


def _reads_words(reads: dict[str, dict[str, Any]]) -> str:
    if not reads:
        return "did not read it"
    words = []
    for place, each in reads.items():
        steps = f"step {each['first_step']:,}"
        if each["last_step"] != each["first_step"]:
            steps = f"steps {each['first_step']:,} to {each['last_step']:,}"
        samples = "1 sample" if each["samples"] == 1 else f"{each['samples']:,} samples"
        to_forget = ", to forget it" if each["forgotten"] else ""
        words.append(f"{samples} of {place} ({steps}{to_forget})")
    return f"read it in {', '.join(words)}"


def _clean_words(version: dict[str, Any]) -> str:
    if (clean := version["last_without"]) is None:
        return ", nor did its ancestors"
    last = clean["version"] or "the initial model"
    if clean["checkpoint"] is not None:
        last = f"{clean['reader']} at step {clean['checkpoint']:,}, whose checkpoint is there"
    reader = "" if clean["reader"] == version["id"] else f", before {clean['reader']} did"
    return f"; the last that had not{reader}: {last}"
