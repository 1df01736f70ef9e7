"""What training took: GPU hours, or hours of CPU cores, as far as versions have counted them."""

import json

import pytest

from perdure.pipeline.core.files import read_json, write_json
from perdure.pipeline.evaluate.report.compare import compare
from perdure.pipeline.evaluate.report.compare_text import compare_table, render_compare
from perdure.pipeline.evaluate.report.formats import cost_lines, format_hours
from perdure.pipeline.evaluate.report.page import render_page
from perdure.pipeline.evaluate.report.summary import summarize


def counted(recipe, name, device, seconds, lost=0.0):
    record = recipe.directory / "versions" / name / "version.json"
    cost = {"device": device, "device_seconds": seconds, "lost_device_seconds": lost}
    write_json(record, read_json(record) | cost)


def test_hours_of_versions_and_of_all(recipe, run):
    data = run(recipe, ["base", "reference", "update", "control"])
    counted(recipe, "base", "NVIDIA H100 80GB HBM3", 8 * 3600)
    counted(recipe, "reference", "NVIDIA H100 80GB HBM3", 3600 * 4, lost=1800)
    counted(recipe, "update", "cpu", 90)
    report = summarize(recipe, data)
    hours = {
        version["id"]: (version["device_hours"], version["lost_hours"]) for version in report["versions"]
    }
    assert hours == {"base": (8, 0), "reference": (4.5, 0.5), "update": (0.025, 0), "control": (None, None)}
    assert report["cost"] == {"gpu_hours": 12.5, "cpu_core_hours": 0.025, "uncounted": ["control"]}
    words = cost_lines(report)
    assert words == [
        "All training took 12.5 GPU h and 0.025 core h, 0.5 h of it in steps that were lost and done again (control not "
        "counted)."
    ]
    page = render_page(report)
    assert words[0] in page and "4.5 GPU h<br>" in page and "0.5 lost" in page
    assert "0.025 core h" in render_page(report, "update") and words[0] not in render_page(report, "update")
    (recipe.directory / "report.json").write_text(json.dumps(report))
    found = compare([recipe.directory])
    lines = compare_table(found).splitlines()
    ends = [line.split("  ")[-1].strip() for line in (lines[2], *lines[4:8])]
    assert ends == ["GPU or core h", "8 GPU h", "4.5 GPU h", "0.025 core h", "-"]
    assert "4.5 GPU h" in render_compare(found)


def test_a_report_from_before_hours_were_counted_is_readable(report):
    assert report["cost"]["gpu_hours"] is None and report["cost"]["cpu_core_hours"] is None
    assert cost_lines(report) == [] and len(report["cost"]["uncounted"]) == 4
    old = report | {"versions": [dict(version) for version in report["versions"]]}
    del old["cost"]
    for version in old["versions"]:
        del version["device"], version["device_hours"], version["lost_hours"]
    assert "<h2>Cost</h2>" in render_page(old)


@pytest.mark.parametrize(
    ("hours", "device", "words"),
    [(0.03214, "cpu", "0.0321 core h"), (1234.5, "NVIDIA", "1,234 GPU h"), (12, None, "12 GPU h")],
)
def test_hours_in_words(hours, device, words):
    assert format_hours(hours, device) == words
