"""Units of losses: nats per token, and bits per byte, which are comparable between tokenizers and languages."""

import math
from collections.abc import Collection, Iterable
from typing import Any, cast

import numpy as np

from perdure.pipeline.evaluate.report_types import BitsChanges, InUnit, Metrics, MetricsInBits, Report
from perdure.pipeline.evaluate.version_types import ByDomain

NATS, BITS = "nats_per_token", "bits_per_byte"
UNIT_NAMES = {NATS: "nats per token", BITS: "bits per byte"}
ALIKE = 1.1
"""Largest ratio of bytes per token between domains at which losses per token are compared."""


def bytes_per_token(domains: list[str], evaluations: list[dict | None]) -> np.ndarray:
    """Bytes of measured text per token, float64 [domains]; NaN where nothing was measured."""
    texts = measured_text(domains, evaluations)
    sizes = {domain: text["bytes"] / text["tokens"] for domain, text in texts.items()}
    return np.array([sizes.get(domain, math.nan) for domain in domains])


def measured_text(domains: list[str], evaluations: list[dict | None]) -> dict[str, dict[str, Any]]:
    """By domain, documents, tokens and bytes that were measured and held out; the same for all models."""
    keys = ("documents", "tokens", "bytes", "heldout_documents", "heldout_tokens", "cut_documents")
    measured = [entry["domains"] for entry in reversed(evaluations) if entry]
    texts = {domain: [own[domain] for own in measured if domain in own] for domain in domains}
    return {domain: {key: own[0].get(key) for key in keys} for domain, own in texts.items() if own}


def bits_per_nat(bytes_a_token: np.ndarray) -> np.ndarray:
    """Factor from nats per token to bits per byte, float64 [domains]; NaN where it is not known."""
    known = np.where(bytes_a_token > 0, bytes_a_token, math.nan)  # text without a byte has no bits per byte
    return 1 / (math.log(2) * known)


def default_unit(bytes_a_token: Iterable[float | None], tokenizers: Collection[str] = ()) -> str:
    """The unit in which losses are compared, in reports, comparisons, sweeps and studies.

    Args:
        bytes_a_token: Of every domain, in every run; None or NaN where nothing was measured.
        tokenizers: Hashes of all that were used.

    Returns:
        `bits_per_byte` under several tokenizers, or where domains' tokens hold unlike amounts of text, as in two languages;
        else `nats_per_token`.
    """
    known = [size for size in bytes_a_token if size is not None and size > 0]
    unlike = bool(known) and max(known) > ALIKE * min(known)
    return BITS if unlike or len(set(tokenizers)) > 1 else NATS


def common_unit(reports: Iterable[Report]) -> str:
    """The unit in which several runs' losses are compared; see `default_unit`."""
    reports = list(reports)
    sizes = [size for report in reports for size in (report.get("bytes_per_token") or {}).values()]
    return default_unit(sizes, tokenizers(reports))


def tokenizers(reports: Iterable[Report]) -> set[str]:
    """The hashes of the tokenizers of several runs' data."""
    found = (data for report in reports for data in (report.get("data") or {}).values())
    return {data["tokenizer_hash"] for data in found if data}


def factors(report: Report, unit: str) -> dict[str, float | None]:
    """By domain of a report, the factor from nats per token to a unit; None where it is not known."""
    if unit == NATS:
        return dict.fromkeys(report["domains"], 1.0)
    sizes = report.get("bytes_per_token") or {}
    return {
        domain: 1 / (math.log(2) * size) if (size := sizes.get(domain)) else None
        for domain in report["domains"]
    }


def times(value: float | None, factor: float | None) -> float | None:
    """The product; None where either factor is None."""
    return None if value is None or factor is None else value * factor


def changes_in_bits(report: Report) -> BitsChanges:
    """By version each domain's `change` and `change_intervals` in bits per byte."""
    own = factors(report, BITS)
    return {
        "change": {
            version["id"]: {
                domain: times(change, own[domain]) for domain, change in version["change"].items()
            }
            for version in report["versions"]
        },
        "change_intervals": {
            name: {
                domain: bounds and [times(bound, own[domain]) for bound in bounds]
                for domain, bounds in found.items()
            }
            for name, found in report["intervals"]["change"].items()
        },
    }


def in_unit(report: Report, unit: str) -> InUnit:
    """A report's losses in a unit; what an earlier release left out is None, or empty."""
    spans = report.get("intervals") or {}
    if unit == NATS:
        return {
            "loss_matrix": report["loss_matrix"],
            "change": {version["id"]: version["change"] for version in report["versions"]},
            "intervals": spans.get("change", {}),
            "spans": spans.get("metrics", {}),
            **_metrics(report),
        }
    nothing: ByDomain = dict.fromkeys(report["domains"])
    unknown: list[list[float | None]] = [[None] * len(report["domains"]) for _ in report["loss_matrix"]]
    found = report.get("in_bits_per_byte") or cast(MetricsInBits, {})
    return {
        "loss_matrix": report.get("bits_per_byte_matrix", unknown),
        "change": found.get("change", {version["id"]: nothing for version in report["versions"]}),
        "intervals": found.get("change_intervals", {}),
        "spans": spans.get("metrics_bits_per_byte", {}),
        **_metrics(found),
    }


def _metrics(found: Metrics) -> Metrics:
    return {
        "acc": found.get("acc") or {},
        "bwt": found.get("bwt") or {},
        "bwt_trace": found.get("bwt_trace") or {},
        "general": found.get("general") or {},
        "fwt": found.get("fwt") or {},
        "fwt_gem": found.get("fwt_gem") or {},
        "forgetting": found.get("forgetting") or {},
        "stability_gap": found.get("stability_gap") or {},
    }
