"""What a sequence of domains leaves of each other, from reports made by hand."""

import pytest

from perdure.data_recipes.reproduce import sequence


def made_up(forgotten: float) -> dict:
    points = {"english": (4.0, 9.0, 9.0)}
    for arm in sequence.ARMS:
        rise = forgotten if arm == "plain" else 0.5
        points[f"{arm}_german"] = (4.0 + rise, 5.0, 9.0)
        points[f"{arm}_python"] = (4.0 + 2 * rise, 5.0 + rise, 3.0)
    return {
        "domains": ["english", "german", "python"],
        "versions": [{"id": name, "status": "finished"} for name in points],
        "loss_matrix": [[9.0] * 3, *(list(losses) for losses in points.values())],
    }


def test_drops_are_shares_of_the_loss_when_learned():
    report = made_up(1.0)
    assert sequence.path("l2") == ("english", "l2_german", "l2_python")
    assert sequence.drop(report, "plain", "english", 1) == pytest.approx(0.25)
    assert sequence.drop(report, "plain", "english", 2) == pytest.approx(0.5)
    assert sequence.drop(report, "plain", "german", 2) == pytest.approx(0.2)
    assert sequence.mean_end(report, "plain") == pytest.approx(5.0)
    rows = sequence.drop_table([report, made_up(2.0)]).splitlines()[2:]
    assert rows[0] == "| `plain` | +37.5% (17.7%) | +75.0% (35.4%) | +30.0% (14.1%) | 5.500 (0.707) |"


def test_claims_compare_arms_at_the_stage_that_they_name():
    found = {row[0]: row[-1] for row in sequence.claim_rows([made_up(1.0), made_up(0.25)])}
    assert found["`l2` forgets English less than `plain` after python"] == "in 1 of 2 seeds"
    assert found["`mol` forgets English less than `replay` after python"] == "not reproduced"


def test_the_picture_has_all_arms():
    svg = sequence.picture([made_up(1.0)], "bits per byte")
    assert all(f">{arm}<" in svg for arm in sequence.ARMS)


def test_arms_that_were_left_out_are_left_out_of_tables_and_claims():
    report = made_up(1.0)
    for entry in report["versions"]:
        if entry["id"] == "mol_python":
            entry["status"] = "waiting"
    assert sequence.arms([made_up(1.0), report]) == [arm for arm in sequence.ARMS if arm != "mol"]
    assert not any("mol" in row[0] for row in sequence.claim_rows([report]))
    assert "mol" not in sequence.drop_table([report]) and "mol" not in sequence.loss_table([report])
