"""Numbers of a sweep: what is taken from reports, and means and deviations by hand."""

import statistics

from tiny import tiny_recipe

from perdure.pipeline.core.errors import Problem
from perdure.pipeline.core.files import write_json
from perdure.pipeline.core.manifest import finish
from perdure.pipeline.evaluate.record import measured_on, record_data
from perdure.pipeline.run.sweep.gather import MEASURED, gather, over_runs, versions_measured
from perdure.pipeline.run.sweep.spec import Run, Sweep, SweepPlan
from perdure.pipeline.run.sweep.store import version_places
from perdure.pipeline.run.sweep.table import sweep_table


def test_rows_are_means_and_deviations_over_seeds(swept):
    first, second, third = swept["rows"]
    deviation = statistics.stdev([4.5, 5.0])
    expected = {"n": 2, "mean": 4.75, "sd": deviation, "min": 4.5, "max": 5.0}
    assert first["losses"]["prose"] == expected
    assert first["change"]["prose"]["mean"] == 0.75 and first["seconds"]["mean"] == 90
    assert (first["acc"]["mean"], first["forgetting"]["mean"], first["bwt"]["mean"]) == (-4.875, 0.75, -0.75)
    assert (first["tokens"]["mean"], first["lineage_tokens"]["mean"]) == (1000, 3000)
    assert first["runs"] == ["share=0,seed=1", "share=0,seed=2"] and first["planned"] == 2
    assert second["losses"]["prose"] == {"n": 1, "mean": 4.25, "sd": None, "min": 4.25, "max": 4.25}
    assert (second["runs"], second["planned"]) == (["share=0.25,seed=1"], 2)
    assert third["losses"] == {"prose": None, "code": None} and third["runs"] == []
    bits = third["in_bits_per_byte"]
    assert bits["losses"] == {"prose": None, "code": None} and bits["acc"] is None
    assert {third[key] for key in MEASURED if key not in ("losses", "change", "in_bits_per_byte")} == {None}
    assert first["in_bits_per_byte"]["losses"]["prose"]["mean"] == 4.75 / 4
    assert first["in_bits_per_byte"]["forgetting"]["mean"] == 0.75 / 4


def test_numbers_that_not_every_run_has_say_how_many_do(seeded):
    row = seeded["rows"][2]
    assert row["version"] == "replay_5"
    gap = row["stability_gap"]["domains"]["prose"]
    assert gap["depth"]["n"] == 2
    assert gap["recovery_tokens"] == {"n": 1, "mean": 2000, "sd": None, "min": 2000, "max": 2000}
    assert row["fuar"]["parent"]["value"]["n"] == 1 and row["fuar"]["parent"]["gained"]["n"] == 2
    assert row["fuar"]["initial"]["value"] is None
    assert over_runs([None, {"a": 1, "b": None}, {"a": 3}]) == {
        "a": {"n": 2, "mean": 2, "sd": statistics.stdev([1, 3]), "min": 1, "max": 3},
        "b": None,
    }


def report() -> dict:
    """A base that was trained from scratch on prose, and an update of it by code."""
    common = {"status": "finished", "seconds": 1.5, "tokens_per_second": 10.0, "selected_fraction": 0.6}
    ratio = {"value": 0.5, "lost": 0.125, "gained": 0.25, "words": "more learned"}
    return {
        "versions": [
            {"id": "base", "change": {"prose": -4.0}, "tokens": 100, "lineage_tokens": 100} | common,
            {"id": "update", "change": {"prose": 0.5}, "tokens": 50, "lineage_tokens": 150} | common,
        ],
        "domains": ["prose", "code"],
        "loss_matrix": [[8.0, 8.0], [4.0, 6.0], [4.5, 5.0]],
        **{"acc": {"base": -5.0, "update": -4.75}, "bwt": {"base": None, "update": -0.5}},
        "forgetting": {
            "base": {"mean": None, "domains": {}},
            "update": {"mean": 0.5, "domains": {"prose": 0.5}},
        },
        "stability_gap": {
            "update": {
                "tokens": [0, 20, 40, 50],
                "macro": [5.0, 5.25, 5.0, 4.75],
                "domains": {
                    "prose": {
                        **{"start": 4.0, "worst": 4.75, "worst_tokens": 20},
                        **{"depth": 0.75, "recovery_tokens": None},
                    },
                    "code": {
                        "start": 6.0,
                        "worst": 6.0,
                        "worst_tokens": 0,
                        "depth": 0.0,
                        "recovery_tokens": 0,
                    },
                },
            }
        },
        "probes": {
            "scores": [
                None,
                {"one": {"new": {"items": 10, "correct": 5}}},
                {
                    "one": {"new": {"items": 10, "correct": 9}, "invariant": {"items": 4, "correct": 1}},
                    "two": {"new": {"items": 30, "correct": 11}},
                },
            ],
            "fuar": {"update": {"parent": ratio}},
        },
    }


