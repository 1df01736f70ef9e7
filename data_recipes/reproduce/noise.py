"""Measures how much noise token selection keeps: `python -m perdure.data_recipes.reproduce.noise RECIPE --version V`.

For corpora whose noise is known: documents with `metadata.noise`, a list of [start, end, kind] in characters. The selection
is made anew with the finished model: its losses of the training documents, the stored scores of the reference (if the version
has one), and the share k of every run of as many tokens as compete in training.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from perdure.pipeline.core.errors import PerdureError
from perdure.pipeline.core.files import write_json
from perdure.pipeline.core.manifest import is_finished
from perdure.pipeline.core.records import VersionInputs, read_inputs
from perdure.pipeline.core.shards import REF_NATS_PER_UNIT, Shard, open_shard
from perdure.pipeline.core.tokenizers import load_tokenizer
from perdure.pipeline.data.score.losses import load_model, score_documents
from perdure.pipeline.evaluate.report.text_tables import markdown_table
from perdure.pipeline.model.exports import export_of
from perdure.pipeline.plan.recorded import version_recipe
from perdure.pipeline.recipe import Recipe, Selection, load_recipe
from perdure.pipeline.recipe.selection import SCORES
from perdure.pipeline.train.scores import made_reference, smoothed

CLEAN = "clean"
"""The kind of tokens outside all spans."""


def token_kinds(offsets: list[tuple[int, int]], spans: list[tuple[int, int, str]]) -> list[str]:
    """The kind of noise of every token.

    Args:
        offsets: Start and end of every token, in characters.
        spans: Start, end and kind of stretches of noise, without overlap.

    Returns:
        The kind of the span in which a token's middle lies, else `CLEAN`.
    """
    kinds = []
    for start, end in offsets:
        middle = (start + end) / 2
        kinds.append(next((kind for low, high, kind in spans if low <= middle < high), CLEAN))
    return kinds


def keep_rates(selected: np.ndarray, kinds: np.ndarray) -> dict[str, float]:
    """Share of selected tokens by kind; `noise` stands for all kinds but `CLEAN`.

    Args:
        selected: bool [tokens].
        kinds: str [tokens].
    """
    rates = {str(kind): float(selected[kinds == kind].mean()) for kind in np.unique(kinds)}
    noise = kinds != CLEAN
    return rates | ({"noise": float(selected[noise].mean())} if noise.any() else {})


def separation(scores: np.ndarray, kinds: np.ndarray) -> float:
    """Area under the ROC curve: the chance that a clean token scores higher than a noisy one; ties count half."""
    order = np.unique(scores, return_inverse=True)[1]
    counts = np.bincount(order)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[order]
    clean = kinds == CLEAN
    number = int(clean.sum())
    return float((ranks[clean].sum() - number * (number + 1) / 2) / (number * (len(kinds) - number)))


def measure(
    recipe: Recipe, version: str, source: str, tokens: int, smoothing: int, trainee: str | None = None
) -> dict[str, Any]:
    """Shares of clean and noisy tokens that each kind of selection keeps.

    Args:
        recipe: The recipe of the run: where its versions stand. How one was trained, its seed above all, is read there.
        version: A finished version, trained with a selection; without a reference, ways that need one are left out.
        source: A source with spans of noise.
        tokens: Tokens to look at, of the first documents.
        smoothing: Neighbours to either side, for the ways that can be smoothed.
        trainee: The version whose losses count; default: `version`. Its parent chooses as at its first step.

    Returns:
        `tokens` per kind, `k`, and per way of choosing `rates` (see `keep_rates`) and `separation`.

    Raises:
        PerdureError: If the version is not finished or selects nothing, or the documents have no spans.
    """
    paths, weights = recipe.paths.version(version), recipe.paths.version(trainee or version)
    for path in (paths.directory, weights.directory):
        if not is_finished(path):
            raise PerdureError(f"version {path.name} is not finished; run `perdure run` first")
    recipe = version_recipe(paths.directory)  # as it was trained, whatever fields were set to
    inputs, selection = read_inputs(paths), recipe.versions[version].selection
    if selection is None or source not in inputs["data"]:
        raise PerdureError(f"version {version}: no tokens of source {source} are selected")
    sample = _read_sample(inputs, source, tokens)
    if all(kind == CLEAN for found in sample.kinds for kind in found):
        raise PerdureError(f"source {source}: no document has spans of noise in `metadata.noise`")
    model = load_model(export_of(weights.directory), recipe.training.precision, "cpu")
    windows = recipe.scoring.windows(recipe.training.seq_length)
    losses = score_documents(model, sample.documents, inputs["eos_id"], *windows)
    nll = np.concatenate([scores[0] for scores in losses])
    group = recipe.training.micro_batch_size * recipe.training.seq_length
    rows = len(nll) // group
    if not rows:
        raise PerdureError(f"source {source}: fewer than the {group:,} tokens that compete in training")
    nll = nll[: rows * group].reshape(rows, group)
    kinds = np.concatenate(sample.kinds)[: rows * group]
    return {
        "k": selection.k,
        "tokens": {str(kind): int((kinds == kind).sum()) for kind in np.unique(kinds)},
        "ways": {
            way.score + (f" +-{way.smoothing}" if way.smoothing else ""): _measure_way(
                way, nll, _reference(way, sample, recipe.seed, nll.shape), kinds
            )
            for way in _ways(selection.k, smoothing)
            if sample.sidecars.keys() >= set(way.sidecars)
        },
    }


@dataclass(frozen=True)
class _Sample:
    """The first training documents of a source.

    Attributes:
        kinds: Per document the kind of every token, str [tokens].
        documents: Per document its ids, int64 [tokens].
        sidecars: By kind of score, per document its values, int64 [tokens]; empty without a reference.
    """

    kinds: list[np.ndarray]
    documents: list[np.ndarray]
    sidecars: dict[str, list[np.ndarray]]


def _read_sample(inputs: VersionInputs, source: str, tokens: int) -> _Sample:
    """Reads the documents that a version's plan reads, until there are `tokens` tokens."""
    data, scores = Path(inputs["data"][source]), Path(inputs["scores"].get(source, ""))
    sample = _Sample([], [], {"ref": [], "ent": []} if source in inputs["scores"] else {})
    for kinds, place, ids in _documents(data, Path(inputs["tokenizer"])):
        units = {
            kind: _document(open_shard(scores / f"{place[0]:05d}.{kind}"), place[1])
            for kind in sample.sidecars
        }
        if any(len(values) != len(ids) for values in units.values()):
            continue  # the version's plan does not read it, so that it was not scored
        sample.kinds.append(kinds)
        sample.documents.append(ids)
        for kind, values in units.items():
            sample.sidecars[kind].append(values)
        if sum(map(len, sample.kinds)) >= tokens:
            break
    return sample


