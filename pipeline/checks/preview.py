"""What a recipe would do, as data. Nothing is started and no GPU is needed."""

from typing import Any

from perdure.pipeline.checks.advice import advice
from perdure.pipeline.checks.memory import adapter_memory, memory_per_rank
from perdure.pipeline.checks.mixture_table import is_part, mixture_table, moves_across, moving_sources
from perdure.pipeline.checks.sizes import (
    embedding_rows,
    estimated_tokens,
    finished_sources,
    vocab_size,
)
from perdure.pipeline.core.manifest import is_finished
from perdure.pipeline.data.read.inputs import files_not_read
from perdure.pipeline.data.read.overlap import same_files
from perdure.pipeline.data.tokenizer.directory import tokenizer_warnings
from perdure.pipeline.model.choices import lacking
from perdure.pipeline.model.files import model_tensors
from perdure.pipeline.model.layout import layout_of
from perdure.pipeline.model.shape import (
    config_vocab_size,
    model_shape,
    num_parameters,
    padded_vocab_size,
    tensor_sizes,
)
from perdure.pipeline.plan.averages import averaged_steps, decay_begins, decay_factor
from perdure.pipeline.plan.domains import source_of
from perdure.pipeline.plan.forecast import (
    domain_sequence,
    planned_phases,
)
from perdure.pipeline.plan.lineage import ancestors, parent_of, resolved_schedule, steps_before
from perdure.pipeline.plan.merged import origin_words
from perdure.pipeline.plan.mixture import (
    plain_keys,
    read_share,
    trained_fraction,
    trained_share,
)
from perdure.pipeline.plan.plan import num_samples, num_steps
from perdure.pipeline.plan.reads import to_score
from perdure.pipeline.plan.schedule import learning_rate
from perdure.pipeline.recipe import (
    Average,
    Branch,
    HuggingFaceModel,
    Recipe,
    Version,
)
from perdure.pipeline.recipe.remembered import remembering

CURVE_POINTS = 60
"""Points of the learning-rate curve."""


def preview(recipe: Recipe) -> dict[str, Any]:
    """Everything that can be told before a run: JSON-serialisable, tokens and samples as counts, shares in [0, 1]."""
    with remembering():
        return _preview(recipe)


def _preview(recipe: Recipe) -> dict[str, Any]:
    counts = finished_sources(recipe)
    sources = _sources(recipe, counts)
    versions = [_version(recipe, name, version, sources, counts) for name, version in recipe.versions.items()]
    for version in versions:
        for member in version["mixture"]:
            source = sources[source_of(member["source"])]
            if is_part(member):
                source["in_parts"] = True
                continue
            repetitions, times = source["repetitions"], member["repetitions"]
            before = repetitions.get(version["name"], 0)
            repetitions[version["name"]] = None if times is None or before is None else before + times
    return {
        "recipe": recipe.name,
        "out": str(recipe.directory),
        "sources": [{"name": name} | source for name, source in sources.items()],
        "same_files": same_files(recipe),
        "model": _model(recipe),
        "parallel": _layout(recipe),
        "kernels": recipe.kernels.model_dump(),
        "memory_per_rank": memory_per_rank(recipe),
        "versions": versions,
        "warnings": [*tokenizer_warnings(recipe.tokenizer), *advice(recipe), *lacking(recipe.kernels)],
        "total": {
            "steps": sum(v["steps"] for v in versions),
            "tokens": sum(v["tokens"] for v in versions),
            "steps_to_do": sum(v["steps"] for v in versions if not v["finished"]),
        }
        | _path_switching(recipe),
    }


def _sources(recipe: Recipe, finished: dict[str, dict]) -> dict[str, dict]:
    found = {}
    for name, source in recipe.sources.items():
        if counts := finished.get(name):
            tokens, estimated = counts["train"]["tokens"], False
        else:
            tokens, estimated = estimated_tokens(recipe, source), True
        found[name] = {
            "reader": source.reader.type,
            "tokens": tokens,
            "estimated": estimated,
            "heldout_tokens": counts["heldout"]["tokens"] if counts else None,
            "in_parts": False,
            "repetitions": {},
            "not_read": files_not_read(source.reader),
        }
    return found


