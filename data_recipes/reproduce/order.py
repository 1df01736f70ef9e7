"""Tables and figures of order.yaml: final losses, losses of domains before and after their turn, and forgetting.

python data_recipes/reproduce/order.py runs/order
"""

import statistics
from itertools import pairwise
from pathlib import Path

from perdure.data_recipes.reproduce.studies import (
    Spread,
    directory,
    in_units,
    line,
    losses,
    mean_and_sd,
    mixture_phases,
    over_seeds,
    reports,
    save,
    table,
)
from perdure.pipeline.evaluate.report.figures import Axis, line_chart
from perdure.pipeline.evaluate.report_types import Report

DOCUMENTS = {"shuffled": "random", "easy_to_hard": "easy to hard", "hard_to_easy": "hard to easy"}
DOMAINS = {
    "shuffled": "mixed",
    "random_domains": "random",
    "similar_domains": "similar in a row",
    "unlike_domains": "unlike in a row",
}
OLD = "english"


def new_domains(report: Report) -> list[str]:
    """The new domains, parts of one source."""
    return [domain for domain in report["domains"] if "/" in domain]


def macro(report: Report, version: str) -> float:
    """Mean final loss over the new domains."""
    found = losses(report, version)
    return statistics.fmean(found[domain] for domain in new_domains(report))


def turns(report: Report, version: str) -> list[tuple[str, int, int]]:
    """The domains in training order, each with the indices of the measurements before and after it."""
    steps = report["stability_gap"][version]["steps"]
    phases = mixture_phases(report, version)
    borders = [phase["after_step"] for phase in phases] + [steps[-1]]
    found = []
    for phase, (start, stop) in zip(phases, pairwise(borders), strict=True):
        domain = max(phase["shares"], key=phase["shares"].__getitem__)
        found.append((domain, steps.index(start), steps.index(stop)))
    return found


def by_turn(report: Report, version: str) -> dict[str, float]:
    """Means over the domains of the loss `before` and `after` training on the domain, and of the rise since (`forgotten`)."""
    curves = report["stability_gap"][version]["loss"]
    found = turns(report, version)
    after = [curves[domain][stop] for domain, _, stop in found]
    rise = [curves[domain][-1] - loss for (domain, _, _), loss in zip(found, after, strict=True)]
    return {
        "before": statistics.fmean(curves[domain][start] for domain, start, _ in found),
        "after": statistics.fmean(after),
        "forgotten": statistics.fmean(rise[:-1]),
    }


def macro_curve(reports: list[Report], version: str) -> Spread:
    """Mean loss over the new domains while training."""
    curves = [
        [
            statistics.fmean(losses)
            for losses in zip(
                *(report["stability_gap"][version]["loss"][domain] for domain in new_domains(report)),
                strict=True,
            )
        ]
        for report in reports
    ]
    return over_seeds(list(zip(*curves, strict=True)))


def tables(found: list[Report], unit: str) -> None:
    """Prints the tables of losses, in the reports' unit."""
    plain = [macro(report, "shuffled") for report in found]

    def ends(version: str) -> list[str]:
        means = [macro(report, version) for report in found]
        change = [mean - control for mean, control in zip(means, plain, strict=True)]
        old = [losses(report, version)[OLD] for report in found]
        return [
            mean_and_sd(means),
            "" if version == "shuffled" else mean_and_sd(change, "{:+.3f}"),
            mean_and_sd(old),
        ]

    print(f"Documents by perplexity, {unit}\n")
    rows = [[name, *ends(version)] for version, name in DOCUMENTS.items()]
    print(table(["order", "new domains", "minus random", "old domain"], rows))
    print(f"Domains one after another, {unit}\n")
    rows = []
    for version, name in DOMAINS.items():
        means = [] if version == "shuffled" else [by_turn(report, version) for report in found]
        each = [mean_and_sd([entry[key] for entry in means]) for key in ("before", "after", "forgotten")]
        rows.append([name, *ends(version), *each])
    head = ["order", "new domains", "minus mixed", "old domain"]
    print(table([*head, "before its turn", "after its turn", "forgotten since"], rows))
    print(f"By domain, in the end, {unit}\n")
    domains = new_domains(found[0])
    arms = [*DOCUMENTS, *(version for version in DOMAINS if version not in DOCUMENTS)]
    rows = [
        [
            version,
            *(
                mean_and_sd([losses(report, version)[domain] for report in found])
                for domain in [OLD, *domains]
            ),
        ]
        for version in ["base", *arms]
    ]
    print(table(["version", OLD, *domains], rows))


def main(sweep: Path) -> None:
    """Prints the tables and writes the figures."""
    both = in_units(reports(sweep))
    for unit, found in both:
        tables(found, unit)
    unit, found = both[0]
    for report in found:
        for version in ("random_domains", "similar_domains"):
            print(f"{version}: {', '.join(domain for domain, _, _ in turns(report, version))}")
    tokens = found[0]["stability_gap"]["shuffled"]["tokens"]
    for name, arms in (("order-documents", DOCUMENTS), ("order-domains", DOMAINS)):
        lines = [
            line(label, macro_curve(found, version), number)
            for number, (version, label) in enumerate(arms.items())
        ]
        title = f"{name}: mean loss of the new domains while training"
        save(sweep, name, line_chart(tokens, lines, Axis(f"mean held-out loss, {unit}"), title, points=True))


if __name__ == "__main__":
    main(directory(__doc__))
