"""Tables and pictures of stability.yaml: depth and recovery of the stability gap, and where every arm ends.

python data_recipes/reproduce/stability.py runs/stability
"""

import statistics
from pathlib import Path

from perdure.data_recipes.reproduce.studies import directory, edges, losses, reports, save, table, words
from perdure.pipeline.evaluate.figures import Line, line_chart

OLD, NEW, TARGET = "general", "software", "handbooks"
GAP = ("start_at_max", "warmup_10", "same_text", "all_once", "random_4", "lowest_4", "lowest_4_mixed")
PICTURES = {
    OLD: ("start_at_max", "warmup_10", "same_text", "lowest_4", "lowest_4_mixed"),
    NEW: ("start_at_max", "all_once", "random_4", "lowest_4", "lowest_4_mixed"),
    TARGET: ("start_at_max", "all_once", "random_4", "lowest_4", "lowest_4_mixed"),
}


def gap(reports: list[dict], arm: str, domain: str) -> list[str]:
    """Depth of the gap, where the loss was highest, tokens until it was back, and rise in the end, over seeds."""
    found = [report["stability_gap"][arm]["domains"][domain] for report in reports]
    back = [entry["recovery_tokens"] for entry in found]
    known = [tokens for tokens in back if tokens is not None]
    recovery = "never" if not known else f"{statistics.fmean(known):,.0f}"
    recovery += f" ({len(known)} of {len(back)})" if 0 < len(known) < len(back) else ""
    ends = [
        losses(report, arm)[domain] - entry["start"] for report, entry in zip(reports, found, strict=True)
    ]
    worst = ", ".join(f"{tokens:,}" for tokens in sorted({entry["worst_tokens"] for entry in found}))
    return [words([entry["depth"] for entry in found]), worst, recovery, words(ends, "{:+.3f}")]


def course(reports: list[dict], arm: str, domain: str, tokens: list[int]) -> dict[str, list[float | None]]:
    """Losses while training at the places `tokens`; None where the arm has ended."""
    curves = [report["stability_gap"][arm]["loss"][domain] for report in reports]
    places = reports[0]["stability_gap"][arm]["tokens"]
    found = edges(list(zip(*curves, strict=True)))
    return {
        part: [dict(zip(places, values)).get(place) for place in tokens] for part, values in found.items()
    }


def main(sweep: Path) -> None:
    """Prints the tables and writes the pictures."""
    found = reports(sweep)
    for domain in PICTURES:
        print(f"Stability gap on {domain}\n")
        rows = [[f"`{arm}`", *gap(found, arm, domain)] for arm in GAP]
        print(table(["arm", "depth", "highest after tokens", "back after tokens", "end, less start"], rows))
    print("In the end\n")
    versions = {version["id"]: version for version in found[0]["versions"]}
    rows = [
        [
            f"`{arm}`",
            f"{versions[arm]['tokens']:,}",
            *(words([losses(report, arm)[domain] for report in found]) for domain in PICTURES),
            *(
                words(
                    [losses(report, arm)[domain] - losses(report, "all_once")[domain] for report in found],
                    "{:+.3f}",
                )
                for domain in (NEW, TARGET)
            ),
        ]
        for arm in ("base", "reference", *GAP)
    ]
    print(table(["version", "tokens", *PICTURES, f"{NEW}, less all_once", f"{TARGET}, less all_once"], rows))
    for domain, arms in PICTURES.items():
        tokens = sorted({place for arm in arms for place in found[0]["stability_gap"][arm]["tokens"]})
        lines = [
            Line(arm, colour=colour, **course(found, arm, domain, tokens)) for colour, arm in enumerate(arms)
        ]
        title = f"Loss on {domain} while training"
        save(sweep, f"stability-{domain}", line_chart(tokens, lines, "held-out loss, nats per token", title))


if __name__ == "__main__":
    main(directory(__doc__))
