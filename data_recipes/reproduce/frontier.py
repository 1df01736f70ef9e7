"""Tables and picture of frontier.yaml: what each method keeps and learns, what it costs, and what the papers claim.

python data_recipes/reproduce/frontier.py runs/frontier --page docs/results/frontier.md
"""

from collections.abc import Sequence
from pathlib import Path

from perdure.data_recipes.reproduce.claims import (
    EWC,
    L2,
    LINE,
    LORA,
    MOL,
    PARENT,
    PLAIN,
    REPLAY,
    above_line,
    at,
    claim_rows,
    less,
    lesses,
    measured,
)
from perdure.data_recipes.reproduce.scatter import Points, scatter_chart
from perdure.data_recipes.reproduce.studies import (
    in_units,
    mean_and_sd,
    publish,
    reports,
    sweep_and_page,
    table,
)
from perdure.pipeline.core.paths import RunPaths
from perdure.pipeline.evaluate.report.figures import Axis
from perdure.pipeline.evaluate.report_types import Report

FAMILIES: dict[str, tuple[str, ...]] = {
    "merge": LINE,
    "merge by block": ("parent_blocks",),
    "average": ("average",),
    "replay": (PLAIN, *REPLAY),
    "MoL": MOL,
    "KL on replay": ("kl_replayed_25",),
    "KL on all": ("kl_all",),
    "L2": L2,
    "EWC": EWC,
    "LoRA": LORA,
    "Elastic Reset": ("elastic_reset",),
    "Reptile": ("reptile_50", "reptile_25"),
}
"""Versions by method."""
NAMED = ("parent_20", "parent_50", "parent_80")
"""Merges whose share stands beside them."""
LINEAR_TO = 0.1
"""Loss up to which the picture's axis of the new loss is linear: a few methods learn much less than all others."""
COLOURS = (7, 7, 6, 0, 1, 1, 1, 2, 4, 3, 5, 5)
MARKERS = ".DPosd^v<>*X"


def families(found: Sequence[Report]) -> dict[str, tuple[str, ...]]:
    """The methods whose versions all runs have."""
    return {family: names for family, names in FAMILIES.items() if measured(found, names)}


def versions(found: Sequence[Report]) -> list[str]:
    """Their versions, the parent and its plain update first."""
    others = [version for family in families(found).values() for version in family]
    return list(dict.fromkeys([PARENT, PLAIN, *others]))


def seconds(report: Report) -> dict[str, float | None]:
    """Seconds of training by version; None for versions without steps."""
    return {version["id"]: version["seconds"] or None for version in report["versions"]}


def of_plain(report: Report, version: str) -> float | None:
    """Seconds of training as a share of those of the plain update."""
    took = seconds(report)
    own, plain = took[version], took[PLAIN]
    return own / plain if own and plain else None


def state_sizes(sweep: Path) -> dict[str, int]:
    """Bytes of the last checkpoint of every trained version of the first run: weights, moments, and what a method adds."""
    run = RunPaths(min(sweep.glob("runs/*/report.json")).parent)
    last = {name: run.version(name).finished_checkpoints() for name in run.begun_versions()}
    return {
        name: sum(path.stat().st_size for path in found[max(found)].glob("*.distcp"))
        for name, found in last.items()
        if found
    }


def loss_table(found: Sequence[Report], sizes: dict[str, int]) -> str:
    """Both losses of every version, the differences that matter, and what it cost.

    Args:
        found: The reports.
        sizes: From `state_sizes`.
    """
    rows = []
    for version in versions(found):
        points = [at(report, version) for report in found]
        cells = [mean_and_sd([point[domain] for point in points]) for domain in (0, 1)]
        cells += [
            mean_and_sd([less(report, version, PARENT, 0) for report in found], "{:+.3f}"),
            mean_and_sd([less(report, version, PLAIN, 1) for report in found], "{:+.3f}"),
            ""
            if version in LINE
            else mean_and_sd([above_line(report, version) for report in found], "{:+.3f}"),
            mean_and_sd([of_plain(report, version) for report in found], "{:.2f}"),
            f"{sizes[version] / sizes[PLAIN]:.2f}" if version in sizes else "-",
        ]
        rows.append([f"`{version}`", *cells])
    head = ["version", "old", "new", "old, less parent", "new, less plain", "new, above the line of merges"]
    return table([*head, "time, of plain", "state, of plain"], rows)


def notes_of(family: str, names: Sequence[str]) -> list[str]:
    """What stands beside a method's points: the ends' names, a few shares of merges, the strengths of other methods."""
    if family == "merge":
        return [{PARENT: PARENT, PLAIN: PLAIN}.get(name, name[7:] if name in NAMED else "") for name in names]
    return ["" if name == PLAIN or len(names) == 1 else name.rpartition("_")[2] for name in names]


def picture(found: Sequence[Report], unit: str) -> str:
    """All versions by what they forgot and what they learned less, each seed against its own parent and plain update."""
    groups, shown = [], families(found)
    for family, colour, marker in zip(FAMILIES, COLOURS, MARKERS, strict=True):
        names = shown.get(family, ())
        if not names:
            continue
        places = [(lesses(found, name, PARENT, 0), lesses(found, name, PLAIN, 1)) for name in names]
        notes = notes_of(family, names)
        groups.append(Points(family, places, notes, colour, marker, joined=len(names) > 1))
    return scatter_chart(
        groups,
        Axis(f"forgotten: old loss, less that of {PARENT} ({unit})"),
        Axis(f"not learned: new loss, less that of {PLAIN} ({unit})"),
        "Old and new loss by method",
        linear_to=LINEAR_TO,
    )


def main(sweep: Path, page: Path | None) -> None:
    """Prints the tables, writes the picture, and puts both in the page."""
    parts, pictures, sizes = {}, {}, state_sizes(sweep)
    both = in_units(reports(sweep))
    for unit, found in both:
        parts[unit] = loss_table(found, sizes)
    unit, found = both[0]
    parts["claims"] = table(["claim", "source", f"here ({unit})", "verdict"], claim_rows(found))
    pictures["frontier"] = picture(found, unit)
    publish(sweep, page, parts, pictures)


if __name__ == "__main__":
    main(*sweep_and_page(__doc__))
