"""`perdure run`: every stage of a recipe in order, finished ones skipped."""

import fcntl
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import yaml

from perdure.pipeline.checks.mixtures import against_data
from perdure.pipeline.consumption import Ancestor
from perdure.pipeline.convert.vocabulary import extension_between
from perdure.pipeline.domains import measured_domains, source_of
from perdure.pipeline.errors import PerdureError, RecipeError
from perdure.pipeline.evaluate.probes import probe_hashes
from perdure.pipeline.lineage import checkpoints, history, missing_checkpoint, parent_of, version_directory
from perdure.pipeline.manifest import (
    differences,
    disk_errors,
    hash_of,
    is_finished,
    read_json,
    write_atomic,
    write_json,
)
from perdure.pipeline.mixture import is_replayed, members
from perdure.pipeline.order import RANKED
from perdure.pipeline.parts import describe
from perdure.pipeline.plan import Plan
from perdure.pipeline.planning import build_plan, data_hash, with_pools
from perdure.pipeline.recipe import Branch, HuggingFaceModel, Mixture, Recipe, Update
from perdure.pipeline.shape import config_vocab_size, model_shape

Say = Callable[[str], None]


def run(recipe: Recipe, recipe_path: Path, say: Say) -> None:
    """All stages: data, then every version (scores, plan, training, evaluation, export), then the report."""
    from perdure.pipeline.evaluate.report import write_report

    with alone(recipe):
        data = _data(recipe, recipe_path, say)
        make_versions(recipe, data, say)
        _look_beyond(recipe, data, say)
        write_report(recipe, say)


def make_versions(recipe: Recipe, data: dict[str, Path], say: Say) -> None:
    """Every version in order, from finished data, and all that is measured of them; what is there is skipped."""
    for name in recipe.versions:
        _version(recipe, name, data, say)
    _look_beyond(recipe, data, say)


def prepare(recipe: Recipe, recipe_path: Path, version: str, say: Say) -> None:
    """Everything that one version's ranks need, so that they can be started anywhere: scores, plan, inputs."""
    with alone(recipe):
        if _prepare(recipe, version, _data(recipe, recipe_path, say), say) == "train":
            say(f"{version_directory(recipe, version)} is ready for {recipe.parallel.world_size} ranks")


def train(recipe: Recipe, recipe_path: Path, version: str, say: Say) -> None:
    """Data, if need be, and one version; its parent and its models must be finished."""
    with alone(recipe):
        _version(recipe, version, _data(recipe, recipe_path, say), say)


def evaluate(recipe: Recipe, recipe_path: Path, version: str | None, say: Say) -> None:
    """Measures finished versions, all or one, on the recipe's domains where that is still to do; then the report."""
    from perdure.pipeline.evaluate.report import write_report

    names = [name for name in recipe.versions if is_finished(version_directory(recipe, name))]
    if version is not None and version not in names:
        raise PerdureError(
            f"version {version} is not finished; run `perdure train {recipe_path} --version {version}` first"
        )
    with alone(recipe):
        data = _data(recipe, recipe_path, say)
        for name in [version] if version else names:
            _version(recipe, name, data, say, documents=True)
        _look_beyond(recipe, data, say)
        write_report(recipe, say)


def _look_beyond(recipe: Recipe, data: dict[str, Path], say: Say) -> None:
    """What is measured besides the versions' losses and answers: leaks, and other tools' tasks."""
    from perdure.pipeline.data.stage import tokenizer_directory
    from perdure.pipeline.evaluate.contamination import look_for_leaks
    from perdure.pipeline.evaluate.harness import run_harness

    with disk_errors(recipe.directory):
        look_for_leaks(recipe, data, tokenizer_directory(recipe), say)
        run_harness(recipe, say)


