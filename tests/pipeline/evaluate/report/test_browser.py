"""Pages as a browser lays them out, and whether their numbers are those of report.json."""

import bisect
import copy
import json
import re
import shutil
import subprocess
from html import escape, unescape
from importlib.resources import files

import pytest

from perdure.pipeline.evaluate.report.page import render_page

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
WIDTHS = (1280, 400)
MEASURE = """
function measure(frame) {
  const page = frame.contentDocument, wide = page.documentElement.clientWidth, found = [];
  page.querySelectorAll("details").forEach(part => part.open = true);
  if (page.documentElement.scrollWidth > wide) found.push("scrolls to " + page.documentElement.scrollWidth);
  for (const part of page.querySelectorAll("body *:not(svg *)")) {
    if (part.closest(".scroll, pre") && !part.matches(".scroll, pre")) continue;
    const box = part.getBoundingClientRect();
    if (box.right > wide + 1 || box.left < -1) found.push(part.tagName + " " + part.className + " ends at " + box.right);
  }
  for (const svg of page.querySelectorAll("svg")) {
    const frame = svg.getBoundingClientRect();
    for (const text of svg.querySelectorAll("text")) {
      const box = text.getBoundingClientRect();
      if (box.left < frame.left - 2 || box.right > frame.right + 2 || box.top < frame.top - 2 || box.bottom > frame.bottom + 2)
        found.push("cut off: " + text.textContent);
    }
  }
  return {title: page.title, width: wide, figures: page.querySelectorAll("svg").length, found};
}
onload = () => {
  const all = [...document.querySelectorAll("iframe")].map(measure);
  document.querySelector("pre").textContent = JSON.stringify(all);
};
"""
"""Same-origin frames, so that one start of the browser measures every page at every width."""


def dated(accuracy: dict, rows: int) -> list[dict]:
    """Dated probes split by cut-offs: of a version, refused for others, and of random weights."""
    reason = "1,234 of the 987,654 documents of a source with a long name that were read have no date"
    split = {"known": accuracy | {"within_chance": False}, "undecided": {"items": 3}, "undated": {"items": 0}}
    return [
        {"cutoff": "no text", "refused": None, "files": {}},
        *[{"cutoff": "unknown", "refused": reason, "files": {}}] * (rows - 2),
        {"cutoff": "2024-06-01..2024-12-31", "refused": None, "files": {"facts": split}},
    ]


@pytest.fixture(scope="module")
def measured(report) -> dict:
    """The made-up report with everything that the ledger may add to it, see docs/evaluation.md, and changing mixtures."""
    rows = len(report["loss_matrix"])
    accuracy = {
        "items": 40,
        "correct": 31,
        "accuracy": 0.775,
        "interval": [0.65, 0.9],
        "old": 0.1,
        "by_date": {
            f"2024-{month:02d}": {"items": 4, "accuracy": 1 - 0.08 * month} for month in range(1, 11)
        },
    }
    leaks = {"items": 211, "too_short": 13, "leaked": 5, "share": 5 / 211, "found": []}
    gap = {"start": 4.52, "worst": 5.83, "worst_tokens": 81_920, "depth": 1.31}
    label = {"documents": 17, "tokens": 1234, "bytes": 5678, "loss": [8.765, *[None] * (rows - 2), 4.321]}
    whole = copy.deepcopy(report)
    for version in whole["versions"]:
        shares = [{"code": 0.9, "replay/prose": 0.1}, {"code": 0.5, "replay/prose": 0.5}]
        version["phases"] = [
            {"after_step": 98 * i, "after_tokens": 98 * i * 4096, "reason": "switch", "shares": share}
            for i, share in enumerate(shares)
        ]
        parts = ("total", "consumed", "remaining", "repeated", "replayed")
        version["cutoff"] = {"earliest": "2024-06-01", "latest": "2024-08-31", "unknown": []}
        version["sources"] = {"code": dict(zip(parts, (9_870_000, 654_000, 9_210_000, 0, 32_100)))}
    return whole | {
        "intervals": {
            **{"level": 0.95, "resamples": 1000, "seed": 1234},
            "documents": {"prose": 101, "code": 101},
            "change": {"update": {"prose": [0.101, 0.149], "code": [-1.612, -1.387]}},
            "macro_bits_per_byte": [[1.234, 1.456], *[None] * (rows - 1)],
            "metrics": {"update": {"acc": [-4.678, -4.432], "bwt": [-0.149, -0.101], "fwt": None}},
        },
        "labels": {
            "topic": {"code": {"war <& peace": label, "a long name of a topic " * 3: label}},
            "language": {},
        },
        "stability_gap": {
            "update": {
                "steps": [0, 20, 40],
                "tokens": [0, 81_920, 163_840],
                "loss": {"prose": [4.52, 5.83, 4.5], "code": [6.0, 5.5, 5.2]},
                "macro": [5.26, 5.665, 4.85],
                "domains": {
                    "prose": gap | {"recovery_tokens": 163_840},
                    "code": gap | {"worst": 4.52, "depth": 0.0, "recovery_tokens": None},
                },
                "min_acc": -5.83,
                "min_acc_unmeasured": ["base"],
            }
        },
        "probes": {
            "files": {"facts": {"items": 80, "kinds": {"invariant": 40, "new": 40}}},
            "scores": [None, *[{"facts": {"invariant": accuracy}}] * (rows - 1)],
            "split": dated(accuracy, rows),
            "change": {},
            "fuar": {
                "update": {
                    "parent": {"value": 0.417, "lost": 5, "gained": 12, "words": ""},
                    "initial": {"value": None, "lost": 2, "gained": 0, "words": "no gain"},
                }
            },
        },
        "contamination": {
            "n_grams": 13,
            "min_words": 8,
            "probes": {"facts": leaks},
            "heldout": {"prose": leaks},
        },
        "harness": {"update": {"local": {"acc": 0.625, "acc_stderr": 0.0214}}},
        "harness_initial": {"tasks": {"local": {"acc": 0.5, "acc_stderr": 0.0214}}, "note": None},
        "harness_change": {"update": {"local": {"acc": {"change": 0.125, "stderr": 0.0303}}}},
    }


