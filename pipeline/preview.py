"""What a recipe would do, as data. Nothing is started and no GPU is needed."""

from typing import Any

from perdure.pipeline.memory import memory_per_rank
from perdure.pipeline.mixture import mixture_shares, source_key
from perdure.pipeline.plan import num_samples, num_steps
from perdure.pipeline.recipe import Mixture, MixtureSource, Parallel, Recipe, Version
from perdure.pipeline.shape import model_shape, num_parameters, padded_vocab_size
from perdure.pipeline.sizes import embedding_rows, estimated_tokens, finished_sources, vocab_size
from perdure.pipeline.train.schedule import learning_rate

CURVE_POINTS = 60
"""Points of the learning-rate curve."""


def preview(recipe: Recipe) -> dict[str, Any]:
    """Everything that can be told before a run: JSON-serialisable, tokens and samples as counts, shares in [0, 1]."""
    sources = _sources(recipe)
    versions = [_version(recipe, name, version, sources) for name, version in recipe.versions.items()]
    lineage: dict[str, int] = {}
    for version in versions:
        lineage[version["name"]] = version["tokens"] + lineage.get(version["parent"], 0)
        version["lineage_tokens"] = lineage[version["name"]]
        for member in version["mixture"]:
            repetitions = sources[member["source"]]["repetitions"]
            if member["repetitions"] is not None:
                repetitions[version["name"]] = repetitions.get(version["name"], 0) + member["repetitions"]
    return {
        "recipe": recipe.name,
        "out": str(recipe.directory),
        "sources": [{"name": name} | source for name, source in sources.items()],
        "model": _model(recipe),
        "parallel": _layout(recipe),
        "memory_per_rank": memory_per_rank(recipe),
        "versions": versions,
        "total": {"steps": sum(v["steps"] for v in versions), "tokens": sum(v["tokens"] for v in versions)},
    }


def _sources(recipe: Recipe) -> dict[str, dict]:
    finished = finished_sources(recipe)
    found = {}
    for name, source in recipe.sources.items():
        if counts := finished.get(name):
            tokens, estimated = counts["train"]["tokens"], False
        else:
            tokens, estimated = estimated_tokens(source), True
        found[name] = {
            "reader": source.reader.type,
            "tokens": tokens,
            "estimated": estimated,
            "heldout_tokens": counts["heldout"]["tokens"] if counts else None,
            "repetitions": {},
        }
    return found


def _version(recipe: Recipe, name: str, version: Version, sources: dict[str, dict]) -> dict[str, Any]:
    steps, samples = num_steps(recipe, version), num_samples(recipe, version)
    tokens = samples * recipe.training.seq_length
    points = sorted({round(i * steps / (CURVE_POINTS - 1)) for i in range(CURVE_POINTS)})
    return {
        "name": name,
        "start": version.start.type,
        "parent": version.start.parent if version.start.type == "update" else None,
        "steps": steps,
        "samples": samples,
        "tokens": tokens,
        "schedule": version.schedule.model_dump(),
        "learning_rate": [[step, learning_rate(version.schedule, step, steps)] for step in points],
        "selection": version.selection.model_dump() if version.selection else None,
        "perplexity_model": version.mixture.perplexity_model,
        "replay_share": version.mixture.replay.share if version.mixture.replay else 0.0,
        "mixture": _mixture(version.mixture, tokens, sources),
    }


def _mixture(mixture: Mixture, tokens: int, sources: dict[str, dict]) -> list[dict]:
    shares = mixture_shares(mixture)

    def member(name: str, settings: MixtureSource, replayed: bool) -> dict:
        share = float(shares[source_key(name, replayed)])
        available = sources[name]["tokens"]
        return {
            "part": "replay" if replayed else "new",
            "source": name,
            "order": settings.order,
            "share": share,
            "tokens": round(share * tokens),
            "repetitions": share * tokens / available if available else None,
        }

    members = [member(name, settings, False) for name, settings in mixture.sources.items()]
    if mixture.replay:
        members += [member(name, settings, True) for name, settings in mixture.replay.sources.items()]
    return members


def _model(recipe: Recipe) -> dict[str, Any]:
    shape, rows = model_shape(recipe), embedding_rows(recipe)
    assert rows is not None  # a checked recipe has a readable tokenizer
    padded = padded_vocab_size(rows)
    return vars(shape) | {
        "vocab_size": vocab_size(recipe),
        "padded_vocab_size": padded,
        "parameters": num_parameters(shape, padded),
    }


def _layout(recipe: Recipe) -> dict[str, Any]:
    parallel, training = recipe.parallel, recipe.training
    return parallel.model_dump() | {
        "world_size": parallel.world_size,
        "micro_batches": training.global_batch_size // (training.micro_batch_size * parallel.data_parallel),
        "ranks": [_place(rank, parallel) for rank in range(parallel.world_size)],
    }


def _place(rank: int, parallel: Parallel) -> dict[str, int]:
    """A rank's coordinates in Megatron's default order: tensor fastest, then data, then pipeline."""
    rest, tensor = divmod(rank, parallel.tensor_parallel)
    pipeline, data = divmod(rest, parallel.data_parallel)
    return {"rank": rank, "tensor": tensor, "pipeline": pipeline, "data": data}
