"""Plots of a sweep, on its page and as files."""

import re
from types import SimpleNamespace
from xml.etree import ElementTree

from perdure.pipeline.evaluate.report.figures import standalone
from perdure.pipeline.run.sweep import results
from perdure.pipeline.run.sweep.charts import charts
from perdure.pipeline.run.sweep.page import render_sweep

FIELD = "versions.update.mixture.replay.share"
TEXT = "{http://www.w3.org/2000/svg}text"


def test_the_page_is_self_contained_and_has_axes(swept):
    page = render_sweep(swept, charts(swept))
    assert page == render_sweep(swept, charts(swept))
    assert page.count("<svg") == 2 and page.count(f"{FIELD} (share of tokens)") == 2
    assert "held-out loss (nats per token)" in page and "change (nats per token)" in page
    assert "http" not in page and "<script" not in page
    # Means of both lines in both charts, and the band of the one setting with two seeds.
    assert "4.750" in page and "± 0.354" in page.replace("&plusmn;", "±")


def test_plots_and_page_are_in_the_unit_of_the_sweep(seeded):
    found = seeded | {"unit": "bits_per_byte"}
    drawn = {chart.name: chart.svg for chart in charts(found)}
    for name, label in (
        ("loss", "held-out loss"),
        ("change", "change"),
        ("stability-gap", "rise while training"),
    ):
        assert f"{label} (bits per byte)" in drawn[f"all-{name}"]
    assert not any("nats" in svg for svg in drawn.values())
    ticks = [float(number) for number in re.findall(r">(\d\.\d+)</text>", drawn["all-loss"])]
    assert ticks and max(ticks) < 1.5  # of 1.25 bits, not of 5 nats
    page = render_sweep(found, charts(found))
    row = page.partition("<td>replay_0</td>")[2].partition("</tr>")[0]
    assert "1.219" in row and "4.875 nats per token" in row
    run = page.partition('<th scope="row">seed=1</th>')[2].partition("</tr>")[0]
    assert "1.0000" in run and "4.0000" not in run  # of `base`: 4 nats


def test_names_on_the_axis_stand_in_the_order_given(swept):
    for row, variant in zip(swept["rows"], ("rho-1", "plain", "random")):
        row["setting"] = {"variant": variant}
    page = render_sweep(swept, charts(swept))
    assert page.count(">variant</text>") == 2
    assert page.index(">rho-1</text>") < page.index(">plain</text>")


def test_versions_side_by_side_where_only_seeds_are_swept(seeded):
    drawn = {chart.name: chart for chart in charts(seeded)}
    names = ["all-loss", "all-change", "all-probes", "all-fuar", "all-stability-gap"]
    assert list(drawn) == names
    for chart in drawn.values():
        texts = re.findall(r">([^<]*)</text>", chart.svg)
        assert {"version", "replay_0", "replay_5"} <= set(texts) and "base" not in texts
    assert "FUAR (accuracy dropped / gained)" in drawn["all-fuar"].svg
    page = render_sweep(seeded, list(drawn.values()))
    assert page.count("<svg") == 5 and "Without base, from which the others start" in page
    for number in ("0.500 (1 of 2)", "no gain", "2k (1 of 2)", "never"):
        assert number in page


def test_plots_of_several_settings_have_names_of_their_own(swept):
    rate = "versions.update.schedule.max_lr"
    for row, value in zip(swept["rows"], (0.1, 0.1, 0.2)):
        row["setting"] = row["setting"] | {rate: value}
    assert [chart.name for chart in charts(swept)] == [
        *("update-loss-max_lr=0.1", "update-change-max_lr=0.1")
    ]
    for row, value in zip(swept["rows"], ("a b", "a b", "c")):
        row["setting"][rate] = value
    first, second = (chart.name for chart in charts(swept))
    assert re.fullmatch("update-loss-[0-9a-f]{8}", first) and second == first.replace("loss", "change")


def test_a_plot_is_a_file_of_its_own(seeded):
    inline = charts(seeded)[0].svg
    picture = standalone(inline)
    assert picture == standalone(inline)
    tree = ElementTree.fromstring(picture)
    assert tree.get("width") and tree.get("height") and "var(" not in picture
    assert [text.text for text in tree.iter(TEXT)] == re.findall(r">([^<]*)</text>", inline)
    references = set(re.findall(r'https?://[^"]*', picture))
    assert references == {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    # Light as it stands, dark where the reader's system is.
    light, dark = picture.split("@media (prefers-color-scheme: dark)")[1].split("</style>")[::-1]
    assert 'style="fill: #ffffff"' in light and "#14171b" in dark and "#14171b" not in light
    for colour in set(re.findall(r"(?:fill|stroke): (#\w+)", light)):
        assert f'[style*="fill: {colour}"]' in dark and f'[style*="stroke: {colour}"]' in dark


def test_results_are_written_again_over_those_of_whole_runs(swept, tmp_path, monkeypatch):
    """`--report`, or a sweep with more versions, finds TensorBoard's table of runs that were whole before."""
    monkeypatch.setattr(results, "gather", lambda plan, failed: swept)
    plan = SimpleNamespace(directory=tmp_path)
    written = []
    for _ in range(2):
        results.write_results(plan)
        written.append({path: path.stat().st_mtime_ns for path in tmp_path.glob("runs/*/tb/hparams.json")})
    assert written[0] and written[0] == written[1]
