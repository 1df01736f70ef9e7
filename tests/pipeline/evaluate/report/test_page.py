"""The page stands on its own: in any browser, offline, whatever the tokens are."""

import json
import math
import re
import shutil
import subprocess
from html.parser import HTMLParser

import pytest
import yaml

from perdure.pipeline.evaluate.report.figures import Axis, Line, line_chart
from perdure.pipeline.evaluate.report.page import render_page
from perdure.pipeline.evaluate.report.summary import summarize
from perdure.pipeline.recipe import Recipe
from tests.pipeline.evaluate.made_up import make_recipe, write_run


class Page(HTMLParser):
    """Text, tags and references of a page; checks that tags are balanced."""

    VOID = frozenset({"meta", "link", "br", "img"})

    def __init__(self, text: str):
        super().__init__()
        self.open, self.seen, self.references, self.tokens = [], [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.seen.append(tag)
        self.references += [
            found[key] for key in ("src", "href", "xlink:href", "action", "data") if key in found
        ]
        if tag not in self.VOID:
            self.open.append(tag)
        if tag == "span" and found.get("title", "").startswith("loss "):
            self.tokens.append([found["title"], "class" in found, ""])

    def handle_startendtag(self, tag, attributes):
        found = dict(attributes)
        self.references += [found[key] for key in ("src", "href", "xlink:href") if key in found]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "span" and self.tokens:
            self.tokens[-1][2] = self.tokens[-1][2] or data


def test_page_is_self_contained_and_small(page):
    text, page = page, Page(page)
    assert len(text.encode()) < 1_500_000
    assert all(reference.startswith(("#", "data:")) for reference in page.references)
    assert "http" not in text and "url(" not in text.replace("url(#", "")
    assert "script" not in page.seen
    assert len(set(re.findall(r' id="([^"]*)"', text))) == len(re.findall(r' id="', text))
    assert page.seen.count("svg") == 14


def test_same_inputs_same_bytes_wherever_the_run_lies(report, page, tmp_path, run):
    other = Recipe.model_validate(yaml.safe_load(report["recipe"]) | {"out": tmp_path / "elsewhere"})
    again = summarize(other, run(other, list(other.versions)))
    assert json.dumps(again) == json.dumps(report)
    assert render_page(again) == page


def test_tokens_are_shown_and_never_run(report, page):
    page = Page(page)
    passage = report["passages"]["update"]
    del page.tokens[len(passage["tokens"]) :]  # what follows is the control's
    assert [chosen for _, chosen, _ in page.tokens] == passage["selected"]
    shown = [text for _, _, text in page.tokens[-11:]]
    assert shown == [
        "<script>alert(1)</script>", "⏎\n", "    ", "\ufffd", "␀", "␛[31m", "é", "日本", "&amp;", "\t", "·"
    ]  # fmt: skip
    excess = passage["loss"][1] - passage["reference_loss"][1]
    numbers = (
        f"loss {passage['loss'][1]:.2f}, reference {passage['reference_loss'][1]:.2f}, excess {excess:+.3f}"
    )
    assert page.tokens[1][0].replace("−", "-").startswith(numbers)
    assert page.tokens[0][0].endswith("no reference loss, not selected")


def test_chart_leaves_gaps_and_repeats_itself():
    lines = [Line("a<b", [1.0, None, 3.0, math.pi]), Line("c", [2.0, 2.0, 2.0, 2.0], 9, dashed=True)]
    chart = line_chart([10, 20, 30, 40], lines, Axis("loss"), 'x "y"')
    assert chart == line_chart([10, 20, 30, 40], lines, Axis("loss"), 'x "y"')
    assert "var(--series-0)" in chart and "var(--series-1)" in chart and "#0" not in chart.replace("#m", "")
    assert "a&lt;b" in chart and 'aria-label="x &quot;y&quot;"' in chart
    Page(f"<html>{chart}</html>")


CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.mark.skipif(CHROMIUM is None, reason="NOT TESTED in a browser: no chromium on this machine")
def test_page_renders_in_a_browser(report, page, tmp_path):
    path, log = tmp_path / "index.html", tmp_path / "net.json"
    # The image shows that a request to the outside would be noticed.
    path.write_text(
        page.replace("</body>", '<img src="http://example.invalid/x.png"></body>'), encoding="utf-8"
    )
    options = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--enable-logging=stderr",
        "--v=0",
        "--dump-dom",
    ]
    options += [
        "--host-resolver-rules=MAP * ~NOTFOUND",
        f"--user-data-dir={tmp_path / 'profile'}",
        f"--log-net-log={log}",
    ]
    result = subprocess.run([CHROMIUM, *options, path.as_uri()], capture_output=True, text=True, timeout=120)
    assert "CONSOLE" not in result.stderr
    shown = Page(result.stdout)
    assert shown.seen.count("svg") == 14
    assert len(shown.tokens) == 2 * len(report["passages"]["update"]["tokens"])
    by_page = [line for line in log.read_text().splitlines() if '"initiator":"null"' in line]
    requested = {url for line in by_page for url in re.findall(r'"url":"(\w+:[^"]*)"', line)}
    assert {url for url in requested if not url.startswith(("file:", "data:"))} == {
        "http://example.invalid/x.png"
    }


