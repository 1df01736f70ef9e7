"""Versions of several runs side by side, from their reports: the numbers of `perdure versions compare`."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TypedDict

from perdure.pipeline.core.errors import PerdureError
from perdure.pipeline.core.files import read_json
from perdure.pipeline.core.paths import VERSIONS, RunPaths
from perdure.pipeline.evaluate.bootstrap import LEVEL, decided, doubt, interval
from perdure.pipeline.evaluate.report.paired import Drawn, Measured, drawn_losses, read_measured
from perdure.pipeline.evaluate.report_types import Report
from perdure.pipeline.evaluate.units import BITS, NATS, common_unit, in_unit
from perdure.pipeline.evaluate.version_types import VersionSummary


class Difference(TypedDict):
    """A version's loss minus that of the first version, paired by document.

    Attributes:
        difference: The difference.
        interval: Its interval [low, high].
        documents: How many documents it is over.
        doubt: `within the noise`, `too few documents`, or empty if it says something.
    """

    difference: float
    interval: list[float]
    documents: int
    doubt: str


class Changes(TypedDict):
    """Changes and metrics of a version in one unit; None where an earlier release left them out.

    Attributes:
        change: By domain, against the version that it started from.
        acc: ACC along its path.
        bwt: BWT along its path.
        forgetting: Mean forgetting along its path.
        against_first: By domain, against the first row with a loss on it; None without pairs in this unit.
    """

    change: dict[str, float | None]
    acc: float | None
    bwt: float | None
    forgetting: float | None
    against_first: dict[str, Difference | None]


class ComparedVersion(Changes):
    """A version as a row of the comparison; losses are in nats per token.

    Attributes:
        run: The run's directory.
        version: The version's name.
        parent: What it started from; None is the initial model.
        losses: By domain.
        bits_per_byte: The same losses in bits per byte.
        in_bits_per_byte: The changes in bits per byte.
        status: As in its report, like all below.
        tokens: Tokens it trained on.
        lineage_tokens: The same with those of its ancestors.
        tokens_per_second: Mean speed.
        seconds: Seconds of training.
        device: What it trained on.
        device_hours: Hours of GPUs, or of CPU cores.
        mfu: Model FLOP utilisation.
        selected_fraction: Share of tokens that selection took.
    """

    run: str
    version: str
    parent: str | None
    losses: dict[str, float]
    bits_per_byte: dict[str, float]
    in_bits_per_byte: Changes
    status: str
    tokens: int
    lineage_tokens: int | None
    tokens_per_second: float | None
    seconds: float | None
    device: str | None
    device_hours: float | None
    mfu: float | None
    selected_fraction: float | None


class Comparison(TypedDict):
    """What `perdure versions compare --json` prints.

    Attributes:
        domains: Domains that any version was measured on.
        rows: The versions.
        measure: `losses` or `bits_per_byte`, which is shown: the latter where tokenizers differ, or domains' tokens hold unlike
            amounts of text.
        level: Level of the intervals.
        best: By domain the lowest loss; None if its difference to any other may be chance, or if there is one version.
        notes: Lines on what makes rows incomparable.
    """

    domains: list[str]
    rows: list[ComparedVersion]
    measure: str
    level: float
    best: dict[str, float | None]
    notes: list[str]


Text = tuple[int, int, int]
"""Documents, tokens and bytes of a domain's held-out text, by which texts are told apart."""


@dataclass
class _Collected:
    """What was read of the compared runs.

    Attributes:
        rows: The versions.
        models: What each of them was measured on.
        reports: By directory of the run.
        tokenizers: By hash, a run that used it.
        texts: By domain the texts that it was measured on, each with a run.
    """

    rows: list[ComparedVersion] = field(default_factory=list)
    models: list[Measured] = field(default_factory=list)
    reports: dict[str, Report] = field(default_factory=dict)
    tokenizers: dict[str, str] = field(default_factory=dict)
    texts: dict[str, dict[Text, str]] = field(default_factory=dict)


def compare(places: list[Path]) -> Comparison:
    """Compares versions of several runs.

    Args:
        places: Directories of runs, of which all versions that were measured are taken, or of versions
            (`RUN/versions/NAME`). A version that is named twice counts where it is named first.

    Raises:
        PerdureError: If a directory is none of a run with a report, or there is nothing to compare.
    """
    found = _Collected()
    for place in places:
        _collect(found, place)
    rows = found.rows
    if not rows:
        raise PerdureError(
            f"{', '.join(map(str, places))}: no version there is finished and measured; `perdure run RECIPE` does both"
        )
    domains = list(dict.fromkeys(domain for row in rows for domain in row["losses"]))
    unit = common_unit(found.reports.values())
    best: dict[str, float | None] = {}
    without: list[str] = []
    for domain in domains:
        members = [number for number, row in enumerate(rows) if losses_in(row, unit).get(domain) is not None]
        drawn = drawn_losses([found.models[number] for number in members], domain)
        measured = [rows[number] for number in members]
        best[domain] = _best([losses_in(row, unit)[domain] for row in measured], drawn, unit)
        _add_differences(measured, domain, drawn)
        without += _without_interval(measured, domain, drawn)
    return {
        "domains": domains,
        "rows": rows,
        "measure": "bits_per_byte" if unit == BITS else "losses",
        "level": LEVEL,
        "best": best,
        "notes": [*_notes(found.tokenizers, found.texts), *without],
    }


