"""Tables and figures of topics.yaml: losses by topic, their spread, and the shares of topics over training.

python data_recipes/reproduce/topics.py runs/topics
"""

import statistics
from pathlib import Path

from perdure.data_recipes.reproduce.studies import (
    directory,
    in_units,
    losses,
    mean_and_sd,
    mixture_phases,
    over_seeds,
    reports,
    save,
    table,
)
from perdure.pipeline.evaluate.report.figures import Axis, Line, line_chart
from perdure.pipeline.evaluate.report_types import Report

ARMS = ("fixed", "reweight_0_2", "reweight_0_9", "equal")
OLD = "general"


def topics(report: Report) -> list[str]:
    """The topics, parts of one source."""
    return [domain for domain in report["domains"] if "/" in domain]


def short(topic: str) -> str:
    """A topic's name in tables."""
    return topic.partition("/")[2].partition("_")[0]


def shares(report: Report, version: str) -> list[tuple[int, dict[str, float]]]:
    """The shares of the topics, each with the number of tokens after which they hold."""
    phases = mixture_phases(report, version)
    return [(phase["after_tokens"], phase["shares"]) for phase in phases]


def summary(report: Report, version: str) -> dict[str, float]:
    """Over the topics: mean loss, mean weighted by the corpus, worst loss, and the least and largest gain on `base`."""
    after, before = losses(report, version), losses(report, "base")
    corpus = shares(report, "fixed")[0][1]
    gains = [before[topic] - after[topic] for topic in topics(report)]
    return {
        "mean": statistics.fmean(after[topic] for topic in topics(report)),
        "by shares": sum(corpus[topic] * after[topic] for topic in topics(report)),
        "worst": max(after[topic] for topic in topics(report)),
        "least gain": min(gains),
        "largest gain": max(gains),
        "old domain": after[OLD],
    }


def tables(found: list[Report], unit: str) -> None:
    """Prints the tables, in the reports' unit."""
    print(f"Over the topics, {unit}\n")
    keys = list(summary(found[0], "base"))
    rows = []
    for version in ("base", *ARMS):
        each = [summary(report, version) for report in found]
        rows.append([version, *(mean_and_sd([entry[key] for entry in each]) for key in keys)])
    print(table(["version", *keys], rows))
    print(f"Minus `fixed`, seed by seed, {unit}\n")
    rows = []
    for version in ARMS[1:]:
        pairs = [(summary(report, version), summary(report, "fixed")) for report in found]
        rows.append(
            [
                version,
                *(mean_and_sd([one[key] - other[key] for one, other in pairs], "{:+.3f}") for key in keys),
            ]
        )
    print(table(["version", *keys], rows))
    print(f"By topic: loss, {unit}, and the share of the tokens in the end\n")
    rows = []
    for topic in topics(found[0]):
        row = [short(topic), mean_and_sd([losses(report, "base")[topic] for report in found])]
        for version in ARMS:
            row.append(mean_and_sd([losses(report, version)[topic] for report in found]))
            row.append(mean_and_sd([shares(report, version)[-1][1][topic] for report in found], "{:.1%}"))
        rows.append(row)
    head = [cell for version in ARMS for cell in (version, "share")]
    print(table(["topic", "base", *head], rows))


def main(sweep: Path) -> None:
    """Prints the tables and writes the figures."""
    both = in_units(reports(sweep))
    for unit, found in both:
        tables(found, unit)
    found = both[0][1]
    for version in ARMS[1:3]:
        places = [place for place, _ in shares(found[0], version)]
        lines = []
        for number, topic in enumerate(topics(found[0])):
            curves = [
                [shares(report, version)[turn][1][topic] for report in found] for turn in range(len(places))
            ]
            means = over_seeds(curves).mean
            lines.append(Line(short(topic), means, colour=number, dashed=number >= 8))
        title = f"{version}: shares of the topics"
        save(
            sweep,
            f"topics-{version}",
            line_chart(places, lines, Axis("share of the tokens", 0), title, points=True),
        )


if __name__ == "__main__":
    main(directory(__doc__))