@pytest.fixture(scope="module")
def pages(measured) -> dict[str, str]:
    return {"project": render_page(measured), "version": render_page(measured, "update")}


@pytest.mark.skipif(CHROMIUM is None, reason="NOT TESTED in a browser: no chromium on this machine")
def test_nothing_overflows_on_wide_and_narrow_screens(pages, tmp_path):
    broken = pages["version"].replace("</header>", '<div style="width:1300px">too wide</div></header>')
    broken = re.sub(r'viewBox="0 0 [\d.]+', 'viewBox="0 0 200', broken)
    markup = "".join(
        f'<iframe width="{width}" height="900" style="border:0" srcdoc="{escape(page)}"></iframe>'
        for page in (*pages.values(), broken)
        for width in WIDTHS
    )
    path = tmp_path / "frames.html"
    path.write_text(f"<!DOCTYPE html><meta charset=utf-8><script>{MEASURE}</script>{markup}<pre></pre>")
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--dump-dom"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", path.as_uri()]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=180).stdout
    frames = json.loads(unescape(re.findall(r"<pre>(.*?)</pre>", shown, re.S)[-1]))
    *whole, wide, narrow = frames
    assert [frame["width"] for frame in whole] == [*WIDTHS] * len(pages)
    assert [frame["figures"] for frame in whole] == [20, 20, 8, 8]
    assert [frame["found"] for frame in whole] == [[]] * len(whole)
    for frame in (wide, narrow):  # and it would be seen
        assert any(line.startswith("scrolls to 1") for line in frame["found"])
        assert any(line.startswith("cut off: ") for line in frame["found"])


def test_every_figure_has_axes_with_units(pages):
    for svg in re.findall(r"<svg.*?</svg>", pages["project"], re.S):
        texts = set(re.findall(r"<text[^>]*>([^<]*)</text>", svg))
        along = {"tokens consumed by this version", "excess loss (nats)", "when the fact became true"}
        assert texts & along, texts
        labels = {"training loss (nats per token)", "learning rate", "selected share of tokens", "tokens"}
        labels |= {"share answered rightly"}
        assert texts & (labels | {"share of tokens in the mixture", "held-out loss (nats per token)"}), texts


