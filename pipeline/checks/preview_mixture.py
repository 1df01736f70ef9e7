"""What a version's mixture would do, for the console."""

from typing import Any

from rich.tree import Tree

from perdure.pipeline.checks.packed import packed_words
from perdure.pipeline.plan.domains import source_of
from perdure.pipeline.plan.mixture import source_key
from perdure.pipeline.plan.order import RANKED
from perdure.pipeline.plan.parts import describe
from perdure.pipeline.plan.withdrawn import without_words

LISTED = 200
"""Rows of a table, or names in a line, that are printed; `--json` has all."""

SCOPES = {
    "sequence": "per sequence",
    "microbatch": "per micro-batch",
    "dp_microbatch": "per micro-batch of all replicas",
    "global": "per batch",
    "global_lagged": "per batch, about,",
}
"""Tokens that compete, in words."""


def more_of(number: int, kind: str) -> str:
    """What stands for rows that are not printed."""
    return f"and {number:,} more {kind}; --json has all"


def listed_some(words: list[str], most: int = LISTED) -> str:
    """Words in a line, the first ones of many."""
    return ", ".join(words[:most]) + (f", and {len(words) - most:,} more" if len(words) > most else "")


def mixture_tree(version: dict[str, Any], estimated: dict[str, bool]) -> Tree:
    """Every place in a mixture with what it takes, and what changes on the way."""
    tree = Tree("mixture")
    plain = version["phases"][0]["plain"] if version["phases"] else []
    for part, share in (("new", 1 - version["replay_share"]), ("replay", version["replay_share"])):
        members = [member for member in version["mixture"] if member["part"] == part]
        if not members:
            continue
        pool = (
            ", what its ancestors trained on" if part == "replay" and version["replay_from_parents"] else ""
        )
        trained = version["replay_share_trained"]
        effective = (
            f" of what is read, {trained:.1%} of what is trained on"
            if part == "replay" and trained != share
            else ""
        )
        branch = tree.add(f"{part} {share:.1%}{effective}{pool}")
        for member in members[:LISTED]:
            mark = "~" if estimated[source_of(member["source"])] else ""
            times = "" if member["repetitions"] is None else f", {mark}{member['repetitions']:.2f} times over"
            if member["repetitions_of_ancestors"]:
                times += f" after {mark}{member['repetitions_of_ancestors']:.2f} by its ancestors"
            if (member["repetitions"] or 0) + (member["repetitions_of_ancestors"] or 0) > version[
                "max_repetition"
            ]:
                times += f" (more than max_repetition = {version['max_repetition']:g}, beyond which a run is refused)"
            order = member["order"]
            if order in RANKED:
                order += f" by {version['perplexity_model']}"
            if member["buckets"]:
                order += f" in {member['buckets']:,} buckets"
            if member["lowest_perplexity"]:
                order += f", {_subset_words(member, version['perplexity_model'])}"
            branch.add(
                f"{member['source']} {member['share']:.1%}, {member['tokens']:,} tokens{times}, {order}"
                + packed_words(member["packed"])
                + (", without prefix" if source_key(member["source"], part == "replay") in plain else "")
                + without_words(member["withdrawn"])
            )
        if len(members) > LISTED:
            branch.add(more_of(len(members) - LISTED, "sources"))
    if version["domain_order"]:
        tree.add(_domain_words(version))
    else:
        for phase in version["phases"][1 : LISTED + 1]:
            shares = listed_some([f"{key} {share:.1%}" for key, share in phase["shares"].items()])
            plain = f"; without prefixes: {listed_some(phase['plain'])}" if phase["plain"] else ""
            tree.add(f"switches after step {phase['after_step']:,} to {shares}{plain}")
    if rule := version["reweight"]:
        tree.add(
            f"follows held-out perplexity every {rule['interval_steps']:,} steps (alpha {rule['alpha']:g}, floor "
            f"{rule['floor']:g})"
        ).add(_group_words(rule))
    return tree


def _group_words(rule: dict[str, Any]) -> str:
    """Between which sources shares move."""
    if rule["groups"]:
        groups = "; ".join(f"{group}: {listed_some(sources)}" for group, sources in rule["groups"].items())
        return f"shares move inside groups, whose totals are fixed ({groups})"
    if rule["across"]:
        return (
            f"note: shares move between {listed_some(rule['across'])}, so that one may take most of another's; fix their "
            "totals by mixture.reweight.groups"
        )
    return "shares move among all new sources"


def _domain_words(version: dict[str, Any]) -> str:
    """Domains one after another, and when each begins."""
    if not version["phases"]:
        return "one domain after another, by similarity: the plan finds the order once the data is there"
    starts = listed_some(
        [f"{next(iter(phase['shares']))} after step {phase['after_step']:,}" for phase in version["phases"]]
    )
    return f"one domain after another ({version['domain_order']}): {starts}"


def _subset_words(member: dict[str, Any], model: str) -> str:
    """Which documents a place takes: what was chosen, or the budget."""
    subset = member["lowest_perplexity"]
    if subset["chosen"]:
        return describe(member["source"], subset["chosen"])
    budget = f"{subset['tokens']:,} tokens" if subset["tokens"] else f"{subset['share']:.1%} of tokens"
    return f"the {budget} of lowest perplexity under {model}"


def objective_words(objective: dict[str, Any]) -> str:
    """What a version learns in place of the next token of all text."""
    if objective["type"] == "forget":
        return f"forgets the documents of {objective['source']} by {objective['method']}, and retains the rest of the mixture"
    if objective["type"] == "preference":
        method, beta, reference = objective["method"].upper(), objective["beta"], objective["reference"]
        words = f"learns from pairs by {method} with beta {beta:g} against {reference}"
        weights = ", ".join(f"{weight:g} x {name}" for name, weight in objective["retain"].items())
        return f"{words}; cross entropy beside it: {weights}" if weights else words
    turns = {"all": "turns", "last": "last turn of each conversation"}[objective["train_on"]]
    return f"instructed: trains on the assistant's {turns}"
