"""What each artefact of the data stage depends on; a hash of it names its directory."""

from collections import defaultdict
from itertools import chain
from pathlib import Path

from perdure.pipeline.core.errors import PerdureError
from perdure.pipeline.core.files import read_json
from perdure.pipeline.core.hashes import hash_of
from perdure.pipeline.data.cleaning.languages import has_other_words
from perdure.pipeline.data.cleaning.step_inputs import cleaning_inputs, label_inputs
from perdure.pipeline.data.fim import repository_settings, settings, special_tokens
from perdure.pipeline.data.read.contents import edited, record_path
from perdure.pipeline.data.read.inputs import fingerprint, once_for, read_files
from perdure.pipeline.data.tokenizer.coverage import NOTHING_LEFT
from perdure.pipeline.data.tokenizer.train import tokenizer_inputs as tokenizer_facts
from perdure.pipeline.recipe import Recipe
from perdure.pipeline.recipe.remembered import asked_once

FORMAT = 3
"""Version of what the stage writes; a change in its meaning makes new directories."""

READING = 2
"""Version of what readers make of lines and rows; manifests hold it."""
READ_OTHERWISE = {"jsonl": {"broken_json", "invalid_utf8"}, "parquet": {"invalid_utf8"}}
"""By reader: reasons for which version 1 dropped documents that this one may keep."""

FIM = 1
"""Version of what the stage makes of documents whose middle is to be filled in."""
REPOSITORIES = 2
"""Version of what the stage makes of repositories, and of what readers leave of their files."""
CHATS = 1
"""Version of what the stage makes of conversations."""
PREFIXES = 1
"""Version of what the stage makes of prefixes."""
DATES = 1
"""Version of what the stage makes of dates."""
WORDS = 2
"""Version of what words of a text are to topics and subsets (`features`); manifests of topics hold it."""


def place(out: Path, name: str, inputs: dict) -> Path:
    """Directory of the artefact `name` that depends on `inputs`."""
    return out / f"{name}@{hash_of(inputs)[:8]}"


def by_source(directory: Path, prefix: str = "") -> dict[str, list[Path]]:
    """Entries of a directory called `<prefix><source>@<hash8>`, by source."""
    found = defaultdict(list)
    for path in sorted(directory.glob(f"{prefix}*@*")):
        found[path.name.removeprefix(prefix).partition("@")[0]].append(path)
    return found


@asked_once
def clean_inputs(recipe: Recipe) -> dict[str, dict]:
    """Everything that each source's cleaned documents depend on; kept in a scope of `inputs_read_once`."""
    kind = f"clean inputs of {list(recipe.sources)} in {recipe.data.tasks} tasks below {recipe.directory}"
    return once_for(kind, list(recipe.sources.values()), lambda: _clean_inputs(recipe))


def _clean_inputs(recipe: Recipe) -> dict[str, dict]:
    found: dict[str, dict] = {}
    shards = by_source(recipe.paths.data)
    for name, source in recipe.sources.items():
        try:
            described = fingerprint(source.reader)
        except PerdureError as error:
            raise PerdureError(f"sources.{name}.reader: {error}") from None
        try:
            steps = [cleaning_inputs(step) for step in source.clean]
        except PerdureError as error:
            raise PerdureError(f"sources.{name}.clean: {error}") from None
        inputs = found[name] = {
            "format": FORMAT,
            "reader": source.reader.model_dump(mode="json", exclude={"path"}),
            "fingerprint": described,
            "clean": steps,
            "tasks": recipe.data.tasks,
        }
        if source.repository is not None:
            inputs["repository"] = REPOSITORIES
        record = record_path(recipe.directory, place(recipe.directory, f"clean/{name}", inputs))
        if record.exists() and (files := read_files(source.reader)) and (changed := edited(record, *files)):
            inputs["fingerprint"] = described | {"edited": changed}
        cleaned = place(recipe.directory, f"clean/{name}", inputs)
        if _read_otherwise(source.reader.type, cleaned, shards.get(name, [])):
            inputs["reading"] = READING
    return found


def _read_otherwise(reader: str, cleaned: Path, shards: list[Path]) -> bool:
    """Whether an existing artefact of a source lacks documents that its reader keeps by now."""
    reasons = READ_OTHERWISE.get(reader, set())
    if not reasons:
        return False
    data = [read_json(path / "manifest.json") for path in shards if (path / "manifest.json").exists()]
    made = [manifest for manifest in data if manifest.get("clean") == cleaned.name]
    if (cleaned / "manifest.json").exists():
        made.append(read_json(cleaned / "manifest.json"))
    return any(
        manifest.get("reading", 1) < READING
        and not reasons.isdisjoint(manifest["counts"]["steps"][0]["dropped"])
        for manifest in made
    )