@contextmanager
def alone(recipe: Recipe) -> Iterator[None]:
    """Keeps a second command out of the same directory; the system lifts the lock when a process dies."""
    with disk_errors(recipe.directory):
        recipe.directory.mkdir(parents=True, exist_ok=True)
        file = (recipe.directory / ".lock").open("w")
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise PerdureError(
                f"{recipe.directory}: another perdure command is working here; wait for it or choose another --out"
            ) from None
        yield


def _data(recipe: Recipe, recipe_path: Path, say: Say) -> dict[str, Path]:
    """The data stage; what only the data can tell of any version is told before the first one trains."""
    from perdure.pipeline.data.stage import run_data

    with disk_errors(recipe.directory):
        data = run_data(recipe, say)
    if found := list(against_data(recipe)):
        raise RecipeError(str(recipe_path), found)
    return data


def _version(recipe: Recipe, name: str, data: dict[str, Path], say: Say, documents: bool = False) -> None:
    from perdure.launch import local

    if task := _prepare(recipe, name, data, say, documents):
        local.start(version_directory(recipe, name), recipe.parallel.world_size, task)


def _prepare(
    recipe: Recipe, name: str, data: dict[str, Path], say: Say, documents: bool = False
) -> str | None:
    """Writes what a version's ranks read; returns what they have to do, or None.

    With `documents`, a finished version that has no sums by document is measured again.
    """
    directory = version_directory(recipe, name)
    with disk_errors(directory):
        ancestors = history(recipe, name)
        inputs = _inputs(recipe, name, data, ancestors, say)
        if (directory / "inputs.json").exists():
            found = read_json(directory / "inputs.json")
            inputs["command"] = found.get("command")  # the first one made it; later ones go on
            if differing := differences(found["identity"], inputs["identity"]):
                raise PerdureError(
                    f"version {name}: {directory} was made from something else; give the version another name, or "
                    f"delete that directory to train it anew. What differs: {'; '.join(differing)}"
                )
        if is_finished(directory):
            before, now = read_json(directory / "eval.json")["measured"], inputs["measured"]
            whole = (directory / "eval_documents.parquet").exists() or not documents
            if before == now and whole:
                say(f"version {name}: finished, skipped")
                return None
            reason = "documents were not kept apart yet"
            if before != now:
                same = all(before.get(key) == now[key] for key in ("max_tokens", "data"))
                reason = "other probes" if same else "other held-out documents"
            say(f"version {name}: finished; {reason}, so it is measured again")
            task = "evaluate"
        else:
            say(f"version {name}")
            task = "train"
            ranked = {source: Path(path) for source, path in inputs["perplexity_scores"].items()}
            plan = build_plan(directory / "plan", recipe, name, data, ranked, ancestors)
            orders = ", ".join(f"{key} {_order_words(entry)}" for key, entry in plan.sources.items())
            say(f"plan: {plan.num_samples:,} samples of {plan.seq_length} tokens; {orders}")
            for line in _plan_lines(plan, data):
                say(line)
        content = yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False)
        write_atomic(directory / "recipe.yaml", content)
        write_json(directory / "inputs.json", inputs)
    return task


def _plan_lines(plan: Plan, data: dict[str, Path]) -> list[str]:
    """What a plan took of sources in part, and the order of domains that come one after another."""
    lines = []
    for key, entry in plan.sources.items():
        if entry.get("part") and not is_replayed(key):
            part = data[source_of(entry["source"])] / "parts" / entry["part"]
            lines.append(describe(entry["source"], read_json(part / "manifest.json")))
    if phases := [phase for phase in plan.description["phases"] if phase["reason"] == "domain"]:
        names = [
            next(iter(phase["counts"]))
            + (f" (divergence {phase['divergence']:.3f})" if phase.get("divergence") else "")
            for phase in phases
        ]
        lines.append(f"one domain after another: {', '.join(names)}")
    return lines


def _order_words(entry: dict) -> str:
    return entry["order"] + (f" from sample {entry['start']:,} on" if entry["start"] else "")