def _version(
    recipe: Recipe, name: str, version: Version, sources: dict[str, dict], counts: dict[str, dict]
) -> dict[str, Any]:
    steps, samples = num_steps(recipe, version), num_samples(recipe, version)
    batch_tokens = recipe.training.global_batch_size * recipe.training.seq_length
    points = sorted({round(i * steps / (CURVE_POINTS - 1)) for i in range(CURVE_POINTS)}) if steps else []
    schedule = resolved_schedule(recipe, name)
    rule = version.mixture.reweight
    table = [] if version.is_computed else mixture_table(recipe, name, sources, counts)
    return {
        "name": name,
        "finished": is_finished(recipe.paths.version(name).directory),
        "start": version.start.type,
        "parent": parent_of(version),
        "branch_step": version.start.step if isinstance(version.start, Branch) else None,
        "origin": origin_words(version),
        "steps": steps,
        "samples": samples,
        "tokens": samples * recipe.training.seq_length,
        "lineage_tokens": (steps + steps_before(recipe, name)) * batch_tokens,
        "schedule": schedule.model_dump() | {"type": version.schedule.type},
        "learning_rate": [[step, learning_rate(schedule, step, steps)] for step in points],
        "objective": _objective(version),
        "selection": version.selection.model_dump() if version.selection else None,
        "anchor": version.anchor.model_dump() if version.anchor else None,
        "adapter": adapter_memory(recipe, version.adapter) if version.adapter else None,
        "perplexity_model": version.mixture.perplexity_model,
        "replay_share": float(read_share(version.mixture.replay, trained_fraction(version))),
        "replay_share_trained": float(trained_share(version.mixture.replay, trained_fraction(version))),
        "replay_from_parents": bool(version.mixture.replay and version.mixture.replay.from_parents),
        "domain_order": version.mixture.domain_order,
        "mixture": table,
        "to_score": []
        if version.is_computed
        else to_score(version, table, {source: found["tokens"] for source, found in sources.items()}),
        "equivalent_decay": _equivalent_decay(recipe, version),
        "max_repetition": version.mixture.max_repetition,
        "phases": _phases(recipe, name),
        "reweight": rule.model_dump()
        | {"interval_steps": -(-rule.interval // batch_tokens), "across": moves_across(version.mixture)}
        | {"groups": moving_sources(version.mixture)}
        if rule
        else None,
    }


def _equivalent_decay(recipe: Recipe, version: Version) -> list[list[float]]:
    """The learning rate that an average equals, by step of the averaged version from where it begins to fall; else empty."""
    start = version.start
    if not isinstance(start, Average):
        return []
    steps, ema = averaged_steps(recipe, start), recipe.training.ema
    length, schedule = num_steps(recipe, recipe.versions[start.of]), resolved_schedule(recipe, start.of)
    first, last = decay_begins(start, steps, ema), steps[-1]
    points = sorted({first + round(i * (last - first) / (CURVE_POINTS - 1)) for i in range(CURVE_POINTS)})
    rates = {step: learning_rate(schedule, step, length) for step in points}
    return [
        [step, rates[step] * (decay_factor(start.shape, steps, ema, step) if step else 1.0)]
        for step in points
    ]


def _phases(recipe: Recipe, name: str) -> list[dict]:
    """When which shares hold, as far as they are planned; empty while the order of domains follows from data."""
    if domain_sequence(recipe, name) is None:
        return []
    steps, mixture = num_steps(recipe, recipe.versions[name]), recipe.versions[name].mixture
    phases = planned_phases(recipe, name)
    # Those that were switched before a branch left its parent are not among them.
    left = len(mixture.switches) + 1 - len(phases) if mixture.domain_order is None else 0
    return [
        {
            "after_step": first,
            "shares": {key: float(share) for key, share in shares.items()},
            "plain": plain_keys(mixture, 0 if mixture.domain_order else part),
        }
        for part, (first, shares) in enumerate(phases, left)
        if first < steps
    ]


def _path_switching(recipe: Recipe) -> dict[str, Any]:
    """What branches save: steps that their versions would take from scratch, and the recipe's steps relative to it."""
    branches = [name for name, version in recipe.versions.items() if isinstance(version.start, Branch)]
    if not branches:
        return {}
    family = {*branches, *(ancestor for name in branches for ancestor, _ in ancestors(recipe, name))}
    paid = sum(num_steps(recipe, recipe.versions[name]) for name in family)
    scratch = sum(
        num_steps(recipe, recipe.versions[name]) + sum(count for _, count in ancestors(recipe, name))
        for name in branches
    )
    return {
        "branches": len(branches),
        "branches_from_scratch_steps": scratch,
        "branches_cost": paid / scratch,
    }


def _model(recipe: Recipe) -> dict[str, Any]:
    shape, rows = model_shape(recipe), embedding_rows(recipe)
    assert rows is not None  # a checked recipe has a readable tokenizer
    padded = padded_vocab_size(rows)
    return vars(shape) | {
        "vocab_size": vocab_size(recipe) or rows,
        "padded_vocab_size": padded,
        "parameters": num_parameters(shape, padded),
        "unread": _unread(recipe),
    }


def _unread(recipe: Recipe) -> list[str]:
    """Tensors of the model's directory that are no part of the model."""
    model = recipe.model
    if not isinstance(model, HuggingFaceModel) or not any(model.path.glob("*.safetensors")):
        return []
    return model_tensors(model.path, tensor_sizes(model_shape(recipe), config_vocab_size(model.path)))[1]


def _layout(recipe: Recipe) -> dict[str, Any]:
    layout = layout_of(recipe)
    return recipe.parallel.model_dump() | {
        "world_size": layout.world_size,
        "micro_batches": layout.micro_batches(recipe.training),
        "ranks": [{"rank": rank} | layout.coordinates(rank)._asdict() for rank in range(layout.world_size)],
    }


def _objective(version: Version) -> dict[str, Any] | None:
    """A version's objective with the reference that it has by default."""
    found = version.objective.model_dump() if version.objective else None
    return found | {"reference": version.scored_by} if found and "reference" in found else found
