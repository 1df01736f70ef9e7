"""Means, deviations, the table and the page of a sweep; numbers by hand."""

import statistics

from perdure.pipeline.sweep.page import render_sweep
from perdure.pipeline.sweep.results import _row, setting_words, sweep_table

FIELD = "versions.update.mixture.replay.share"


def run(share: float, seed: int, loss: float | None) -> dict:
    measured = loss is not None
    version = {
        "directory": "versions/update@1",
        "status": "finished" if measured else "waiting",
        "losses": {"prose": loss, "code": 5.0} if measured else {},
        "change": {"prose": loss - 4, "code": -1.0} if measured else {},
        "tokens": 1000 if measured else None,
        "tokens_per_second": 100.0 * seed if measured else None,
        "seconds": 60.0 * seed if measured else None,
        "selected_fraction": 1.0,
    }
    name = f"share={share},seed={seed}"
    state = "whole" if measured else "waiting"
    return {
        "name": name,
        "setting": {FIELD: share},
        "seed": seed,
        "status": state,
        "directory": f"runs/{name}",
        "versions": {"update": version},
    }


def sweep() -> dict:
    runs = [run(0, 1, 4.5), run(0, 2, 5.0), run(0.25, 1, 4.25), run(0.25, 2, None), run(0.5, 1, None)]
    domains = ["prose", "code"]
    rows = [
        _row({FIELD: share}, "update", [r for r in runs if r["setting"][FIELD] == share], domains)
        for share in (0, 0.25, 0.5)
    ]
    return {
        **{"name": "replay", "recipe": "replay.yaml", "over": {FIELD: [0, 0.25, 0.5]}, "variants": {}},
        **{"seeds": [1, 2], "domains": domains, "compared": ["update"], "runs": runs, "rows": rows},
    }


def test_rows_are_means_and_deviations_over_seeds():
    first, second, third = sweep()["rows"]
    assert first["losses"]["prose"] == {
        "mean": 4.75,
        "sd": statistics.stdev([4.5, 5.0]),
        "min": 4.5,
        "max": 5.0,
    }
    assert first["change"]["prose"]["mean"] == 0.75 and first["seconds"]["mean"] == 90
    assert first["runs"] == ["share=0,seed=1", "share=0,seed=2"] and first["planned"] == 2
    assert second["losses"]["prose"] == {"mean": 4.25, "sd": None, "min": 4.25, "max": 4.25}
    assert (second["runs"], second["planned"]) == (["share=0.25,seed=1"], 2)
    assert third["losses"] == {"prose": None, "code": None} and third["runs"] == []


def test_the_table():
    lines = sweep_table(sweep()).splitlines()
    assert lines[1].startswith(
        "replay: 3 of 5 runs whole. Held-out loss of update, nats per token, mean ± standard"
    )
    assert lines[3].split() == ["setting", "runs", "prose", "code", "tokens/s", "time"]
    prose = ["4.750", "±", "0.354", "(+0.750)"]
    assert lines[5].split() == [
        "share",
        "0",
        "2",
        "of",
        "2",
        *prose,
        *["5.000", "±", "0.000", "(-1.000)", "150", "1:30"],
    ]
    assert lines[6].split()[:7] == ["share", "0.25", "1", "of", "2", "4.250", "(+0.250)"]
    assert lines[7].split() == ["share", "0.5", "0", "of", "1", "-", "-", "-", "-"]


def test_the_page_is_self_contained_and_has_axes():
    page = render_sweep(sweep())
    assert page == render_sweep(sweep())
    assert page.count("<svg") == 2 and page.count(f"{FIELD} (share of tokens)") == 2
    assert "held-out loss (nats per token)" in page and "change (nats per token)" in page
    assert "http" not in page and "<script" not in page
    # Means of both lines in both charts, and the band of the one setting with two seeds.
    assert "4.750" in page and "± 0.354" in page.replace("&plusmn;", "±")


def test_names_on_the_axis_stand_in_the_order_given():
    found = sweep()
    for row, variant in zip(found["rows"], ("rho-1", "plain", "random")):
        row["setting"] = {"variant": variant}
    page = render_sweep(found)
    assert page.count(">variant</text>") == 2
    assert page.index(">rho-1</text>") < page.index(">plain</text>")


def test_settings_in_words():
    setting = {"variant": "plain", "a.b.max_lr": "3e-3", "a.schedule": {"type": "constant", "max_lr": 0.1}}
    assert setting_words(setting) == "plain, max_lr 3e-3, schedule {max_lr: 0.1, type: constant}"
    assert setting_words({}) == "the recipe's own"
