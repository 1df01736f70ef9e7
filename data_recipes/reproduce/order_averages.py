"""Tables of order_averages.yaml: orders of documents under a decaying rate, a constant one, and averages of checkpoints.

python data_recipes/reproduce/order_averages.py runs/order-averages --page docs/results/averages.md
"""

from collections.abc import Sequence
from pathlib import Path

from perdure.data_recipes.reproduce.order import OLD, macro
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

ORDERS = {"shuffled": "random", "easy": "easy to hard", "hard": "hard to easy"}
RATES = {"decay": "decaying", "constant": "constant", "average": "constant, averaged"}
SOURCE = "arXiv 2511.18903"


def gain(report: Report, order: str, rate: str) -> float:
    """Mean loss over the new domains in an order, less that in random order under the same rate."""
    return macro(report, f"{order}_{rate}") - macro(report, f"shuffled_{rate}")


def loss_table(found: Sequence[Report]) -> str:
    """Mean loss over the new domains by rate and order, and the old domain's."""
    rows = []
    for rate, rate_name in RATES.items():
        for order, name in ORDERS.items():
            version = f"{order}_{rate}"
            less = [gain(report, order, rate) for report in found]
            rows.append(
                [
                    rate_name,
                    name,
                    mean_and_sd([macro(report, version) for report in found]),
                    "" if order == "shuffled" else mean_and_sd(less, "{:+.3f}"),
                    mean_and_sd([losses(report, version)[OLD] for report in found]),
                ]
            )
    return table(["rate", "order", "new domains", "minus random", "old domain"], rows)


def claim_rows(found: Sequence[Report]) -> list[list[str]]:
    """The paper's claims, each held against every seed."""
    decayed, averaged = ([gain(report, "easy", rate) for report in found] for rate in ("decay", "average"))
    across = [macro(report, "easy_average") - macro(report, "shuffled_decay") for report in found]
    return [
        claim_row(
            "easy to hard gains more on a random order without a decaying rate",
            SOURCE,
            [without < with_decay for without, with_decay in zip(averaged, decayed, strict=True)],
            [("decaying", decayed), ("averaged", averaged)],
        ),
        claim_row(
            "easy to hard beats a random order once checkpoints are averaged",
            SOURCE,
            [value < 0 for value in averaged],
            [("difference", averaged)],
        ),
        claim_row(
            "easy to hard with averages beats a random order with a decaying rate",
            SOURCE,
            [value < 0 for value in across],
            [("difference", across)],
        ),
    ]


def main(sweep: Path, page: Path | None) -> None:
    """Prints the tables, and puts them in the page."""
    unit, found = in_units(reports(sweep))[0]
    parts = {
        "orders": loss_table(found),
        "claims of orders": table(["claim", "source", f"here ({unit})", "verdict"], claim_rows(found)),
    }
    publish(sweep, page, parts, {})


if __name__ == "__main__":
    main(*sweep_and_page(__doc__))
