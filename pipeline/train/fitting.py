"""Fits the shares of a merge by held-out loss: candidates are set into the model, one after another, and measured."""

import logging
from dataclasses import replace
from typing import Any

import numpy as np

from perdure.pipeline.core.errors import PerdureError
from perdure.pipeline.model import weights
from perdure.pipeline.model.language_model import unwrap
from perdure.pipeline.model.merging import Merging, merged_reader
from perdure.pipeline.model.shape import model_shape
from perdure.pipeline.plan.merged import old_and_new
from perdure.pipeline.plan.order import splitmix64
from perdure.pipeline.plan.share_search import Candidate, search
from perdure.pipeline.recipe import Merge
from perdure.pipeline.train.evaluate import Domain, evaluate
from perdure.pipeline.train.session import Session

logger = logging.getLogger(__name__)
HALVES = ("tuned", "reported")


def fit_shares(session: Session, merging: Merging) -> tuple[Merging, dict[str, Any]]:
    """Finds the shares of two versions; all ranks call this, and find the same.

    Args:
        session: Its model takes every candidate's weights.
        merging: The versions, whatever their shares.

    Returns:
        What is merged with the shares that were found, and the search for the record: `old` and `new` domains, `weight`,
        `evaluations`, `candidates` with their losses on the half of the documents that decides, and of the best one `share`,
        `parent_share` and the losses by half and domain.

    Raises:
        PerdureError: If a domain has no held-out document in one of the halves.
    """
    start = session.version.start
    assert isinstance(start, Merge) and start.fitted is not None
    old, new = old_and_new(session.recipe, session.version)
    weight = start.fitted.weight
    candidates: list[dict[str, Any]] = []
    found: dict[Candidate, dict[str, dict[str, float]]] = {}
    steps = search(start.blocks)
    candidate = next(steps)
    while True:
        found[candidate] = measured_halves(session, with_shares(merging, candidate), [*old, *new])
        losses = found[candidate]["tuned"]
        told = {"old": _mean(losses, old), "new": _mean(losses, new)}
        objective = (1 - weight) * told["old"] + weight * told["new"]
        candidates.append(candidate._asdict() | told | {"objective": objective})
        logger.info(
            f"share {candidate.share:g}"
            + (
                f", by layers {'/'.join(map('{:g}'.format, candidate.parent_share))}"
                * bool(candidate.parent_share)
            )
            + f": old {told['old']:.4f}, new {told['new']:.4f}, weighted {objective:.4f}"
        )
        try:
            candidate = steps.send(objective)
        except StopIteration as end:
            best: Candidate = end.value
            break
    logger.info(f"best of {len(candidates)} candidates: share {best.share:g}")
    return with_shares(merging, best), best._asdict() | {
        "old": old,
        "new": new,
        "weight": weight,
        "evaluations": len(candidates),
        "candidates": candidates,
        "losses": found[best],
    }


def with_shares(merging: Merging, candidate: Candidate) -> Merging:
    """What is merged, with a candidate's shares."""
    first, second = merging.exports
    shares = {first: candidate.share, second: 1 - candidate.share}
    return replace(merging, weights=shares, parent_share=candidate.parent_share)


def measured_halves(session: Session, merging: Merging, domains: list[str]) -> dict[str, dict[str, float]]:
    """Held-out losses of a merge, nats per token, by half of the documents and by domain."""
    weights.load_weights(unwrap(session.model), model_shape(session.recipe), merged_reader(merging))
    results = evaluate(session.model, session.recipe, domains, session.data, session.device)
    assert results is not None
    for domain in domains:
        if domain not in results:
            raise PerdureError(f"version {session.name}: {domain} has no held-out document to fit shares by")
    losses = {domain: halves(results[domain], session.name, domain) for domain in domains}
    return {
        half: {domain: losses[domain][number] for domain in domains} for number, half in enumerate(HALVES)
    }


def halves(measured: Domain, version: str, domain: str) -> list[float]:
    """A domain's loss on the documents that decide, and on the others; the hash of a document's text says which it is."""
    table = measured.documents
    hashes = np.array([int(text[:16], 16) for text in table["hash"].to_pylist()], np.uint64)
    second = (splitmix64(3, hashes) & np.uint64(1)).astype(bool)
    losses, tokens = (table[name].to_numpy() for name in ("loss", "tokens"))
    if second.all() or not second.any():
        raise PerdureError(
            f"version {version}: {domain} has {len(table)} held-out documents, all in one half; shares are fitted on one half "
            "and reported on the other: raise heldout_fraction of its source, or evaluation.max_tokens"
        )
    return [float(losses[half].sum() / tokens[half].sum()) for half in (~second, second)]


def _mean(losses: dict[str, float], domains: list[str]) -> float:
    return float(np.mean([losses[domain] for domain in domains]))
