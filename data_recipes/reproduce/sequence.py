"""Tables and picture of sequence.yaml: what three domains in a row leave of each other.

python data_recipes/reproduce/sequence.py runs/sequence --page docs/results/sequence.md
"""

from collections.abc import Sequence
from pathlib import Path

from perdure.data_recipes.reproduce.claims import measured
from perdure.data_recipes.reproduce.studies import (
    claim_row,
    in_units,
    line,
    losses,
    mean_and_sd,
    over_seeds,
    publish,
    reports,
    sweep_and_page,
    table,
)
from perdure.pipeline.evaluate.report.figures import Axis, line_chart
from perdure.pipeline.evaluate.report_types import Report

DOMAINS = ("english", "german", "python")
ARMS = ("plain", "l2", "replay", "mol", "merge", "merge_replay")
SOURCE = "Lifelong-MoE 2023"


def path(arm: str) -> tuple[str, ...]:
    """An arm's versions, one for each stage."""
    return (DOMAINS[0], *(f"{arm}_{domain}" for domain in DOMAINS[1:]))


def arms(found: Sequence[Report]) -> list[str]:
    """The arms that all runs have."""
    return [arm for arm in ARMS if measured(found, path(arm))]


def drop(report: Report, arm: str, domain: str, stage: int) -> float:
    """Rise of a domain's loss from right after its own stage to a later one, as a share of the loss when learned."""
    learned = losses(report, path(arm)[DOMAINS.index(domain)])[domain]
    return losses(report, path(arm)[stage])[domain] / learned - 1


def loss_table(found: Sequence[Report]) -> str:
    """Losses of every domain after every stage."""
    rows = []
    for arm in arms(found):
        for stage, version in enumerate(path(arm)):
            if stage or arm == ARMS[0]:
                cells = [
                    mean_and_sd([losses(report, version)[domain] for report in found]) for domain in DOMAINS
                ]
                rows.append([f"`{version}`", *cells])
    return table(["after", *DOMAINS], rows)


def drop_table(found: Sequence[Report]) -> str:
    """By arm, how far each domain's loss has risen since it was learned, and the mean of the last stage's losses."""
    cases = [("english", 1), ("english", 2), ("german", 2)]
    head = ["arm", *(f"{domain}, after {DOMAINS[stage]}" for domain, stage in cases), "mean loss in the end"]
    rows = []
    for arm in arms(found):
        cells = [
            mean_and_sd([drop(report, arm, domain, stage) for report in found], "{:+.1%}")
            for domain, stage in cases
        ]
        rows.append([f"`{arm}`", *cells, mean_and_sd([mean_end(report, arm) for report in found])])
    return table(head, rows)


def mean_end(report: Report, arm: str) -> float:
    """Mean loss of all domains after the last stage."""
    found = losses(report, path(arm)[-1])
    return sum(found[domain] for domain in DOMAINS) / len(DOMAINS)


def claim_rows(found: Sequence[Report]) -> list[list[str]]:
    """What the table of Lifelong-MoE says of its baselines, and what Lin et al. say of merging, held against every seed."""
    rows = []
    for source, arm, other, stage in (
        (SOURCE, "l2", "plain", 2),
        (SOURCE, "replay", "plain", 2),
        (SOURCE, "l2", "replay", 1),
        (SOURCE, "replay", "l2", 2),
        ("MoL 2025", "mol", "replay", 2),
        ("Lin et al. 2024", "merge", "l2", 2),
    ):
        if not {arm, other}.issubset(arms(found)):
            continue
        drops = {name: [drop(report, name, "english", stage) for report in found] for name in (arm, other)}
        rows.append(
            claim_row(
                f"`{arm}` forgets English less than `{other}` after {DOMAINS[stage]}",
                source,
                [own < others for own, others in zip(*drops.values(), strict=True)],
                [(f"`{name}`", values) for name, values in drops.items()],
                "{:+.1%}",
            )
        )
    return rows


def picture(found: Sequence[Report], unit: str) -> str:
    """The first domain's loss after every stage."""
    lines = []
    for colour, arm in enumerate(arms(found)):
        seeds = [[losses(report, version)["english"] for report in found] for version in path(arm)]
        lines.append(line(arm, over_seeds(seeds), colour))
    y_axis = Axis(f"English, {unit}")
    return line_chart(
        DOMAINS, lines, y_axis, "Loss on English by stage", Axis("after the stage"), points=True
    )


def main(sweep: Path, page: Path | None) -> None:
    """Prints the tables, writes the picture, and puts both in the page."""
    both = in_units(reports(sweep))
    parts = {unit: loss_table(found) for unit, found in both}
    unit, found = both[0]
    parts["drops"] = drop_table(found)
    parts["claims"] = table(["claim", "source", "here", "verdict"], claim_rows(found))
    publish(sweep, page, parts, {"sequence": picture(found, unit)})


if __name__ == "__main__":
    main(*sweep_and_page(__doc__))
