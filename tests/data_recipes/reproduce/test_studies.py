"""Tables of the studies from reports made by hand."""

import pytest

from perdure.data_recipes.reproduce import order, replay, slices, studies, topics
from perdure.pipeline.core.files import write_json
from perdure.pipeline.evaluate.report.figures import Axis, line_chart


def test_means_and_tables():
    assert studies.mean_and_sd([1.0, 2.0, 3.0]) == "2.000 (1.000)"
    assert studies.mean_and_sd([None, 0.25], "{:.2f}") == "0.25 (1 of 2)"
    assert studies.mean_and_sd([None, 0.0, 2.0], "{:.1f}") == "1.0 (1.4; 2 of 3)"
    assert studies.mean_and_sd([0.5]) == "0.500"
    assert studies.mean_and_sd([-1.0, -3.0], "{:+.1f}") == "-2.0 (1.4)"
    assert studies.mean_and_sd([None]) == "-"
    assert studies.table(["a", "b"], [["1", "2"]]) == "| a | b |\n| --- | --- |\n| 1 | 2 |\n"
    with pytest.raises(SystemExit, match="no runs"):
        studies.reports(studies.Path("nowhere"))


def test_a_sweep_with_a_run_that_is_not_done_is_refused(tmp_path):
    """Means over the seeds that are there would pass for those of all."""
    for run in ("seed=1", "seed=2"):
        (tmp_path / "runs" / run).mkdir(parents=True)
        write_json(tmp_path / "runs" / run / "report.json", {})
    assert len(studies.reports(tmp_path)) == 2
    runs = [{"directory": f"runs/seed={seed}"} for seed in (1, 2, 3)]
    write_json(tmp_path / "sweep.json", {"runs": runs})
    with pytest.raises(SystemExit, match="no report of seed=3 yet"):
        studies.reports(tmp_path)
    (tmp_path / "sweep.json").unlink()
    (tmp_path / "runs" / "seed=2" / "report.json").unlink()
    with pytest.raises(SystemExit, match="no report of seed=2 yet"):
        studies.reports(tmp_path)


def test_losses_at_the_turn_of_a_domain_and_what_was_forgotten_since():
    loss = {"new/a": [5, 2, 4], "new/b": [6, 5.5, 3], "english": [1, 2, 3]}
    phases = [
        {"after_step": 0, "shares": {"new/a": 0.0, "new/b": 1.0}},
        {"after_step": 10, "shares": {"new/a": 1.0, "new/b": 0.0}},
    ]
    report = {
        "domains": list(loss),
        "versions": [{"id": "base"}, {"id": "x", "phases": phases}],
        "loss_matrix": [[9, 9, 9], [5, 6, 1], [4, 3, 3]],
        "stability_gap": {"x": {"steps": [0, 10, 20], "loss": loss}},
    }
    assert order.turns(report, "x") == [("new/b", 0, 1), ("new/a", 1, 2)]
    assert order.by_turn(report, "x") == {"before": 4, "after": 4.75, "forgotten": -2.5}
    assert order.macro(report, "x") == 3.5
    assert order.macro_curve([report], "x").mean == [5.5, 3.75, 3.5]


def test_losses_over_topics_by_the_shares_of_the_corpus():
    phases = [{"after_tokens": 0, "shares": {"new/a": 0.75, "new/b": 0.25}}]
    report = {
        "domains": ["general", "new/a", "new/b"],
        "versions": [{"id": "base"}, {"id": "fixed", "phases": phases}],
        "loss_matrix": [[9, 9, 9], [5, 6, 7], [5.5, 4, 6]],
    }
    assert topics.summary(report, "fixed") == {
        "mean": 5,
        "by shares": 4.5,
        "worst": 6,
        "least gain": 1,
        "largest gain": 2,
        "old domain": 5.5,
    }


def test_fuar_of_all_updates_and_accuracy_on_what_was_told():
    def of(invariant: float, dates: dict[str, float]) -> dict:
        by_date = {date: {"items": 2, "accuracy": value} for date, value in dates.items()}
        changed = {"accuracy": sum(dates.values()) / len(dates), "by_date": by_date}
        kept = {"accuracy": invariant, "by_date": {"2021": {"items": 2, "accuracy": invariant}}}
        return {"probes.jsonl": {"invariant": kept, "updated": changed, "new": changed}}

    report = {
        "versions": [{"id": "v2021"}, {"id": "none_2024"}],
        "probes": {
            "scores": [
                {},
                of(0.75, {"2022": 0.0, "2023": 0.5}),
                of(0.5, {"2022": 0.5, "2023": 1.0}),
            ]
        },
    }
    found = slices.over_all_updates(report, "none_2024")
    assert (found["lost"], found["gained"], found["value"]) == (0.25, 1.0, 0.25)
    assert slices.told(report, "none_2024", "2022", "new") == 0.5
    assert slices.told(report, "none_2024", "2024", "new") == 0.75
    assert slices.told(report, "none_2024", "2021", "new") is None