def _reference(way: Selection, sample: _Sample, seed: int, shape: tuple[int, int]) -> np.ndarray:
    """The score that a selection subtracts from losses, in units of the sidecars.

    Args:
        way: The selection.
        sample: Documents with their scores.
        seed: The version's seed, which decides random scores.
        shape: Rows, and tokens a row that compete.

    Returns:
        int32 [rows, tokens].
    """
    if not way.sidecars:
        return made_reference(way, seed, range(shape[0]), shape[1])
    columns = zip(*(sample.sidecars[kind] for kind in way.sidecars), strict=True)
    each = [np.maximum.reduce(values) for values in columns]
    if way.smoothing:
        each = [smoothed(units, way.smoothing) for units in each]
    return np.concatenate(each)[: shape[0] * shape[1]].astype(np.int32).reshape(shape)


def _measure_way(way: Selection, nll: np.ndarray, units: np.ndarray, kinds: np.ndarray) -> dict[str, Any]:
    """What one selection keeps: `rates` and `separation`.

    Args:
        way: The selection.
        nll: Losses in nats, float [rows, tokens].
        units: From `_reference`, int32 [rows, tokens].
        kinds: str [rows * tokens].
    """
    import torch

    from perdure.kernels import select_tokens

    trainee, reference = torch.from_numpy(nll), torch.from_numpy(units) * REF_NATS_PER_UNIT
    valid = torch.ones_like(trainee, dtype=torch.bool)
    selected = select_tokens(trainee if way.use_nll else None, reference, valid, k=way.k, scope="sequence")
    value = (trainee if way.use_nll else torch.zeros_like(trainee)) - reference
    return {
        "rates": keep_rates(selected.numpy().ravel(), kinds),
        "separation": separation(value.numpy().ravel(), kinds),
    }


