"""What losses were measured on, and losses in bits per byte of it, which mean the same under every tokenizer and in every language."""

import math
from typing import Any

import numpy as np

NATS, BITS = "nats_per_token", "bits_per_byte"
WORDS = {NATS: "nats per token", BITS: "bits per byte"}
ALIKE = 1.1
"""Where a domain's tokens hold this many times the bytes of another's, losses per token are not compared between them."""


def bytes_per_token(domains: list[str], evaluations: list[dict | None]) -> np.ndarray:
    """Bytes of measured text a token, float64 [domains], NaN where nothing was measured."""
    texts = measured_text(domains, evaluations)
    found = [texts.get(domain, {"bytes": math.nan, "tokens": 1}) for domain in domains]
    return np.array([text["bytes"] / text["tokens"] for text in found])


def measured_text(domains: list[str], evaluations: list[dict | None]) -> dict[str, dict[str, int | None]]:
    """What was measured of what is held out, by domain; all models are measured on the same text."""
    keys = ("documents", "tokens", "bytes", "heldout_documents", "heldout_tokens", "cut_documents")
    measured = [entry["domains"] for entry in reversed(evaluations) if entry]
    texts = {domain: [own[domain] for own in measured if domain in own] for domain in domains}
    return {domain: {key: own[0].get(key) for key in keys} for domain, own in texts.items() if own}


def bits_per_nat(bytes_a_token: np.ndarray) -> np.ndarray:
    """What makes bits per byte of nats per token, float64 [domains]; NaN where it is not known."""
    known = np.where(bytes_a_token > 0, bytes_a_token, math.nan)  # text without a byte has no bits per byte
    return 1 / (math.log(2) * known)


def default_unit(bytes_a_token: np.ndarray) -> str:
    """`bits_per_byte` where domains' tokens hold unlike amounts of text, as in two languages; else `nats_per_token`."""
    known = bytes_a_token[bytes_a_token > 0]
    return BITS if len(known) and known.max() > ALIKE * known.min() else NATS


def changes_in_bits(report: dict[str, Any]) -> dict[str, Any]:
    """By version each domain's `change`, and its interval in `change_intervals`, of a report in bits per byte."""
    sizes, intervals = report["bytes_per_token"], report["intervals"]["change"]
    factors = {domain: float(bits_per_nat(np.array(size, float))) for domain, size in sizes.items()}
    return {
        "change": {version["id"]: _scaled(version["change"], factors) for version in report["versions"]},
        "change_intervals": {
            name: {
                domain: bounds and [_times(bound, factors[domain]) for bound in bounds]
                for domain, bounds in own.items()
            }
            for name, own in intervals.items()
        },
    }


def in_unit(report: dict[str, Any], unit: str) -> dict[str, Any]:
    """A report's losses and changes in a unit: `loss_matrix`, and by version `change` and its `intervals`.

    What an earlier release left out of it is None.
    """
    if unit == NATS:
        changes = {version["id"]: version["change"] for version in report["versions"]}
        intervals = (report.get("intervals") or {"change": {}})["change"]
        return {"loss_matrix": report["loss_matrix"], "change": changes, "intervals": intervals}
    found, nothing = report.get("in_bits_per_byte", {}), dict.fromkeys(report["domains"])
    unknown = [[None] * len(report["domains"]) for _ in report["loss_matrix"]]
    return {
        "loss_matrix": report.get("bits_per_byte_matrix", unknown),
        "change": found.get("change", {version["id"]: nothing for version in report["versions"]}),
        "intervals": found.get("change_intervals", {}),
    }


def _times(value: float | None, factor: float) -> float | None:
    return None if value is None or math.isnan(factor) else value * factor


def _scaled(values: dict[str, float | None], factors: dict[str, float]) -> dict[str, float | None]:
    return {domain: _times(value, factors[domain]) for domain, value in values.items()}
