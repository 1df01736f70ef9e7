"""Fits the shares of a merge by held-out loss: candidates are set into the model, one after another, and measured."""

import logging
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from perdure.pipeline.core.errors import PerdureError
from perdure.pipeline.evaluate.documents import heldout
from perdure.pipeline.model import weights
from perdure.pipeline.model.language_model import unwrap
from perdure.pipeline.model.merging import Merging, merged_reader
from perdure.pipeline.model.shape import model_shape
from perdure.pipeline.plan.domains import source_of
from perdure.pipeline.plan.merged import old_and_new
from perdure.pipeline.plan.order import splitmix64
from perdure.pipeline.plan.share_search import Candidate, search
from perdure.pipeline.recipe import Merge
from perdure.pipeline.train.evaluate import evaluate
from perdure.pipeline.train.session import Session

logger = logging.getLogger(__name__)


def fit_shares(session: Session, merging: Merging) -> tuple[Merging, dict[str, Any]]:
    """Finds the shares of two versions; all ranks call this, and find the same.

    Args:
        session: Its model takes every candidate's weights.
        merging: The versions, whatever their shares.

    Returns:
        What is merged with the shares that were found, and the search for the record: `old` and `new` domains, `weight`,
        `evaluations`, `candidates` with their losses on the half of the documents that decides, and of the best one `share`,
        `parent_share` and `losses`: by half, `tuned` and `reported`, and domain.

    Raises:
        PerdureError: If a domain has no held-out document in one of the halves.
    """
    start = session.version.start
    assert isinstance(start, Merge) and start.fitted is not None
    old, new = old_and_new(session.recipe, session.version)
    require_halves(session, [*old, *new])
    weight = start.fitted.weight
    candidates: list[dict[str, Any]] = []
    found: dict[Candidate, dict[str, float]] = {}
    steps = search(start.blocks)
    candidate = next(steps)
    while True:
        losses = found[candidate] = half_losses(
            session, with_shares(merging, candidate), [*old, *new], "tuned"
        )
        told = {"old": _mean(losses, old), "new": _mean(losses, new)}
        objective = (1 - weight) * told["old"] + weight * told["new"]
        candidates.append(candidate._asdict() | told | {"objective": objective})
        logger.info(
            f"{_words(candidate)}: old {told['old']:.4f}, new {told['new']:.4f}, weighted {objective:.4f}"
        )
        try:
            candidate = steps.send(objective)
        except StopIteration as end:
            best: Candidate = end.value
            break
    logger.info(f"best of {len(candidates)} candidates: {_words(best)}")
    chosen = with_shares(merging, best)
    return chosen, best._asdict() | {
        "old": old,
        "new": new,
        "weight": weight,
        "evaluations": len(candidates),
        "candidates": candidates,
        "losses": {"tuned": found[best], "reported": half_losses(session, chosen, [*old, *new], "reported")},
    }


def _words(candidate: Candidate) -> str:
    layers = "/".join(f"{share:g}" for share in candidate.parent_share)
    return f"share {candidate.share:g}" + (f", by layers {layers}" if layers else "")


def with_shares(merging: Merging, candidate: Candidate) -> Merging:
    """What is merged, with a candidate's shares."""
    first, second = merging.exports
    shares = {first: candidate.share, second: 1 - candidate.share}
    return replace(merging, weights=shares, parent_share=candidate.parent_share)


def half_losses(session: Session, merging: Merging, domains: list[str], half: str) -> dict[str, float]:
    """Held-out losses of a merge on one half of the documents, nats per token, by domain; the model takes its weights."""
    weights.load_weights(unwrap(session.model), model_shape(session.recipe), merged_reader(merging))
    results = evaluate(
        session.model, session.recipe, domains, session.data, session.device, chosen=partial(in_half, half)
    )
    assert results is not None
    return {domain: results[domain].summary["loss"] for domain in domains}


def require_halves(session: Session, domains: list[str]) -> None:
    """Checks, before anything is measured, that there are documents to decide by, and others to report on."""
    for domain in domains:
        held = heldout(session.data[source_of(domain)], domain, session.recipe.evaluation.max_tokens)
        tuned = in_half("tuned", held.documents)
        if not len(tuned):
            raise PerdureError(f"version {session.name}: {domain} has no held-out document to fit shares by")
        if tuned.all() or not tuned.any():
            raise PerdureError(
                f"version {session.name}: {domain} has {len(tuned)} held-out documents, all in one half; shares are fitted on "
                "one half and reported on the other: raise heldout_fraction of its source, or evaluation.max_tokens"
            )


def in_half(half: str, documents: pa.Table) -> np.ndarray:
    """Which documents are `tuned` on, or the others, which are `reported`; the hash of a text decides, bool [documents]."""
    hashes = np.array([int(text[:16], 16) for text in documents["hash"].to_pylist()], np.uint64)
    second = (splitmix64(3, hashes) & np.uint64(1)).astype(bool)
    return second if half == "reported" else ~second


def _mean(losses: dict[str, float], domains: list[str]) -> float:
    return float(np.mean([losses[domain] for domain in domains]))
