"""What earlier runs and visits measured of speed and memory, and which of it holds for a recipe."""

import json
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perdure.pipeline.checks.memory import companions
from perdure.pipeline.checks.sizes import embedding_rows
from perdure.pipeline.core.errors import PerdureError
from perdure.pipeline.core.files import read_json
from perdure.pipeline.core.integrity import metrics_lines
from perdure.pipeline.core.kernel_words import fp8_words
from perdure.pipeline.core.paths import RunPaths, VersionPaths
from perdure.pipeline.core.records import read_inputs
from perdure.pipeline.model.layout import layout_of
from perdure.pipeline.model.shape import flops_per_token, model_shape, padded_vocab_size
from perdure.pipeline.plan.recorded import version_recipe
from perdure.pipeline.recipe import KLAnchor, Recipe, Version

WARMING = 10
"""First steps of a run, whose kernels are compiled and whose memory is asked for."""
LEAST_STEPS = 20
"""Steps that a run needs at least, for its speed to count."""
SHARED = ("distributed_optimizer",)
"""Fields of a layout that decide its memory, and hardly its speed."""
PEAK_TOLERANCE = 0.01
"""Relative difference of two peaks that are the same GPU's."""


@dataclass(frozen=True)
class Measured:
    """Speed and memory of whole training steps.

    Attributes:
        where: What was measured: a version, or a visit's model.
        date: When, as in 2026-05-01.
        device: Name of the GPU; None where it is not recorded.
        gpus: How many there were.
        of: What they did, see `kind_of`.
        tokens_per_second: Of all GPUs.
        mfu: Of the whole step, by the device's peak.
        peak_tflops: Of one GPU, which `mfu` refers to.
        peak_bytes: Most memory in use on any GPU; None where it was not recorded.
        samples: Of a step.
        companions: fp32 copies of the weights that step hooks keep beside the moments.
        distributed_optimizer: Whether replicas share the optimizer's states.
        more: What its steps did besides plain passes, if that takes time of its own.
    """

    where: str
    date: str
    device: str | None
    gpus: int
    of: dict[str, Any]
    tokens_per_second: float
    mfu: float
    peak_tflops: float
    peak_bytes: int | None
    samples: int
    companions: int = 0
    distributed_optimizer: bool = False
    more: str | None = None

    def told(self) -> str:
        """Where a number is from, in a few words."""
        gpus = f"{self.gpus} x {self.device or f'a GPU of {self.peak_tflops:.0f} TFLOP/s'}"
        return f"{self.where}, {self.date}, {gpus}"


def kind_of(recipe: Recipe, rows: int) -> dict[str, Any]:
    """What decides the speed of a GPU's passes; the number of replicas and what they share do not."""
    training, parallel, kernels = recipe.training, recipe.parallel, recipe.kernels
    loss = training.loss_implementation
    fp8 = fp8_words(kernels.fp8.model_dump() if kernels.fp8 else None)
    return {
        "shape": json.loads(json.dumps(vars(model_shape(recipe)), default=vars)),
        "vocabulary": padded_vocab_size(rows),
        "seq_length": training.seq_length,
        "micro_batch_size": training.micro_batch_size,
        "precision": training.precision,
        "document_mask": training.document_mask,
        "loss_implementation": "triton" if loss == "auto" else loss,
        "kernels": kernels.model_dump(mode="json") | {"fp8": fp8},
        "parallel": parallel.model_dump(mode="json", exclude={"data_parallel", *SHARED}),
    }


def measurements(recipe: Recipe) -> list[Measured]:
    """Of the versions in the recipe's directory, and of `cluster.gpu.measured`: runs, and what visits wrote.

    Raises:
        PerdureError: If a path of `cluster.gpu.measured` is missing, or is neither a run nor a visit's file.
    """
    found = list(_of_run(recipe.directory))
    for path in recipe.cluster.gpu.measured:
        if path.is_dir() and RunPaths(path).begun_versions():
            found += _of_run(path)
        elif path.is_file():
            found += _of_visit(path)
        else:
            what = "has no versions" if path.is_dir() else "is missing"
            raise PerdureError(
                f"cluster.gpu.measured: {path} {what}; it should be a run's directory, or the visit.json of a visit"
            )
    return found