def _collect(found: _Collected, place: Path) -> None:
    """Adds the versions of a run, or one of them."""
    run, name = (place.parent.parent, place.name) if place.parent.name == VERSIONS else (place, None)
    if not RunPaths(run).report.exists():
        raise PerdureError(
            f"{place}: no run with a report; name the directory of a run (which has `report.json`), or a version's, "
            "as in runs/NAME/versions/V"
        )
    report = read_json(RunPaths(run).report)
    known = {version["id"]: version for version in report["versions"]}
    if name is not None and name not in known:
        raise PerdureError(f"{place}: {run} has no version {name}; it has {', '.join(known)}")
    found.reports[str(run)] = report
    found.tokenizers |= {data["tokenizer_hash"]: str(run) for data in report["data"].values() if data}
    for version in known.values():
        if not _wanted(version, name):
            continue
        if (str(run), version["id"]) not in {(row["run"], row["version"]) for row in found.rows}:
            found.rows.append(_row(report, str(run), version))
            found.models.append(read_measured(run, report, version["id"]))
        for domain, entry in (version["evaluation"] or {}).items():
            text = entry["documents"], entry["tokens"], entry["bytes"]
            found.texts.setdefault(domain, {}).setdefault(text, str(run))


def losses_in(row: ComparedVersion, unit: str) -> dict[str, float]:
    """A version's losses by domain, in a unit."""
    return row["losses"] if unit == NATS else row["bits_per_byte"]


def _add_differences(rows: list[ComparedVersion], domain: str, drawn: Drawn) -> None:
    """Adds each row's difference to the first one, in both units.

    Args:
        rows: The rows with a loss on the domain.
        domain: The domain.
        drawn: Their resampled losses.
    """
    for unit in (NATS, BITS):
        for place, row in enumerate(rows[1:], start=1):
            changes = row if unit == NATS else row["in_bits_per_byte"]
            span = interval(drawn.values[unit][place] - drawn.values[unit][0])
            changes["against_first"][domain] = None
            if span is not None:
                changes["against_first"][domain] = {
                    "difference": losses_in(row, unit)[domain] - losses_in(rows[0], unit)[domain],
                    "interval": span,
                    "documents": drawn.documents,
                    "doubt": doubt(span, drawn.documents),
                }


def _without_interval(rows: list[ComparedVersion], domain: str, drawn: Drawn) -> list[str]:
    """A note for each reason why rows have no interval on a domain."""
    names: dict[str, list[str]] = {}
    for row, reason in list(zip(rows, drawn.why, strict=True))[1:]:
        if reason:
            names.setdefault(reason, []).append(f"{row['run']}/{row['version']}")
    return [f"{domain}: no interval for {', '.join(members)}: {reason}." for reason, members in names.items()]


def _best(losses: list[float], drawn: Drawn, unit: str) -> float | None:
    """The lowest loss, if it is significantly lower than every other one; else None."""
    lowest = min(losses)
    winner, values = losses.index(lowest), drawn.values[unit]
    others = [number for number, loss in enumerate(losses) if loss > lowest]
    spans = [interval(values[number] - values[winner]) for number in others]
    return lowest if spans and all(decided(span, drawn.documents) for span in spans) else None


def _wanted(version: VersionSummary, name: str | None) -> bool:
    return version["id"] == name if name else version["evaluation"] is not None


def _row(report: Report, run: str, version: VersionSummary) -> ComparedVersion:
    evaluation = version["evaluation"] or {}
    return {
        "run": run,
        "version": version["id"],
        "parent": version["parent"],
        "losses": {domain: found["loss"] for domain, found in evaluation.items()},
        "bits_per_byte": {domain: found["bits_per_byte"] for domain, found in evaluation.items()},
        **_changes(report, version, NATS),
        "in_bits_per_byte": _changes(report, version, BITS),
        "status": version["status"],
        "tokens": version["tokens"],
        "lineage_tokens": version["lineage_tokens"],
        "tokens_per_second": version["tokens_per_second"],
        "seconds": version["seconds"],
        "device": version.get("device"),
        "device_hours": version.get("device_hours"),
        "mfu": version.get("mfu"),
        "selected_fraction": version["selected_fraction"],
    }


def _changes(report: Report, version: VersionSummary, unit: str) -> Changes:
    name, own = version["id"], in_unit(report, unit)
    forgetting = own["forgetting"].get(name)
    return {
        "change": own["change"][name],
        "acc": own["acc"].get(name),
        "bwt": own["bwt"].get(name),
        "forgetting": forgetting["mean"] if forgetting else None,
        "against_first": {},
    }


def _differ(texts: dict[Text, str]) -> bool:
    """Whether a domain was measured on different texts: their numbers of documents or bytes differ."""
    return len({(documents, count) for documents, _, count in texts}) > 1


def _notes(tokenizers: dict[str, str], measured: dict[str, dict[Text, str]]) -> list[str]:
    notes = []
    if len(tokenizers) > 1:
        notes.append(
            "The runs have different tokenizers, so that losses per token have different meanings: these are bits per byte "
            f"({', '.join(f'{run}: {key[:8]}' for key, run in tokenizers.items())})."
        )
    for domain, texts in measured.items():
        if _differ(texts):
            each = ", ".join(f"{documents:,} documents in {run}" for (documents, *_), run in texts.items())
            notes.append(
                f"{domain} was measured on different held-out text: {each}; none is called the lowest."
            )
    return notes