HEADING = re.compile(r"<h([23])[^>]*>(.*?)</h\1>", re.DOTALL)
SHOWN = re.compile(r"<(table|figure|svg|pre|details|article|ul|li|div)\b|class=\"(finding|legend)\"")
"""What shows something; text alone says what there would be to see."""


def empty_headings(page: str) -> list[str]:
    """Headings of sections in which nothing is shown, of parts of them without any word, and those without a word
    themselves."""
    found = re.findall(r"<th[^>]*>\s*</th>", page)
    for section in re.findall(r"<section>(.*?)</section>", page, re.DOTALL):
        heads = list(HEADING.finditer(section))
        for head, following in zip(heads, [*heads[1:], None], strict=True):
            end = following.start() if following and head[1] == "3" else len(section)
            content = section[head.end() : end]
            words = re.sub(r"<[^>]*>", "", content).strip()
            if not words or (head[1] == "2" and not SHOWN.search(content)):
                found.append(head[2])
    return found


def test_no_heading_stands_over_nothing_however_far_the_run_is(tmp_path):
    recipe = make_recipe(tmp_path / "all")
    names = list(recipe.versions)
    for done in range(len(names) + 1):
        recipe = make_recipe(tmp_path / str(done))
        report = summarize(recipe, write_run(recipe, names[:done]))
        for version in (None, *names):
            assert empty_headings(render_page(report, version)) == [], (done, version)
    broken = "<section><h2>A</h2><p>Words.</p></section><section><h2>B</h2><h3>c</h3></section>"
    assert empty_headings(broken + "<th></th>") == ["<th></th>", "A", "B", "c"]


def test_a_merge_says_how_its_shares_were_found(report):
    last = report["versions"][-1]
    fitted = {
        "versions": ["base", "update"],
        "share": 0.2,
        "parent_share": [0.35, 0.05],
        "evaluations": 17,
        "weight": 0.25,
        "old": ["prose"],
        "new": ["code", "web"],
        "before": {"old": 3.5, "new": 2.125, "weighted": 3.15625},
        "after": {"old": 3.25, "new": 2.25, "weighted": 3.0},
        "reported": {"prose": 3.375, "code": 1.75},
    }
    shown = report | {"versions": [*report["versions"][:-1], last | {"fitted": fitted}]}
    text = " ".join(re.sub("<[^>]*>", " ", render_page(shown)).split())
    assert "found by held-out loss: 0.35 / 0.05 by run of layers, 0.2 elsewhere; 17 candidates" in text
    for row in (
        "update alone merged",
        "old: prose 3.500 3.250",
        "new: code, web 2.125 2.250",
        "weighted 3.156 3.000",
    ):
        assert row in text, row
    assert "prose, other half 3.375" in text and "code, other half 1.750" in text
    assert "found by held-out loss" not in render_page(report)
