"""The inputs of a version: start, tokenizer, data and scores, as written to `inputs.json`.

Perplexities that are missing are made on the way; what a selection goes by, once there is a plan (`scoring.py`).
"""

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from perdure.pipeline.core.errors import PerdureError
from perdure.pipeline.core.files import read_json
from perdure.pipeline.core.hashes import hash_of
from perdure.pipeline.core.manifest import differences, is_finished
from perdure.pipeline.core.paths import VersionPaths
from perdure.pipeline.core.records import (
    ParentExport,
    RecipeIdentity,
    VersionIdentity,
    VersionInputs,
    read_inputs,
    read_record,
)
from perdure.pipeline.core.remedies import remedy
from perdure.pipeline.evaluate.probes import probe_hashes
from perdure.pipeline.evaluate.record import measured_on
from perdure.pipeline.model.exports import initial_weights_hash
from perdure.pipeline.model.shape import config_vocab_size, model_shape
from perdure.pipeline.model.vocabulary import extension_between
from perdure.pipeline.plan.averages import averaged_weights, no_checkpoints
from perdure.pipeline.plan.consumption import Ancestor, tokens_at, with_replay_pools
from perdure.pipeline.plan.cutoffs import are_dated, cutoff_before
from perdure.pipeline.plan.domains import source_of
from perdure.pipeline.plan.history import history_of_plan
from perdure.pipeline.plan.identity import deciding, deciding_fields
from perdure.pipeline.plan.lineage import missing_checkpoint, models_needed, parent_of
from perdure.pipeline.plan.merged import fitted_domains
from perdure.pipeline.plan.mixture import is_replayed, members, order_of_sources
from perdure.pipeline.plan.planning import data_hash
from perdure.pipeline.plan.withdrawn import forgotten_sources, withdrawn_hash
from perdure.pipeline.recipe import (
    Average,
    Branch,
    HuggingFaceModel,
    Mixture,
    Recipe,
    Update,
    Version,
    typed_command,
)
from perdure.pipeline.recipe.anchors import anchor_source
from perdure.pipeline.recipe.remembered import parents_of
from perdure.pipeline.run.adapters import earlier_adapters, refuse_new_rows
from perdure.pipeline.run.fisher_inputs import fisher_checkpoint
from perdure.pipeline.run.scoring import finished_export, perplexity_scores, selection_places
from perdure.pipeline.run.teacher import with_teacher

SHARE_OF_TRAINED = "version.mixture.replay.share_of: None -> 'trained'"
"""How `differences` tells a version whose `replay.share` was that of the tokens read, and would not be any more."""

KEEPS_TOKENIZER = "what goes on with moments keeps its tokenizer"


def version_inputs(
    recipe: Recipe, name: str, data: dict[str, Path], ancestors: list[Ancestor]
) -> VersionInputs:
    """The inputs of a version, with everything that decides its result as `identity`."""
    from perdure.pipeline.data.stage import tokenizer_directory

    version = recipe.versions[name]
    probe_hashes(recipe.evaluation.probes)  # names a bad item before any rank starts
    some_source = read_json(next(iter(data.values())) / "manifest.json")
    tokenizer = tokenizer_directory(recipe)
    parent = parent_of(version)
    weights, weights_hash, checkpoint = _start(recipe, name, some_source["tokenizer_hash"])
    if version.is_computed:
        used, ranked, scores = sorted(map(source_of, fitted_domains(recipe, version))), {}, {}
    else:
        gone = forgotten_sources(recipe, name)
        mixture = with_replay_pools(version.mixture, history_of_plan(recipe, name, ancestors), name, gone)
        places = members(mixture)
        estimated = anchor_source(version.anchor)
        used = sorted(
            {source_of(domain) for domain, _ in places.values()} | ({estimated} if estimated else set())
        )
        ranked = perplexity_scores(recipe, mixture, data)
        fresh = dict.fromkeys(
            source_of(domain) for key, (domain, _) in places.items() if not is_replayed(key)
        )
        scores = selection_places(recipe, version, list(fresh), data)
    adapters, adapter_hashes = earlier_adapters(recipe, name)
    refuse_new_rows(recipe, name, weights, tokenizer)
    found: VersionInputs = {
        "version": name,
        "command": typed_command(),
        "parent": parent,
        "parent_lineage_tokens": _lineage_tokens(recipe, name),
        "vocab_size": read_inputs(VersionPaths(checkpoint.parents[1]))["vocab_size"]
        if checkpoint
        else embedding_rows(weights, tokenizer, some_source["vocab_size"]),
        "eos_id": some_source["eos_id"],
        "tokenizer": str(tokenizer),
        "initial_weights": str(weights) if weights and not version.is_computed else None,
        "parent_checkpoint": str(checkpoint) if checkpoint else None,
        "data": {source: str(path) for source, path in data.items()},
        "scores": {source: str(path) for source, path in scores.items()},
        "perplexity_scores": {source: str(path) for source, path in ranked.items()},
        "measured": measured_on(recipe, data),
        "identity": {
            **recipe_identity(recipe, name),
            "tokenizer_hash": some_source["tokenizer_hash"],
            "data": {source: data_hash(data[source]) for source in used if source in data},
            "initial_weights": weights_hash,
            "scores": {source: path.name for source, path in scores.items()},
            "perplexity_scores": {source: path.name for source, path in ranked.items()},
        },
    }
    if not version.is_computed and (withdrawn := withdrawn_hash(recipe, name, data)):
        found["identity"]["withdrawn"] = withdrawn
    if adapters:
        found["adapters"], found["identity"]["adapters"] = adapters, adapter_hashes
    if version.is_computed:
        found["parents"] = parent_exports(recipe, version)
    if isinstance(version.start, Average):
        found["averaged"] = averaged_checkpoints(recipe, name, version.start)
    if moments := fisher_checkpoint(recipe, name, some_source["tokenizer_hash"]):
        found["fisher_checkpoint"] = str(moments)
    if are_dated(recipe) and not is_finished(recipe.paths.version(name).directory):
        found["cutoff_before"] = cutoff_before(recipe, name, data)
    return with_teacher(recipe, name, found)