def _inputs(recipe: Recipe, name: str, data: dict[str, Path], ancestors: list[Ancestor], say: Say) -> dict:
    """What a version's trainer reads, and, as `identity`, everything that decides its result."""
    from perdure.pipeline.data.stage import tokenizer_directory

    version = recipe.versions[name]
    some_source = read_json(next(iter(data.values())) / "manifest.json")
    tokenizer = tokenizer_directory(recipe)
    parent = parent_of(version)
    weights, weights_hash, checkpoint = _start(recipe, name, some_source["tokenizer_hash"])
    mixture = with_pools(version.mixture, ancestors, name)
    places = members(mixture)
    used = sorted({source_of(domain) for domain, _ in places.values()})
    scores = {}
    if version.selection and version.selection.k < 1 and version.selection.sidecars:
        assert version.selection.reference is not None
        fresh = dict.fromkeys(
            source_of(domain) for key, (domain, _) in places.items() if not is_replayed(key)
        )
        scores = _scores(recipe, version.selection.reference, list(fresh), data, say)
    ranked = _perplexity_scores(recipe, mixture, data, say)
    return {
        "version": name,
        "command": shlex.join(["perdure", *sys.argv[1:]]),
        "parent": parent,
        "parent_lineage_tokens": _lineage_tokens(recipe, name),
        "vocab_size": read_json(checkpoint.parents[1] / "inputs.json")["vocab_size"]
        if checkpoint
        else _vocab_size(weights, tokenizer, some_source["vocab_size"]),
        "eos_id": some_source["eos_id"],
        "tokenizer": str(tokenizer),
        "initial_weights": str(weights) if weights else None,
        "parent_checkpoint": str(checkpoint) if checkpoint else None,
        "data": {source: str(path) for source, path in data.items()},
        "scores": {source: str(path) for source, path in scores.items()},
        "perplexity_scores": {source: str(path) for source, path in ranked.items()},
        "measured": {
            "max_tokens": recipe.evaluation.max_tokens,
            "data": {domain: data_hash(data[source_of(domain)]) for domain in measured_domains(recipe)},
            **({"probes": hashes} if (hashes := probe_hashes(recipe.evaluation.probes)) else {}),
        },
        "identity": {
            "seed": recipe.seed,
            "model": recipe.model.model_dump(mode="json") | {"shape": asdict(model_shape(recipe))},
            "training": recipe.training.model_dump(exclude=not_deciding(recipe)),
            "version": version.model_dump(mode="json", exclude={"keep"}),
            "tokenizer_hash": some_source["tokenizer_hash"],
            "data": {source: data_hash(data[source]) for source in used if source in data},
            "initial_weights": weights_hash,
            "scores": {source: path.name for source, path in scores.items()},
            "perplexity_scores": {source: path.name for source, path in ranked.items()},
        },
    }


def not_deciding(recipe: Recipe) -> set[str]:
    """Fields of `training` that do not change a version's weights, or by rounding only."""
    guard = recipe.training.guard
    fields = {"log_interval", "async_checkpoint", "loss_implementation"}
    return fields if "rollback" in (guard.on_nan, guard.on_spike) else fields | {"checkpoint_interval"}