def test_what_is_taken_from_a_report():
    found = versions_measured(report())
    base, update = found["base"], found["update"]
    assert update["losses"] == {"prose": 4.5, "code": 5.0} and update["change"] == {"prose": 0.5}
    assert (update["acc"], update["bwt"], update["forgetting"]) == (-4.75, -0.5, 0.5)
    # Domains learned before, as the report has them; the mean's, from its curve: worst after 20 tokens, back after 40.
    assert update["stability_gap"] == {
        "macro": {"depth": 0.25, "recovery_tokens": 40},
        "domains": {"prose": {"depth": 0.75, "recovery_tokens": None}},
    }
    assert update["probes"] == {"new": 20 / 40, "invariant": 0.25}
    assert update["fuar"] == {"parent": {"value": 0.5, "lost": 0.125, "gained": 0.25}}
    assert (update["tokens"], update["lineage_tokens"], update["selected_fraction"]) == (50, 150, 0.6)
    assert base["stability_gap"] is None and base["fuar"] is None and base["probes"] == {"new": 0.5}
    plain = versions_measured(report() | {"probes": None, "stability_gap": {}})["update"]
    assert (plain["probes"], plain["fuar"], plain["stability_gap"]) == (None, None, None)


def test_a_report_in_both_units():
    own = report() | {
        "bits_per_byte_matrix": [[2.0, 4.0], [1.0, 3.0], [1.125, 2.5]],
        "in_bits_per_byte": {
            "change": {"base": {"prose": -1.0}, "update": {"prose": 0.125}},
            **{"acc": {"base": -2.0, "update": -1.8125}, "bwt": {"base": None, "update": -0.125}},
            "forgetting": {"update": {"mean": 0.125, "domains": {"prose": 0.125}}},
            "stability_gap": {
                "update": {
                    "tokens": [0, 20, 50],
                    "macro": [2.0, 2.25, 2.5],
                    "domains": {"prose": {"depth": 0.25, "recovery_tokens": None}},
                }
            },
        },
    }
    found = versions_measured(own)["update"]
    assert found["losses"] == {"prose": 4.5, "code": 5.0}
    assert found["in_bits_per_byte"] == {
        "losses": {"prose": 1.125, "code": 2.5},
        **{"change": {"prose": 0.125}, "acc": -1.8125, "bwt": -0.125, "forgetting": 0.125},
        "stability_gap": {
            "macro": {"depth": 0.5, "recovery_tokens": None},
            "domains": {"prose": {"depth": 0.25, "recovery_tokens": None}},
        },
    }
    # An earlier release knew nothing of them.
    assert versions_measured(report())["update"]["in_bits_per_byte"]["losses"] == {
        "prose": None,
        "code": None,
    }


def test_one_runs_mistake_does_not_hide_the_others(tmp_path, monkeypatch):
    def mistakes(recipe):
        assert recipe.directory == tmp_path  # where a sweep's data stands
        return [Problem("a.b", 3, "repeats too often")] if recipe.name == "d" else []

    monkeypatch.setattr("perdure.pipeline.run.sweep.gather.against_data", mistakes)
    runs = []
    for name in "abcde":
        directory = tmp_path / "runs" / name
        recipe = tiny_recipe(directory, name=name)
        runs.append(Run(name, {"seed": name}, {"seed": name}, None, recipe))
        record_data(recipe, {})
        (directory / "versions").mkdir()
    plan = SweepPlan("test", Sweep(recipe="test.yaml"), {}, tmp_path, runs)
    for run, places in version_places(plan).items():
        places["v1"].mkdir(parents=True, exist_ok=True)
        finish(places["v1"], {})
        (tmp_path / "runs" / run / "versions" / "v1").symlink_to(places["v1"])
    own = {"measured": measured_on(runs[0].recipe, {}), "unmeasured": []}
    update = report()["versions"][0] | {"id": "v1"}
    good = report() | {"versions": [update], "loss_matrix": [[8.0, 8.0], [4.0, 6.0]]} | own
    other = own["measured"] | {"max_tokens": 7}
    sizes = {"bytes_per_token": {"prose": 4.0, "code": 3.0}}
    write_json(tmp_path / "runs/a/report.json", good | sizes)
    (tmp_path / "runs/b/report.json").write_text("{")
    write_json(tmp_path / "runs/c/report.json", good | {"measured": other})
    write_json(tmp_path / "runs/e/report.json", good | {"unmeasured": ["v1"]})
    found = gather(plan, {"e": "killed"})
    assert [run["status"] for run in found["runs"]] == ["whole", *["started"] * 4]
    errors = [run["error"] for run in found["runs"]]
    assert errors[0] is None and errors[3:] == ["a.b = 3: repeats too often", "killed"]
    assert (
        "report.json: not readable as JSON" in errors[1] and "is not of this recipe's held-out" in errors[2]
    )
    # Numbers of other text are not shown, not even as those of a run that is not whole.
    assert found["runs"][0]["versions"]["v1"]["losses"] == {"prose": 4.0, "code": 6.0}
    assert found["runs"][2]["versions"]["v1"]["losses"] == {}
    assert found["unit"] == "bits_per_byte"  # a token of prose holds more than one of code
    table = sweep_table(found)
    assert "1 of 5 runs whole" in table and "\nd: a.b = 3: repeats too often\n" in table
