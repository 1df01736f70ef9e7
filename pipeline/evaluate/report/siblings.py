"""Ablations: pairs of versions that differ in replay, selection, order or reweighting alone, and their differences."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from perdure.pipeline.evaluate.bootstrap import decided, doubt
from perdure.pipeline.evaluate.report.formats import format_change, format_share
from perdure.pipeline.evaluate.report_types import Report
from perdure.pipeline.evaluate.units import UNIT_NAMES, factors
from perdure.pipeline.plan.domains import source_of
from perdure.pipeline.recipe import Recipe

NAMES = {"replay": "Replay", "selection": "Selection", "order": "Order", "reweight": "Reweighting"}
"""Components that siblings may differ in, as they begin a sentence."""


@dataclass(frozen=True)
class Pair:
    """Two versions that differ in one component alone.

    Attributes:
        by: In what, see `NAMES`.
        version: The one that has it; where both have it, in different ways, the later one.
        against: The other one.
        plain: Whether the other one does without it.
    """

    by: str
    version: str
    against: str
    plain: bool


def pairs(recipes: Mapping[str, Recipe]) -> list[Pair]:
    """All pairs of versions that differ in one component alone.

    Args:
        recipes: By version the recipe that it was made by, see `perdure.pipeline.plan.recorded`.
    """
    split = {}
    for name, recipe in recipes.items():
        things, rest = _split(recipe.versions[name].model_dump(mode="json"))
        common = recipe.model_dump(mode="json", include={"seed", "model", "training"})
        split[name] = things, rest | common
    names, found = list(recipes), []
    for place, first in enumerate(names):
        for second in names[place + 1 :]:
            if split[first][1] != split[second][1]:
                continue
            one, other = split[first][0], split[second][0]
            differing = [by for by in NAMES if one[by] != other[by]]
            if len(differing) == 1:
                by = differing[0]
                version, against = (first, second) if other[by] is None else (second, first)
                found.append(Pair(by, version, against, split[against][0][by] is None))
    return found


def replay_controls(versions: Mapping[str, dict]) -> list[str]:
    """Names of controls: versions without replay that equal another version in all else.

    Args:
        versions: As the recipe in a report has them.
    """
    split = {name: _split(version) for name, version in versions.items()}
    rest = {name: ({**things, "replay": None}, left) for name, (things, left) in split.items()}
    kept = [name for name, (things, _) in split.items() if things["replay"]]
    return [
        name for name in versions if name not in kept and any(rest[name] == rest[other] for other in kept)
    ]


def _split(version: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """A version's components of `NAMES` (None without), and everything else that decides it."""
    mixture = version["mixture"]
    placed = [mixture["sources"], *(switch["sources"] for switch in mixture["switches"])]
    places = [place for sources in placed for place in sources.values()]
    ranked = any(place["lowest_perplexity"] for place in places)
    sequence = mixture["domain_order"] and (mixture["domain_order"], list(mixture["sources"]))
    plain = not sequence and all(place["order"] == "shuffled" for place in places)
    documents = [
        {name: (place["order"], place["buckets"]) for name, place in sources.items()} for sources in placed
    ]
    selection = version["selection"]
    things = {
        "replay": mixture["replay"],
        "selection": selection if selection and selection["k"] < 1 else None,
        "order": None
        if plain
        else {"domains": sequence, "documents": documents, "model": mixture["perplexity_model"]},
        "reweight": mixture["reweight"],
    }
    orders = {"order", "buckets"}
    bare = [
        {
            name: {key: value for key, value in place.items() if key not in orders}
            for name, place in sources.items()
        }
        for sources in placed
    ]
    moved = {"replay", "reweight", "domain_order", "sources", "switches", "perplexity_model"}
    rest = {key: value for key, value in version.items() if key not in ("selection", "keep", "mixture")}
    rest["mixture"] = {key: value for key, value in mixture.items() if key not in moved}
    rest["sources"] = bare
    rest["switches"] = [
        {key: value for key, value in switch.items() if key != "sources"} for switch in mixture["switches"]
    ]
    rest["perplexity_model"] = mixture["perplexity_model"] if ranked else None
    return things, rest