def _of_run(directory: Path) -> Iterator[Measured]:
    for name in RunPaths(directory).begun_versions():
        paths = RunPaths(directory).version(name)
        lines = [line for line in metrics_lines(paths.metrics) if line.get("mfu")]
        if len(lines) < LEAST_STEPS:
            continue  # also of CPUs, which have no peak
        recipe, inputs = version_recipe(paths.directory), read_inputs(paths)
        rows, version = inputs["vocab_size"], recipe.versions[inputs["version"]]
        steady = lines[WARMING:]
        rate = statistics.median(line["tokens_per_second"] for line in steady)
        mfu, gpus = statistics.median(line["mfu"] for line in steady), layout_of(recipe).world_size
        flops = flops_per_token(model_shape(recipe), rows, recipe.training.seq_length)
        record = _record(paths)
        yield Measured(
            where=f"version {name} of {directory.name}{_selected(version)}",
            date=time.strftime("%Y-%m-%d", time.localtime(paths.metrics.stat().st_mtime)),
            device=record.get("device"),
            gpus=gpus,
            of=kind_of(recipe, rows),
            tokens_per_second=rate,
            mfu=mfu,
            peak_tflops=rate * flops / gpus / mfu / 1e12,
            peak_bytes=record.get("peak_memory_bytes"),
            samples=recipe.training.global_batch_size,
            companions=companions(recipe.model_copy(update={"versions": {inputs["version"]: version}})),
            more=_more(version),
            distributed_optimizer=recipe.parallel.distributed_optimizer,
        )


def _selected(version: Version) -> str:
    selection = version.selection
    return f" (k = {selection.k:g})" if selection and selection.k < 1 else ""


def _more(version: Version) -> str | None:
    """What a version's steps do besides plain forward and backward passes."""
    selection = version.selection
    if version.adapter:
        return "it trains an adapter"
    if isinstance(version.anchor, KLAnchor):
        return "it has a teacher's forward passes too"
    if selection and selection.k < 1 and selection.scope == "global":
        return "it selects over whole batches, with one more forward pass"
    return None


def _record(paths: VersionPaths) -> dict[str, Any]:
    """What a finished version recorded; empty before."""
    return dict(read_json(paths.record)) if paths.record.exists() else {}


def _of_visit(path: Path) -> Iterator[Measured]:
    try:
        entries = json.loads(path.read_text())["measured"]
        for entry in entries:
            of, rate, mfu = entry["of"], entry["tokens_per_second"], entry["mfu"]
            if mfu is None:
                continue  # a GPU whose peak is unknown
            yield Measured(
                where=f"{entry['model']} in {path.name}",
                date=entry["date"],
                device=entry["device"],
                gpus=1,
                of={key: value for key, value in of.items() if key != "flops_per_token"},
                tokens_per_second=rate,
                mfu=mfu,
                peak_tflops=rate * of["flops_per_token"] / mfu / 1e12,
                peak_bytes=round(entry["peak_bytes"]),
                samples=of["tokens"] // of["seq_length"],
            )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise PerdureError(
            f"cluster.gpu.measured: {path} is not what `python -m perdure.kernels.visit` writes as visit.json ({error!r})"
        ) from None


def difference(recipe: Recipe, found: Measured) -> str | None:
    """Why a measurement says nothing of a recipe's passes; None if it does."""
    gpu, rows = recipe.cluster.gpu, embedding_rows(recipe)
    assert rows is not None  # a checked recipe has a readable tokenizer
    if abs(found.peak_tflops / gpu.peak_tflops - 1) > PEAK_TOLERANCE:
        return f"another GPU: a peak of {found.peak_tflops:.0f} TFLOP/s, cluster.gpu.peak_tflops is {gpu.peak_tflops:g}"
    return _other(kind_of(recipe, rows), found.of) or found.more


def _other(wanted: dict[str, Any], found: dict[str, Any]) -> str | None:
    """The first thing in which two kinds differ, with both values."""
    for key, value in wanted.items():
        theirs = found.get(key)
        if key in ("parallel", "kernels") and isinstance(theirs, dict):
            if (inner := _other(value, theirs)) is not None:
                return inner
        elif value != theirs:
            return "another model's shape" if key == "shape" else f"{key} {theirs}, here {value}"
    return None


def holds_for_memory(recipe: Recipe, found: Measured) -> bool:
    """Whether the memory of a run with equal passes is the recipe's too.

    Replicas share what is distributed over them; a teacher, which no run with plain passes has, and copies that step hooks keep
    of the weights take more.
    """
    distributed = recipe.parallel.distributed_optimizer
    if found.companions != companions(recipe) or any(
        isinstance(version.anchor, KLAnchor) for version in recipe.versions.values()
    ):
        return False
    same = found.distributed_optimizer == distributed
    return same and (not distributed or found.gpus == layout_of(recipe).world_size)