def _start(recipe: Recipe, name: str, tokenizer_hash: str) -> tuple[Path | None, str | None, Path | None]:
    """Where a version's start is read: Hugging Face weights, what identifies them, and the parent's checkpoint."""
    start, done = recipe.versions[name].start, is_finished(version_directory(recipe, name))
    if isinstance(start, Branch):
        parent = version_directory(recipe, start.parent)
        identity = read_json(parent / "inputs.json")["identity"]
        _same_tokenizer(name, start.parent, identity["tokenizer_hash"], tokenizer_hash)
        if not done and (reason := missing_checkpoint(recipe, start)):
            raise PerdureError(f"version {name}: {reason}")
        if not done and start.step not in checkpoints(parent):
            raise PerdureError(
                f"version {name}: {start.parent} has not reached step {start.step} yet; train it first (`perdure run` "
                "does all in order)"
            )
        checkpoint = parent / "checkpoints" / f"step_{start.step:06d}"
        return None, f"{hash_of(identity)[:16]}@{start.step}", checkpoint
    if isinstance(start, Update):
        export, directory = _finished_export(recipe, start.parent), version_directory(recipe, start.parent)
        record = read_json(directory / "version.json")
        if start.moments == "reset":
            return export, record["weights_hash"], None
        _same_tokenizer(name, start.parent, record["tokenizer_hash"], tokenizer_hash)
        if not done and record["steps"] not in checkpoints(directory):
            raise PerdureError(
                f"version {name}: the last checkpoint of {start.parent}, which holds its moments, is gone from "
                f"{directory / 'checkpoints'}; use start.moments: reset"
            )
        return None, record["weights_hash"], directory / "checkpoints" / f"step_{record['steps']:06d}"
    if isinstance(recipe.model, HuggingFaceModel):
        from perdure.pipeline.convert.huggingface import weights_hash

        return recipe.model.path, weights_hash(recipe.model.path), None
    return None, None, None


def _same_tokenizer(name: str, parent: str, theirs: str, ours: str) -> None:
    if theirs != ours:
        raise PerdureError(
            f"version {name}: its parent {parent} was trained with another tokenizer ({theirs[:8]} -> {ours[:8]}); "
            "what goes on with moments keeps its tokenizer"
        )


def _lineage_tokens(recipe: Recipe, name: str) -> int:
    """Tokens that the ancestors of a version trained on."""
    start, training = recipe.versions[name].start, recipe.training
    if isinstance(start, Branch):
        parent = read_json(version_directory(recipe, start.parent) / "inputs.json")
        return parent["parent_lineage_tokens"] + start.step * training.global_batch_size * training.seq_length
    if isinstance(start, Update):
        return read_json(version_directory(recipe, start.parent) / "version.json")["lineage_tokens"]
    return 0


def _vocab_size(weights: Path | None, tokenizer: Path, tokens: int) -> int:
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


def _perplexity_scores(recipe: Recipe, mixture: Mixture, data: dict[str, Path], say: Say) -> dict[str, Path]:
    judged = {
        source_of(domain)
        for domain, member in members(mixture).values()
        if member.order in RANKED or member.lowest_perplexity
    }
    if not judged:
        return {}
    assert mixture.perplexity_model is not None
    return _scores(recipe, mixture.perplexity_model, sorted(judged), data, say)


def _scores(
    recipe: Recipe, model: str, sources: list[str], data: dict[str, Path], say: Say
) -> dict[str, Path]:
    """Score directories of some sources by a model, named as in the recipe."""
    from perdure.pipeline.data.executor import elsewhere
    from perdure.pipeline.data.score import score_source

    directory = Path(model) if "/" in model else _finished_export(recipe, model)
    context, overlap = recipe.scoring.windows(recipe.training.seq_length)
    label = directory.resolve().name if "/" in model else model
    found = {}
    for source in sources:
        begun = time.monotonic()
        found[source] = score_source(
            data[source],
            directory,
            label=label,
            context=context,
            overlap=overlap,
            workers=recipe.data.workers,
            precision=recipe.training.precision,
            elsewhere=elsewhere(recipe, scoring=True, say=say),
        )
        if (seconds := time.monotonic() - begun) > 1:
            say(f"scored {source} with {label} in {seconds:.0f} s")
    return found


def _finished_export(recipe: Recipe, version: str) -> Path:
    directory = version_directory(recipe, version)
    if not is_finished(directory):
        raise PerdureError(
            f"version {version} is needed, but not finished; run it first (`perdure run` does all in order)"
        )
    return directory / "hf"
