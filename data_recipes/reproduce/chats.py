"""Tables of chats.yaml: what an update on German costs a chat model, and what replay saves of that.

python data_recipes/reproduce/chats.py runs/chats --page docs/results/chats.md
"""

from collections.abc import Sequence
from pathlib import Path

from perdure.data_recipes.reproduce.studies import (
    claim_row,
    in_units,
    losses,
    mean_and_sd,
    publish,
    reports,
    sweep_and_page,
    table,
)
from perdure.pipeline.evaluate.report_types import Report

DOMAINS = ("german", "english", "chats")
VERSIONS = ("plain", "chat_replay")


def before(report: Report) -> dict[str, float]:
    """Losses of the model that all versions start from, in the report's unit."""
    found = zip(report["domains"], report["loss_matrix"][0], strict=True)
    return {domain: loss for domain, loss in found if loss is not None}


def rise(report: Report, version: str) -> float:
    """How far a version's loss on held-out answers lies above that of the model that it started from."""
    return losses(report, version)["chats"] - before(report)["chats"]


def loss_table(found: Sequence[Report]) -> str:
    """Losses before and after each update."""
    rows = [["before", *(mean_and_sd([before(report)[domain] for report in found]) for domain in DOMAINS)]]
    for version in VERSIONS:
        measured = [losses(report, version) for report in found]
        rows.append([f"`{version}`", *(mean_and_sd([own[domain] for own in measured]) for domain in DOMAINS)])
    return table(["version", "German", "English", "answers"], rows)


def claim_rows(found: Sequence[Report]) -> list[list[str]]:
    """What was expected, held against every seed."""
    rises = {version: [rise(report, version) for report in found] for version in VERSIONS}
    cost = [losses(report, "chat_replay")["german"] - losses(report, "plain")["german"] for report in found]
    gain = [before(report)["german"] - losses(report, "plain")["german"] for report in found]

    def shown(*names: str) -> list[tuple[str, list[float]]]:
        return [(f"`{name}`", rises[name]) for name in names]

    def less_than_half(version: str) -> list[bool]:
        return [own < plain / 2 for own, plain in zip(rises[version], rises["plain"], strict=True)]

    return [
        claim_row(
            "a plain update raises the loss on answers",
            "ours",
            [own > 0 for own in rises["plain"]],
            shown("plain"),
        ),
        claim_row(
            "a tenth of conversations prevents most of it",
            "ours",
            less_than_half("chat_replay"),
            shown("chat_replay"),
        ),
        claim_row(
            "a tenth of conversations costs less than a tenth of what is learned of German",
            "ours",
            [own < learned / 10 for own, learned in zip(cost, gain, strict=True)],
            [("cost", cost), ("learned", gain)],
        ),
    ]


def main(sweep: Path, page: Path | None) -> None:
    """Prints the tables and puts them in the page."""
    both = in_units(reports(sweep))
    parts = {unit: loss_table(found) for unit, found in both}
    parts["claims"] = table(["claim", "source", "here", "verdict"], claim_rows(both[0][1]))
    publish(sweep, page, parts, {})


if __name__ == "__main__":
    main(*sweep_and_page(__doc__))