def _ways(k: float, smoothing: int) -> list[Selection]:
    ways = [Selection(score=name, k=k) for name in SCORES]
    alone = [way for way in ways if way.sidecars and not way.use_nll]
    return ways + [way.model_copy(update={"smoothing": smoothing}) for way in alone]


def table(result: dict[str, Any]) -> str:
    """The result as a Markdown table: a row per selection, a column per kind."""
    kinds = [CLEAN, "noise", *(kind for kind in result["tokens"] if kind != CLEAN)]
    counts = result["tokens"] | {"noise": sum(result["tokens"].values()) - result["tokens"][CLEAN]}
    head = ["score", *(f"{kind} ({counts[kind]:,})" for kind in kinds), "noise / clean", "AUC"]
    rows = [head]
    for name, way in result["ways"].items():
        rates = way["rates"]
        ratio = rates["noise"] / rates[CLEAN]
        rows.append(
            [name, *(f"{rates[kind]:.3f}" for kind in kinds), f"{ratio:.2f}", f"{way['separation']:.3f}"]
        )
    return markdown_table(rows)


def _documents(data: Path, tokenizer: Path) -> Iterator[tuple[np.ndarray, tuple[int, int], np.ndarray]]:
    """Yields for every training document the kinds of its tokens (the separator is clean), its shard and sequence, and its
    ids."""
    import pyarrow.parquet as parquet

    vocabulary = load_tokenizer(tokenizer).tokenizer
    columns = ["split", "shard", "sequence", "metadata"]
    for row in parquet.read_table(data / "docs.parquet", columns=columns).to_pylist():
        if row["split"] != "train":
            continue
        place = row["shard"], row["sequence"]
        tokens = _document(open_shard(data / f"{place[0]:05d}"), place[1])
        text = vocabulary.decode(tokens[:-1].tolist(), skip_special_tokens=False)
        encoding = vocabulary.encode(text, add_special_tokens=False)
        if encoding.ids != tokens[:-1].tolist():  # a tokenizer that changes the text has other offsets
            continue
        spans = [tuple(span) for span in json.loads(row["metadata"]).get("noise", [])]
        yield np.array([*token_kinds(encoding.offsets, spans), CLEAN]), place, tokens


def _document(shard: Shard, number: int) -> np.ndarray:
    start = shard.start(number)
    return np.asarray(shard.values[start : start + int(shard.lengths[number])], np.int64)


def main() -> int:
    """Prints the table, and writes `noise.<source>.json` (or `noise.<source>.<trainee>.json`) into the version's directory."""
    parser = argparse.ArgumentParser(
        prog="python -m perdure.data_recipes.reproduce.noise", description=__doc__
    )
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--version", required=True, help="a finished version with a selection")
    parser.add_argument(
        "--trainee",
        help="another version whose losses count; a version's parent chooses as at its first step",
    )
    parser.add_argument("--source", default="noisy", help="a source with spans of noise (default: noisy)")
    parser.add_argument("--tokens", type=int, default=200_000, help="tokens to look at (default: 200000)")
    parser.add_argument(
        "--smoothing", type=int, default=16, help="neighbours to either side of smoothed scores (default: 16)"
    )
    parser.add_argument("--out", type=Path, help="the run's directory, if not the recipe's")
    options = parser.parse_args()
    if options.smoothing < 1:
        parser.error(f"--smoothing {options.smoothing}: should be at least 1")
    try:
        recipe = load_recipe(options.recipe, out=options.out)
        for name in filter(None, (options.version, options.trainee)):
            if name not in recipe.versions:
                raise PerdureError(f"no version {name}; there are {', '.join(recipe.versions)}")
        result = measure(
            recipe, options.version, options.source, options.tokens, options.smoothing, options.trainee
        )
        file = ".".join(filter(None, ("noise", options.source, options.trainee, "json")))
        path = recipe.paths.version(options.version).directory / file
        write_json(path, result, checksum=False)
    except PerdureError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(table(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
