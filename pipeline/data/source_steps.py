"""The steps of one source: cleaned documents, topics, subset, shards. Each makes its artefact unless it is finished.

The modules that do the work import datatrove; they are imported where there is something to do, so that a run whose data
is finished needs none of it.
"""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from perdure.pipeline.core.files import read_json
from perdure.pipeline.core.hashes import hash_of
from perdure.pipeline.core.integrity import is_whole, require_whole
from perdure.pipeline.core.manifest import is_finished
from perdure.pipeline.core.tokenizers import load_tokenizer
from perdure.pipeline.data import identity
from perdure.pipeline.data.context import ShardInputs, StageContext
from perdure.pipeline.data.fim import repository_settings, sentinel_ids, sentinels_of, settings
from perdure.pipeline.data.read.repositories import repository_fields
from perdure.pipeline.data.summaries import topics_summary
from perdure.pipeline.recipe import Recipe, typed_command

logger = logging.getLogger(__name__)
Inputs = dict[str, dict]
"""What each source's cleaned documents depend on, see `identity.clean_inputs`."""


def make_clean(recipe: Recipe, context: StageContext, name: str, inputs: Inputs) -> Path:
    """Cleans a source; returns the directory of its documents."""
    final = identity.place(context.out, f"clean/{name}", inputs[name])
    if not is_finished(final):
        from perdure.pipeline.data.cleaning.clean import clean_source

        facts = {"source": name, "hash": hash_of(inputs[name]), "inputs": inputs[name]} | {
            "command": typed_command(),
            "reading": identity.READING,
        }
        logger.info(f"cleaning {name}")
        clean_source(context, final, name, recipe.sources[name], facts)
    return final


def make_topics(recipe: Recipe, context: StageContext, name: str, inputs: Inputs, clean: Path) -> Path | None:
    """Labels a source with topics; returns their directory, None if the recipe asks for none."""
    topics = recipe.sources[name].topics
    if topics is None:
        return None
    own = identity.part_inputs(recipe, name, "topics", inputs)
    final = identity.place(context.out, f"topics/{name}", own)
    if not is_finished(final):
        from perdure.pipeline.data.topics import label_topics

        logger.info(f"labelling {name} with topics")
        facts = {"source": name, "inputs": own, "command": typed_command(), "words": identity.WORDS}
        require_whole(clean)
        label_topics(context, final, name, topics, clean, facts)
    logger.info(topics_summary(name, read_json(final / "manifest.json")))
    return final


def make_shards(
    recipe: Recipe,
    context: StageContext,
    name: str,
    inputs: Inputs,
    made: ShardInputs,
    exported: Callable[[], Any],
) -> Path:
    """Tokenises a source, with its subset chosen before; returns the directory of shards.

    Args:
        recipe: The recipe.
        context: What the stage's steps share.
        name: The source's name in the recipe.
        inputs: What each source's cleaned documents depend on.
        made: The artefacts of the source that are there; a subset is added to them.
        exported: Loads the tokenizer as AutoTokenizer does from an export.
    """
    facts = read_json(made.tokenizer / "manifest.json")
    own = identity.data_inputs(recipe, name, inputs, facts)
    final = identity.place(context.out, f"data/{name}", own)
    if is_whole(final):
        return final
    from perdure.pipeline.data.tokenise import tokenise_source

    require_whole(made.clean)
    if made.topics is not None:
        require_whole(made.topics)
    subset = _make_subset(recipe, context, name, inputs, made, facts)
    cleaned = read_json(made.clean / "manifest.json")
    source = recipe.sources[name]
    manifest = {
        "source": name,
        "data_hash": hash_of(own),
        "tokenizer_hash": facts["tokenizer_hash"],
        "eos_id": facts["eos_id"],
        "vocab_size": facts["vocab_size"],
        "tasks": context.tasks,
        "heldout_fraction": source.heldout_fraction,
        "inputs": inputs[name],
        "clean": made.clean.name,
        "reading": cleaned.get("reading", 1),
        "topics": made.topics.name if made.topics else None,
        "subset": subset.name if subset else None,
        "counts": cleaned["counts"],
        "command": typed_command(),
    }
    if source.has_conversations:
        manifest["label_mask"] = True
    if source.prefix is not None:
        manifest |= {"label_mask": True, "prefix": source.prefix}
    manifest |= _between_texts(recipe, name, made.tokenizer)
    if source.has_pairs:
        manifest["pairs"] = True
    logger.info(f"tokenising {name}")
    tokenise_source(context, final, name, made, subset, source, exported, manifest)
    return final


def _between_texts(recipe: Recipe, name: str, tokenizer: Path) -> dict[str, Any]:
    """For the manifest, what stands between the texts of documents, with ids of tokens.

    Raises:
        PerdureError: If the tokenizer lacks one of them, or one is its separator.
    """
    source, found = recipe.sources[name], dict[str, Any]()
    if not (tokens := sentinels_of(source)):
        return found
    loaded = load_tokenizer(tokenizer)
    separator = loaded.tokenizer.id_to_token(loaded.eos_id)
    assert separator is not None
    ids = {
        field: sentinel_ids(loaded.tokenizer, spelled, separator, f"sources.{name}.{field}")
        for field, spelled in tokens.items()
    }
    if source.infilled:
        found["fim"] = settings(source.infilled, recipe, name) | {"sentinels": ids["fim.sentinels"]}
    if source.repository:
        own = {"sentinels": ids["repository.sentinels"], "fields": repository_fields(source)}
        found["repository"] = repository_settings(recipe, name) | own
    return found


def _make_subset(
    recipe: Recipe,
    context: StageContext,
    name: str,
    inputs: Inputs,
    made: ShardInputs,
    facts: dict,
) -> Path | None:
    """Chooses the subset of a source; returns its directory, None if the recipe asks for none."""
    subset = recipe.sources[name].subset
    if subset is None:
        return None
    own = identity.subset_inputs(recipe, name, inputs, facts)
    final = identity.place(context.out, f"subset/{name}", own)
    if not is_whole(final):
        from perdure.pipeline.data.subset import choose_subset

        logger.info(f"choosing a subset of {name}")
        begun = {"source": name, "inputs": own, "command": typed_command()}
        choose_subset(context, final, name, subset, made.clean, made.tokenizer, begun)
    return final
