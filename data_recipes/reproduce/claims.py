"""The claims of the papers behind frontier.yaml, each held against what every seed gave."""

from collections.abc import Sequence
from itertools import pairwise

from perdure.data_recipes.reproduce.studies import claim_row, losses
from perdure.pipeline.evaluate.report_types import Report

OLD, NEW = "english", "german"
PARENT, PLAIN = "base", "plain"
LINE = (PLAIN, *(f"parent_{share}" for share in range(10, 100, 10)), PARENT)
"""The merges of the parent and its plain update, by rising share of the parent."""
L2 = ("l2_1", "l2_10", "l2_100")
EWC = ("ewc_1e3", "ewc_1e4", "ewc_1e5")
LORA = ("lora_4", "lora_32")
REPLAY = ("replay_5", "replay_25")
MOL = ("mol_5", "mol_25")


def at(report: Report, version: str) -> tuple[float, float]:
    """Old and new held-out loss of a version."""
    found = losses(report, version)
    return found[OLD], found[NEW]


def measured(found: Sequence[Report], versions: Sequence[str]) -> bool:
    """Whether every run has finished these versions: arms may be left out of the recipe."""
    return all(
        {entry["id"] for entry in report["versions"] if entry["status"] == "finished"}.issuperset(versions)
        for report in found
    )


def above_line(report: Report, version: str) -> float | None:
    """New loss of a version, less the lowest that a merge reaches with at most the version's old loss.

    Merges between the measured ones are taken to lie on the straight lines between them. A positive number means inside the
    frontier of merging: some merge is as good on the old domain and better on the new one. None if even the parent's old loss
    is higher, so that no merge compares.
    """
    old, new = at(report, version)
    points = [at(report, name) for name in LINE]
    reached = [point_new for point_old, point_new in points if point_old <= old]
    for (low_old, low_new), (high_old, high_new) in pairwise(sorted(points)):
        if low_old <= old < high_old:
            reached.append(low_new + (high_new - low_new) * (old - low_old) / (high_old - low_old))
    return new - min(reached) if reached else None


def is_convex(points: Sequence[tuple[float, float]]) -> bool:
    """Whether every point but the ends lies below the straight line between its neighbours, by rising first coordinate."""
    ordered = sorted(points)
    slopes = [(y2 - y1) / (x2 - x1) for (x1, y1), (x2, y2) in pairwise(ordered) if x2 > x1]
    return all(first < second for first, second in pairwise(slopes))


def kept(report: Report, version: str) -> float:
    """Share of the plain update's gain on the new domain that a version has."""
    before, after = at(report, PARENT)[1], at(report, PLAIN)[1]
    return (before - at(report, version)[1]) / (before - after)


def undone(report: Report, version: str) -> float:
    """Share of the plain update's loss on the old domain that a version has not."""
    before, after = at(report, PARENT)[0], at(report, PLAIN)[0]
    return (after - at(report, version)[0]) / (after - before)


def ordered(report: Report, versions: Sequence[str]) -> bool:
    """Whether the old loss falls and the new loss rises from each version to the next."""
    points = [at(report, version) for version in versions]
    return all(second[0] < first[0] and second[1] > first[1] for first, second in pairwise(points))


def less(report: Report, version: str, other: str, domain: int) -> float:
    """Loss of a version less that of another one; domain 0 is the old one, 1 the new one."""
    return at(report, version)[domain] - at(report, other)[domain]


def rises(report: Report, versions: Sequence[str], domain: int, sign: int) -> bool:
    """Whether a domain's loss rises (sign 1) or falls (-1) from each version to the next."""
    values = [sign * at(report, version)[domain] for version in versions]
    return all(first < second for first, second in pairwise(values))


def lesses(found: Sequence[Report], version: str, other: str, domain: int) -> list[float]:
    """`less` by seed."""
    return [less(report, version, other, domain) for report in found]


def objective_gain(report: Report) -> float:
    """Mean of old and new loss with shares by block, less that of the best merge of the shares 0, 0.1, .., 0.5."""
    return sum(at(report, "parent_blocks")) / 2 - min(sum(at(report, name)) / 2 for name in LINE[:6])


def claim_rows(found: Sequence[Report]) -> list[list[str]]:
    """The table of claims: the claim, its source, numbers in the reports' unit (mean and deviation over seeds), the verdict.

    Claims about versions that were left out are left out, too.
    """
    return [*_merging(found), *_inside(found), *_replay(found), *_adapters(found)]