def compared(
    found: list[Pair],
    domains: list[str],
    losses: Mapping[str, np.ndarray],
    bounds: list[dict[str, list[float] | None]],
    documents: Mapping[str, int],
    shown: Mapping[str, list[str]],
) -> list[dict[str, Any]]:
    """The differences of pairs: `siblings` of docs/evaluation.md.

    Args:
        found: From `pairs`, both measured.
        domains: Columns of the losses.
        losses: By version, float64 [domains], NaN where it was not measured.
        bounds: Per pair the interval of the difference by domain.
        documents: How many each domain was measured on.
        shown: By version the domains that its path, or the initial model, has learned.
    """
    entries = []
    for pair, spans in zip(found, bounds, strict=True):
        differences = losses[pair.version] - losses[pair.against]
        known = {
            domain: {
                "difference": float(difference),
                "interval": spans.get(domain),
                "documents": documents.get(domain),
                "within_noise": not decided(spans.get(domain), documents.get(domain, 0)),
                "shown": any(
                    source_of(domain) in map(source_of, shown[name]) for name in (pair.version, pair.against)
                ),
            }
            for domain, difference in zip(domains, differences)
            if not math.isnan(difference)
        }
        entries.append(vars(pair) | {"domains": known})
    return entries


# -------------------------------------------------------------------------------------------- words


def findings(report: Report) -> list[str]:
    """A sentence per pair on the effect of its component; effects are claimed only if significant."""
    return [_sentence(report, pair) for pair in report["siblings"] if pair["domains"]]


def _sentence(report: Report, pair: dict) -> str:
    unit = report["unit"]
    told = {
        domain: _in_unit(entry, factor)
        for domain, factor in factors(report, unit).items()
        if factor is not None and (entry := pair["domains"].get(domain, {"shown": False}))["shown"]
    }
    claims = [_claim(domain, entry) for domain, entry in told.items() if not entry["within_noise"]]
    doubts: dict[str, list[str]] = {}
    for domain, entry in told.items():
        if entry["within_noise"] and entry["interval"]:
            reason = doubt(entry["interval"], entry["documents"] or 0)
            doubts.setdefault(reason, []).append(f"{domain} ({_span(entry['interval'])})")
    open_ = [
        f"{domain} ({format_change(entry['difference'])})"
        for domain, entry in told.items()
        if not entry["interval"]
    ]
    parts = [", ".join(claims)] if claims else []
    parts += [f"{reason}: {', '.join(found)}" for reason, found in doubts.items()]
    parts += [f"without an interval, so that nothing follows: {', '.join(open_)}"] if open_ else []
    how = "without it" if pair["plain"] else "with another"
    head = f"{NAMES[pair['by']]} ({pair['version']}; {how}: {pair['against']})"
    text = f"{head}, {UNIT_NAMES[unit]}: {'; '.join(parts) or 'nothing measured that either was shown'}."
    return text + (_avoided(report, pair, told) if pair["by"] == "replay" and pair["plain"] else "")


def _in_unit(entry: dict, factor: float) -> dict:
    interval = entry["interval"] and [bound * factor for bound in entry["interval"]]
    return entry | {"difference": entry["difference"] * factor, "interval": interval}


def _claim(domain: str, entry: dict) -> str:
    way = "lower" if entry["difference"] < 0 else "higher"
    return f"{domain} ends {abs(entry['difference']):.3f} {way} ({_span(entry['interval'])})"


def _span(bounds: list[float]) -> str:
    return f"{format_change(bounds[0])} to {format_change(bounds[1])}"


def _avoided(report: Report, pair: dict, told: dict[str, dict]) -> str:
    """Sentences on the share of forgetting that replay avoided, where both are significant."""
    changes = {version["id"]: version["change"] for version in report["versions"]}
    with_it, without = changes[pair["version"]], changes[pair["against"]]
    text = ""
    for domain, entry in told.items():
        bounds = report["intervals"]["change"].get(pair["against"], {}).get(domain)
        forgotten = decided(bounds, entry["documents"] or 0) and bounds[0] > 0
        before, after = without[domain], with_it[domain]
        if before is None or after is None:
            continue
        if forgotten and not entry["within_noise"] and entry["difference"] < 0:
            kept = format_share(1 - max(after, 0) / before)
            text += f" Replay avoided {kept} of the forgetting on {domain}."
    return text