def tokenizer_inputs(recipe: Recipe, clean: dict[str, dict]) -> dict:
    """Everything that the tokenizer depends on."""
    inputs = tokenizer_facts(recipe.tokenizer)
    if recipe.tokenizer.type in ("train", "extend"):
        inputs["sources"] = {name: hash_of(clean[name]) for name in recipe.tokenizer.sources}
        inputs["reserved_fraction"] = reserved_fraction(recipe)
    if recipe.tokenizer.type == "train" and (tokens := special_tokens(recipe)):
        inputs["special_tokens"] = tokens
    return {"format": FORMAT, **inputs}


def data_inputs(recipe: Recipe, name: str, clean: dict[str, dict], facts: dict) -> dict:
    """Everything that a source's shards depend on."""
    inputs = {
        "clean": hash_of(clean[name]),
        "heldout_fraction": recipe.sources[name].heldout_fraction,
        "reserved_fraction": reserved_fraction(recipe),
        "tokenizer_hash": facts["tokenizer_hash"],
        "eos_id": facts["eos_id"],
        "parse_special_tokens": facts["parse_special_tokens"],
    }
    inputs |= _as_loaded(facts)
    if recipe.sources[name].has_conversations:
        inputs["chat"] = {"format": CHATS, "template": facts.get("chat_template")}
    if (field := recipe.sources[name].date_field) is not None:
        inputs["dates"] = {"format": DATES, "field": field}
    if fim := recipe.sources[name].infilled:
        inputs["fim"] = settings(fim, recipe, name) | {"format": FIM}
    if (prefix := recipe.sources[name].prefix) is not None:
        inputs["prefix"] = {"format": PREFIXES, "text": prefix}
    if recipe.sources[name].repository:
        inputs["repository"] = repository_settings(recipe, name) | {"format": REPOSITORIES}
    if recipe.sources[name].topics is not None:
        inputs["topics"] = part_inputs(recipe, name, "topics", clean)
    if recipe.sources[name].subset is not None:
        inputs["subset"] = subset_inputs(recipe, name, clean, facts)
    return inputs


def _as_loaded(facts: dict) -> dict:
    """What tokens depend on beside `tokenizer.json`: AutoTokenizer's own version of it, and lost characters."""
    loaded = facts.get("loaded") or {}
    found = {"loaded": loaded["sha256"]} if loaded.get("sha256") else {}
    return found | ({"nothing_left": NOTHING_LEFT} if loaded.get("loses_characters") else {})


def part_inputs(recipe: Recipe, name: str, part: str, clean: dict[str, dict]) -> dict:
    """Everything that a source's topics or subset depend on, the tokenizer excepted."""
    try:
        inputs = label_inputs(getattr(recipe.sources[name], part))
    except PerdureError as error:
        raise PerdureError(f"sources.{name}.{part}: {error}") from None
    found = {"format": FORMAT, "clean": hash_of(clean[name]), part: inputs}
    return found | ({"words": WORDS} if _other_words(recipe, name, part, found) else {})


def _other_words(recipe: Recipe, name: str, part: str, inputs: dict) -> bool:
    """Whether version 0.1 split this source into other words: by its languages, or by existing clusters."""
    section = getattr(recipe.sources[name], part)
    if section.type == "metadata":
        return False
    pairs = section.type == "cluster"
    for step in recipe.sources[name].clean:
        codes = step.keep or [] if step.type == "language" else [getattr(step, "language", "")]
        if any(has_other_words(code, pairs) for code in codes):
            return True
    if place(recipe.directory, f"{part}/{name}", inputs | {"words": WORDS}).exists():
        return True  # made anew once, whatever became of the first
    manifest = place(recipe.directory, f"{part}/{name}", inputs) / "manifest.json"
    if not pairs or not manifest.exists() or (made := read_json(manifest)).get("words", 1) >= WORDS:
        return False
    from perdure.pipeline.data.features import cut_in_version_0_1

    return any(map(cut_in_version_0_1, chain.from_iterable(made["top_words"].values())))


def subset_inputs(recipe: Recipe, name: str, clean: dict[str, dict], facts: dict) -> dict:
    """Everything that a source's subset depends on."""
    inputs = {
        "tokenizer_hash": facts["tokenizer_hash"],
        "parse_special_tokens": facts["parse_special_tokens"],
        "reserved_fraction": reserved_fraction(recipe),
        "seed": recipe.seed,
    }
    return part_inputs(recipe, name, "subset", clean) | inputs | _as_loaded(facts)


@asked_once
def reserved_fraction(recipe: Recipe) -> float:
    """Largest share that any source holds out; documents with a hash below it train in no source."""
    return max(source.heldout_fraction for source in recipe.sources.values())