NUMBER = re.compile(
    r"(?<![\w.,:@-])([+−-]?)(\d[\d,]*(?:\.\d+)?(?:e[+-]?\d+)?)(%|[kMB](?!\w)| ?nats)?(?![\w:])"
)
CLOCK = re.compile(r"(?<![\w:])(?:(\d+):)?(\d+):(\d\d)(?![\w:])")
SCALES = {"%": 0.01, "k": 1e3, "M": 1e6, "B": 1e9}


def found_in(page: str) -> list[tuple[str, float, float]]:
    """Numbers that a page shows, in text and titles: as shown, their value, and half of their last digit."""
    page = re.sub(r"<(svg|style|pre|code|title)\b.*?</\1>", " ", page, flags=re.S)
    text = unescape(" ".join([re.sub(r"<[^>]*>", " ", page), *re.findall(r'title="([^"]*)"', page)]))
    found = []
    for hours, minutes, seconds in CLOCK.findall(text):
        found.append(
            (f"{hours}:{minutes}:{seconds}", 3600 * int(hours or 0) + 60 * int(minutes) + int(seconds), 0.5)
        )
    for sign, digits, unit in NUMBER.findall(CLOCK.sub(" ", text)):
        plain, scale = digits.replace(",", ""), SCALES.get(unit, 1)
        mantissa, _, exponent = plain.partition("e")
        scale *= 10.0 ** int(exponent or 0)
        decimals = len(mantissa.partition(".")[2])
        # Three or four significant digits are cut off at zeros as well: 100% is 99.7% or more.
        digit = 10.0**-decimals if "." in mantissa or unit not in SCALES else 10.0 ** (len(mantissa) - 3)
        value = float(mantissa) * scale * (-1 if sign in "-−" and sign else 1)
        found.append((sign + digits + unit, value, max(digit, 0) * scale / 2))
    return found


def numbers_of(value, leave_out: tuple[str, ...] = ()) -> list[float]:
    """Every number of a report, those in its sentences included."""
    if isinstance(value, dict):
        return [
            number
            for key, part in value.items()
            if key not in leave_out
            for number in numbers_of(part, leave_out)
        ]
    if isinstance(value, list):
        return [number for part in value for number in numbers_of(part, leave_out)]
    if isinstance(value, str):
        return [number for _, number, _ in found_in(value)]
    return [] if value is None else [float(value)]


def strangers(page: str, report: dict) -> list[str]:
    """Numbers of a page that neither its report holds, nor the template itself says."""
    passage = r'<div class="passage">.*?</div>'
    # What training wrote a number of at every step would explain nearly anything.
    lists = ("curves", "passages", "chosen", "recipe")
    counts = [[entry["selected_count"], len(entry["tokens"])] for entry in report["passages"].values()]
    chosen = [[entry["tokens"], entry["selected"], entry["topics"]] for entry in report["chosen"].values()]
    sizes = [len(report["versions"]), len(report["domains"])]
    template = found_in((files("perdure.pipeline.evaluate.report") / "page.html").read_text())
    swatches = [-3, -1, -0.3, 0, 0.3, 0.5, 1, 2, 3, 4]
    known = numbers_of(report, lists) + numbers_of([counts, chosen, sizes, swatches])
    outside = unknown(
        found_in(re.sub(passage, " ", page, flags=re.S)), known + [value for _, value, _ in template]
    )
    own = [
        entry[key] for entry in report["passages"].values() for key in ("loss", "reference_loss", "excess")
    ]
    titles = " ".join(re.findall(r'title="[^"]*"', " ".join(re.findall(passage, page, re.S))))
    return outside + unknown(found_in(f"<p {titles}>"), numbers_of(own))


def unknown(shown: list[tuple[str, float, float]], known: list[float]) -> list[str]:
    known = sorted(known)
    strange = []
    for text, value, half in shown:
        place = bisect.bisect_left(known, value - half * 1.001 - 1e-12)
        if place == len(known) or known[place] > value + half * 1.001 + 1e-12:
            strange.append(text)
    return strange


def test_every_number_of_a_page_is_in_its_report(pages, measured):
    assert len(found_in(pages["project"])) > 300
    for page in pages.values():
        assert strangers(page, measured) == []


def test_a_number_that_is_not_in_the_report_is_found(pages, measured):
    assert strangers(pages["project"].replace("4.625", "4.627", 1), measured) == ["4.627"]
    assert strangers(pages["project"].replace("</footer>", " 7.77M tokens</footer>"), measured) == ["7.77M"]