def averaged_checkpoints(recipe: Recipe, name: str, start: Average) -> dict[str, float]:
    """The weight of each checkpoint that a version averages, by its directory.

    Raises:
        PerdureError: If one is gone, and the version is not finished.
    """
    parent, weights = recipe.paths.version(start.of), averaged_weights(recipe, start)
    gone = [step for step in weights if step not in parent.finished_checkpoints()]
    if gone and not is_finished(recipe.paths.version(name).directory):
        raise PerdureError(f"version {name}: {no_checkpoints(recipe, start.of, gone)}")
    return {str(parent.checkpoint(step)): weight for step, weight in weights.items()}


def parent_exports(recipe: Recipe, version: Version) -> dict[str, ParentExport]:
    """By name the finished versions that another one is computed from.

    Raises:
        PerdureError: If one is not finished, or damaged.
    """
    return {
        parent: {
            "export": str(finished_export(recipe, parent)),
            "weights_hash": read_record(recipe.paths.version(parent))["weights_hash"],
        }
        for parent in parents_of(version)
    }


def recipe_identity(recipe: Recipe, name: str) -> RecipeIdentity:
    """The part of a version's identity that the recipe decides; the rest of it follows from data and models."""
    found = deciding_fields(recipe, name)
    return {**found, "model": found["model"] | {"shape": asdict(model_shape(recipe))}}


def refuse_edited(recipe: Recipe, names: Iterable[str]) -> None:
    """Refuses versions that were made from something else than the recipe says now, they or any that they build on.

    Where a version begins in its data, the learning rate that it goes on from, and what its reference knows follow from the
    recipe's words on those versions. Data and scores are no part of this: data that was made anew is other data.

    Raises:
        PerdureError: If one of them was made from something else; it names what differs.
    """
    needed = list(names)
    for name in needed:
        needed += [other for other in models_needed(recipe.versions[name]) if other not in needed]
    for name, what in edited_versions(recipe, needed).items():
        raise PerdureError(f"version {name}: {recipe.paths.version(name).directory} {what}")


def edited_versions(recipe: Recipe, names: Iterable[str]) -> dict[str, str]:
    """Versions whose recorded identity differs from today's recipe, with the differences in words."""
    begun = [name for name in names if recipe.paths.version(name).inputs.exists()]
    found = {name: _edited(recipe, name, recipe_identity(recipe, name)) for name in begun}
    return {name: what for name, what in found.items() if what}


def refuse_other(recipe: Recipe, name: str, identity: VersionIdentity) -> None:
    """Refuses a version whose directory was made from something else than an identity, or a part of one.

    Raises:
        PerdureError: If that is something else; it names what differs.
    """
    if what := _edited(recipe, name, identity):
        raise PerdureError(f"version {name}: {recipe.paths.version(name).directory} {what}")


