"""What a merged or averaged version is made of, as planned and as recorded, in data and in words."""

from collections.abc import Sequence
from typing import TypedDict

from perdure.pipeline.core.records import ParentShare, VersionRecord, read_record
from perdure.pipeline.plan.domains import source_of
from perdure.pipeline.plan.mixture import is_replayed, members
from perdure.pipeline.recipe import Average, Merge, Recipe, Version


class FittedShares(TypedDict):
    """What the search for the shares of a merge came to; losses are means over domains, in nats per token.

    Attributes:
        versions: The two that are merged; shares are of the first.
        share: Of all that is in no run of layers.
        parent_share: By run of layers; empty: `share` holds everywhere.
        evaluations: Candidates that were measured.
        weight: Of the new domains' loss among both.
        old: Domains whose loss is to stay.
        new: Domains whose loss is to be kept low.
        before: `old`, `new` and `weighted` loss of the second version alone, on the half of the documents that decided.
        after: The same of the shares that were found.
        reported: Their loss by domain on the other half.
    """

    versions: list[str]
    share: float
    parent_share: list[float]
    evaluations: int
    weight: float
    old: list[str]
    new: list[str]
    before: dict[str, float]
    after: dict[str, float]
    reported: dict[str, float]


def fitted_domains(recipe: Recipe, version: Version) -> list[str]:
    """The domains by whose held-out losses a merge finds its shares, the old ones first; none if it does not."""
    old, new = old_and_new(recipe, version)
    return [*old, *new]


def old_and_new(recipe: Recipe, version: Version) -> tuple[list[str], list[str]]:
    """The old and the new domains of a merge with fitted shares; without `new`, the second version's new sources."""
    start = version.start
    if not isinstance(start, Merge) or start.fitted is None:
        return [], []
    old = list(start.fitted.old)
    if start.fitted.new is not None:
        return old, list(start.fitted.new)
    second = recipe.versions[start.named[-1]]
    fresh = dict.fromkeys(
        source_of(domain) for key, (domain, _) in members(second.mixture).items() if not is_replayed(key)
    )
    return old, [domain for domain in fresh if domain not in old]


def planned_shares(start: Merge) -> list[ParentShare]:
    """The versions of a merge, the one that it follows first, with their shares as the recipe has them."""
    found: list[ParentShare] = [{"id": name, "share": start.weights.get(name)} for name in start.named]
    if start.parent_share:
        shares = list(start.parent_share)
        found[0]["share"], found[1]["share"] = shares, [1 - share for share in shares]
    if start.base is not None and start.base not in start.named:
        found.append({"id": start.base, "share": None})
    return found


def origin_words(version: Version, recorded: Sequence[ParentShare] | None = None) -> str | None:
    """What a computed version is made of, as in `merge of base 0.2, update 0.8`; None for one that trains.

    Args:
        version: The version.
        recorded: Its `parents` in `version.json`, whose shares count, once it is finished.
    """
    start = version.start
    if isinstance(start, Average):
        return _average_words(start)
    if not isinstance(start, Merge):
        return None
    shares = planned_shares(start) if recorded is None else recorded
    parts = [f"{parent['id']}{_share_words(parent['share'])}" for parent in shares]
    method = "" if start.method == "linear" else f" by {start.method}, differences from {start.base}"
    fitted = ", shares fitted by held-out loss" if start.fitted else ""
    return f"merge of {', '.join(parts)}{method}{fitted}"


def fitted_shares(record: VersionRecord | None) -> FittedShares | None:
    """What the search for the shares of a finished merge came to; None of every other version."""
    if record is None or (search := record.get("search")) is None:
        return None
    at = {
        (candidate["share"], tuple(candidate["parent_share"])): candidate
        for candidate in search["candidates"]
    }
    parent_share = tuple(search["parent_share"])
    return {
        "versions": [parent["id"] for parent in record["parents"][:2]],
        "share": search["share"],
        "parent_share": list(parent_share),
        "evaluations": search["evaluations"],
        "weight": search["weight"],
        "old": search["old"],
        "new": search["new"],
        "before": _losses(at[0.0, (0.0,) * len(parent_share)]),
        "after": _losses(at[search["share"], parent_share]),
        "reported": search["losses"]["reported"],
    }


def fitted_words(found: FittedShares) -> str:
    """The same in a sentence, losses in nats per token."""
    shares = "/".join(f"{share:g}" for share in found["parent_share"] or [found["share"]])
    first, second = found["versions"]
    moves = ", ".join(
        f"{what} {found['before'][what]:.4f} -> {found['after'][what]:.4f}"
        for what in ("old", "new", "weighted")
    )
    others = ", ".join(f"{domain} {loss:.4f}" for domain, loss in found["reported"].items())
    return (
        f"shares of {first} fitted: {shares}, of {found['evaluations']} candidates; held-out loss (nats per token) on the half "
        f"of the documents that decided, {second} alone -> fitted: {moves} (weight of the new {found['weight']:g}); on the "
        f"other half: {others}"
    )


def _losses(candidate: dict[str, float]) -> dict[str, float]:
    return {"old": candidate["old"], "new": candidate["new"], "weighted": candidate["objective"]}


def made_of(recipe: Recipe, name: str) -> str | None:
    """`origin_words` of a version with its recorded shares, if it is finished."""
    paths = recipe.paths.version(name)
    recorded = read_record(paths).get("parents") if paths.record.exists() else None
    return origin_words(recipe.versions[name], recorded)


def _average_words(start: Average) -> str:
    if start.shape == "ema":
        return f"running average of {start.of}"
    if start.steps is not None:
        return f"average of {start.of} at steps {', '.join(map(str, start.steps))} ({start.shape})"
    return f"average of the last {start.last} checkpoints of {start.of} ({start.shape})"


def _share_words(share: float | list[float] | None) -> str:
    if share is None:
        return ""
    return " " + "/".join(f"{value:g}" for value in (share if isinstance(share, list) else [share]))