def test_losses_by_the_share_of_replay_beside_the_published_ones():
    reports = [
        {
            "domains": ["english", "german"],
            "versions": [{"id": name} for name in ("base", "replay_0", "replay_0_5", "replay_50")],
            "loss_matrix": [[9, 9], [5, 8], [6 + seed, 5], [5.5 + seed, 5.25], [5, 6]],
        }
        for seed in (0, 1)
    ]
    assert replay.shares(reports[0]) == {0: "replay_0", 0.5: "replay_0_5", 50: "replay_50"}
    assert replay.comparison(reports, "nats per token").splitlines()[2:] == [
        "| 0% | 6.500 (0.707) |  | 5.000 (0.000) |  | 3.56 | 1.11 |",
        "| 0.5% | 6.000 (0.707) | -0.500 | 5.250 (0.000) | +0.250 |  |  |",
        "| 50% | 5.000 (0.000) | -1.500 | 6.000 (0.000) | +1.000 | 2.24 | 1.22 |",
    ]
    # Published losses are per token: they do not stand beside bits per byte.
    assert (
        replay.comparison(reports, "bits per byte").splitlines()[-1]
        == "| 50% | 5.000 (0.000) | -1.500 | 6.000 (0.000) | +1.000 |"
    )


def test_two_languages_come_in_bits_per_byte_first():
    nats, bits = [[9.0, 9.0], [5.0, 8.0]], [[3.0, 4.0], [1.5, 3.5]]
    report = {
        **{"domains": ["english", "german"], "versions": [{"id": "base", "change": {}}], "loss_matrix": nats},
        **{"bits_per_byte_matrix": bits, "stability_gap": {"base": "in nats"}, "kept": 1},
        "in_bits_per_byte": {"change": {"base": {}}, "stability_gap": {"base": "in bits"}},
        "bytes_per_token": {"english": 4.0, "german": 3.0},
    }
    (first, own), (second, other) = studies.in_units([report])
    assert (first, second) == ("bits per byte", "nats per token")
    assert studies.losses(own[0], "base") == {"english": 1.5, "german": 3.5} and own[0]["kept"] == 1
    assert studies.losses(other[0], "base") == {"english": 5.0, "german": 8.0}
    assert (own[0]["stability_gap"], other[0]["stability_gap"]) == ({"base": "in bits"}, {"base": "in nats"})
    alike = report | {"bytes_per_token": {"english": 4.0, "german": 4.0}}
    assert [unit for unit, _ in studies.in_units([alike])] == ["nats per token", "bits per byte"]
    # Nor are runs of other tokenizers compared by tokens.
    one, two = ({"data": {"english": {"tokenizer_hash": name}}} for name in "ab")
    assert studies.in_units([alike | one, alike | two])[0][0] == "bits per byte"
    assert studies.in_units([alike | one, alike | one])[0][0] == "nats per token"


def test_a_page_gets_its_tables_between_its_marks_and_its_pictures_beside_it(tmp_path):
    page = tmp_path / "page.md"

    def written(losses: str, claims: str, pictures: str) -> str:
        parts = {"losses": losses, "claims": claims, "pictures": pictures}
        return "before\n" + "between\n".join(
            f"<!-- {name} -->\n{text}<!-- end -->\n" for name, text in parts.items()
        )

    page.write_text(written("old\n", "", ""))
    drawn = line_chart([1], [studies.Line("a", [1.0])], Axis("y"), "Loss")
    for text in ("| 1 |\n", "| 2 \\1 |\n"):
        studies.write_page(page, {"losses": text, "claims": "c"}, {"drawn": drawn})
    assert page.read_text() == written("| 2 \\1 |\n", "c\n", "![Loss](drawn.svg)\n")
    assert (tmp_path / "drawn.svg").read_text().startswith("<svg")
    studies.write_page(page, {"claims": "d"}, {})
    assert page.read_text() == written("| 2 \\1 |\n", "d\n", "![Loss](drawn.svg)\n")
    with pytest.raises(SystemExit, match="no part between `<!-- costs -->`"):
        studies.write_page(page, {"costs": "x"}, {})


def test_a_verdict_says_with_how_many_seeds_a_claim_held():
    assert studies.verdict([True, True, True]) == "reproduced"
    assert studies.verdict([True, False, True]) == "in 2 of 3 seeds"
    assert studies.verdict([False, False]) == "not reproduced"
    row = studies.claim_row("c", "s", [False, True], [("mean", [1.0, 3.0])], "{:.1f}")
    assert row == ["c", "s", "mean 2.0 (1.4)", "in 1 of 2 seeds"]