def _merging(found: Sequence[Report]) -> list[list[str]]:
    lin, fifth = "Lin et al. 2024", "parent_20"
    kept_of, undone_of = ([of(report, fifth) for report in found] for of in (kept, undone))
    rows = [
        claim_row(
            "along the line the old loss rises and the new one falls, step by step",
            lin,
            [ordered(report, LINE) for report in found],
        ),
        claim_row(
            "the line is convex", lin, [is_convex([at(report, name) for name in LINE]) for report in found]
        ),
        claim_row(
            "a fifth of the parent keeps most of what was learned",
            lin,
            [share > 0.5 for share in kept_of],
            [("of the gain kept", kept_of), ("of the forgetting undone", undone_of)],
            "{:.1%}",
        ),
    ]
    if measured(found, ("parent_blocks",)):
        gains = [objective_gain(report) for report in found]
        rows.append(
            claim_row(
                "a share for each block is better than one share",
                lin,
                [gain < 0 for gain in gains],
                [("mean of both losses, less the best single share's", gains)],
                "{:+.4f}",
            )
        )
    return rows


def _inside(found: Sequence[Report]) -> list[list[str]]:
    """Methods that Lin et al. found inside the frontier of averaging, and those that they did not try."""
    rows = []
    for name, versions, source in (
        ("L2", L2, "Lin et al. 2024"),
        ("KL", ("kl_all",), "Lin et al. 2024"),
        ("LoRA", LORA, "Lin et al. 2024"),
        ("EWC", EWC, "not in the paper"),
        ("replay", REPLAY, "not in the paper"),
    ):
        if not measured(found, versions):
            continue
        above = {version: [above_line(report, version) for report in found] for version in versions}
        rows.append(
            claim_row(
                f"{name} lies inside the frontier of merging",
                source,
                [all((value or 0) > 0 for value in seed) for seed in zip(*above.values(), strict=True)],
                [(f"`{version}`", values) for version, values in above.items()],
            )
        )
    return rows


def _replay(found: Sequence[Report]) -> list[list[str]]:
    few, many = REPLAY
    saved, cost = (lesses(found, few, PLAIN, domain) for domain in (0, 1))
    rows = [
        claim_row(
            "the old loss falls with every step of replay",
            "Ibrahim et al. 2024",
            [at(report, PLAIN)[0] > at(report, few)[0] > at(report, many)[0] for report in found],
            [(f"`{name}` less `plain`", lesses(found, name, PLAIN, 0)) for name in REPLAY],
        ),
        claim_row(
            "5% of replay costs the new domain less than a tenth of what it saves of the old one",
            "Ibrahim et al. 2024",
            [new < -0.1 * old for old, new in zip(saved, cost, strict=True)],
            [("saved", saved), ("cost", cost)],
        ),
    ]
    for mol, replay in zip(MOL, REPLAY, strict=True):
        if not measured(found, (mol, replay)):
            continue
        old, new = (lesses(found, mol, replay, domain) for domain in (0, 1))
        share = replay.removeprefix("replay_")
        rows.append(
            claim_row(
                f"MoL forgets no more than cross entropy at {share}% of replay",
                "MoL 2025",
                [value <= 0 for value in old],
                [("old", old), ("new", new)],
            )
        )
    return rows


def _adapters(found: Sequence[Report]) -> list[list[str]]:
    biderman, (low, high) = "Biderman et al. 2024", LORA
    rows = []
    for verb, domain, sign in (("forgets", 0, -1), ("learns", 1, 1)):
        if not measured(found, LORA):
            continue
        differences = {name: lesses(found, name, PLAIN, domain) for name in LORA}
        rows.append(
            claim_row(
                f"LoRA {verb} less than training all weights",
                biderman,
                [all(sign * value > 0 for value in seed) for seed in zip(*differences.values(), strict=True)],
                [(f"`{name}`", values) for name, values in differences.items()],
            )
        )
    for name, more, source, versions in (
        ("LoRA", "a higher rank", biderman, (high, low)),
        ("L2", "a weaker pull", "Lin et al. 2024", (PLAIN, *L2)),
        ("EWC", "a weaker pull", "Sliogeris et al. 2025", (PLAIN, *EWC)),
    ):
        for verb, domain, sign in (("forgets", 0, -1), ("learns", 1, 1)):
            if measured(found, versions):
                held = [rises(report, versions, domain, sign) for report in found]
                rows.append(claim_row(f"{name}: {more} {verb} more", source, held))
    return rows