def _edited(recipe: Recipe, name: str, identity: RecipeIdentity | VersionIdentity) -> str | None:
    version = recipe.paths.version(name)
    path, found = version.inputs, read_inputs(version)
    if (other := found.get("version", name)) != name:
        raise PerdureError(f"{path}: is that of version {other}; {remedy(path)}")
    recorded, now = _as_now(found["identity"]), dict[str, Any](identity)
    if "data" in now:  # not of the recipe alone: it has `withdrawn`, if anything is
        now.setdefault("withdrawn", None)
    differing = differences({key: recorded.get(key) for key in now}, now)
    if not differing:
        return None
    told = (
        "was made from something else; set the recipe back, give the version another name, or delete that directory to train "
        f"it anew. What differs: {'; '.join(differing)}"
    )
    if SHARE_OF_TRAINED in differing and not any(".selection" in line for line in differing):
        field = f"versions.{name}.mixture.replay.share_of: read"
        told += f". It was made when `share` was that of the tokens read: {field} keeps it"
    return told


def _as_now(recorded: VersionIdentity) -> dict[str, Any]:
    """An identity as `recipe_identity` says it now; older ones tell the order of sources by their keys alone."""
    order = order_of_sources(Mixture.model_construct(**recorded["version"]["mixture"]))
    return {"order_of_sources": order} | recorded | {"version": deciding(recorded["version"])}


def _start(recipe: Recipe, name: str, tokenizer_hash: str) -> tuple[Path | None, str | None, Path | None]:
    """The start of a version: directory of Hugging Face weights, their identity, and the parent's checkpoint."""
    start, done = recipe.versions[name].start, is_finished(recipe.paths.version(name).directory)
    if isinstance(start, Branch):
        parent = recipe.paths.version(start.parent)
        identity = read_inputs(parent)["identity"]
        _same_tokenizer(name, start.parent, identity["tokenizer_hash"], tokenizer_hash)
        if not done and (reason := missing_checkpoint(recipe, start)):
            raise PerdureError(f"version {name}: {reason}")
        if not done and start.step not in parent.finished_checkpoints():
            raise PerdureError(
                f"version {name}: {start.parent} has not reached step {start.step} yet; train it first (`perdure run` "
                "does all in order)"
            )
        checkpoint = parent.checkpoint(start.step)
        return None, f"{hash_of(identity)[:16]}@{start.step}", checkpoint
    if recipe.versions[name].is_computed:
        parents = parent_exports(recipe, recipe.versions[name])
        for other in parents:
            theirs = read_record(recipe.paths.version(other))["tokenizer_hash"]
            _same_tokenizer(name, other, theirs, tokenizer_hash, "weights are summed token by token")
        hashes = {other: parent["weights_hash"] for other, parent in parents.items()}
        return Path(next(iter(parents.values()))["export"]), hash_of(hashes)[:16], None
    if isinstance(start, Update):
        export, parent = finished_export(recipe, start.parent), recipe.paths.version(start.parent)
        record = read_record(parent)
        if start.moments == "reset":
            return export, record["weights_hash"], None
        _same_tokenizer(name, start.parent, record["tokenizer_hash"], tokenizer_hash)
        if not done and record["steps"] not in parent.finished_checkpoints():
            raise PerdureError(
                f"version {name}: the last checkpoint of {start.parent}, which holds its moments, is gone from "
                f"{parent.checkpoints}; use start.moments: reset"
            )
        return None, record["weights_hash"], parent.checkpoint(record["steps"])
    if isinstance(recipe.model, HuggingFaceModel):
        return recipe.model.path, initial_weights_hash(recipe, recipe.model.path), None
    return None, None, None


def _same_tokenizer(name: str, parent: str, theirs: str, ours: str, why: str = KEEPS_TOKENIZER) -> None:
    if theirs != ours:
        raise PerdureError(
            f"version {name}: its parent {parent} was trained with another tokenizer ({theirs[:8]} -> {ours[:8]}); {why}"
        )


def _lineage_tokens(recipe: Recipe, name: str) -> int:
    """Tokens that the ancestors of a version trained on."""
    start, training = recipe.versions[name].start, recipe.training
    if isinstance(start, Branch):
        parent = recipe.paths.version(start.parent)
        before = read_inputs(parent)["parent_lineage_tokens"]
        return before + tokens_at(
            parent.directory, start.step, training.global_batch_size * training.seq_length
        )
    if (followed := parent_of(recipe.versions[name])) is not None:
        return read_record(recipe.paths.version(followed))["lineage_tokens"]
    return 0


def embedding_rows(weights: Path | None, tokenizer: Path, tokens: int) -> int:
    """Rows of the embedding: those of the weights that it starts from, and of what the tokenizer adds to theirs."""
    if weights is None:
        return tokens
    rows = config_vocab_size(weights)
    if extension_between(weights, tokenizer) is not None:
        return max(rows, tokens)
    if rows < tokens:
        raise PerdureError(
            f"model {weights} has {rows:,} embeddings, but the tokenizer has {tokens:,} tokens; use the model's own "
            "tokenizer"
        )
    return rows
