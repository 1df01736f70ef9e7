"""The frontier of old and new loss, and the claims held against it, from reports made by hand."""

import pytest

from perdure.data_recipes.reproduce import claims, frontier
from perdure.data_recipes.reproduce.claims import LINE


def made_up(shift: float = 0.0, **changed: tuple[float, float]) -> dict:
    """A report whose merges lie on old = 5 + s^2, new = 5 + (1 - s)^2, with s the share of the update."""
    points = {name: (5 + (1 - i / 10) ** 2 + shift, 5 + (i / 10) ** 2 + shift) for i, name in enumerate(LINE)}
    for version in (name for family in frontier.FAMILIES.values() for name in family):
        points.setdefault(version, (5.5 + shift, 5.5 + shift))
    points |= changed
    return {
        "domains": ["english", "german"],
        "versions": [
            {
                "id": name,
                "status": "finished",
                "seconds": 0.0 if name.startswith("parent") else 10.0 * (1 + (name == "kl_all")),
            }
            for name in points
        ],
        "loss_matrix": [[9.0, 9.0], *([old, new] for old, new in points.values())],
    }


def test_distances_from_the_line_of_merges_are_taken_at_equal_old_loss():
    report = made_up(
        mol_5=(5.25, 5.0),
        l2_1=(5.25, 5.5),
        l2_10=(4.9, 5.0),
        lora_4=(7.0, 5.2),
        kl_all=(5.205, 5.4),
    )
    assert claims.above_line(report, "parent_50") == pytest.approx(0)
    assert claims.above_line(report, "mol_5") == pytest.approx(-0.25)
    assert claims.above_line(report, "l2_1") == pytest.approx(0.25)
    assert claims.above_line(report, "l2_10") is None  # no merge forgets so little
    assert claims.above_line(report, "lora_4") == pytest.approx(0.2)  # the plain update is as good on the old
    # Between two merges: (5.16, 5.36) and (5.25, 5.25), half of the way.
    assert claims.above_line(report, "kl_all") == pytest.approx(5.4 - 5.305)


def test_shares_kept_and_undone():
    report = made_up()
    assert claims.kept(report, "parent_20") == pytest.approx(0.96)
    assert claims.undone(report, "parent_20") == pytest.approx(0.36)
    assert (claims.kept(report, "base"), claims.undone(report, "base")) == (0, 1)
    assert (claims.kept(report, "plain"), claims.undone(report, "plain")) == (1, 0)


def test_convex_lines_lie_below_their_chords():
    assert claims.is_convex([(0, 1), (1, 0.3), (2, 0)])
    assert not claims.is_convex([(0, 1), (1, 0.6), (2, 0)])
    assert not claims.is_convex([(0, 1), (1, 0.3), (2, 0), (3, -1)])


def test_every_claim_is_held_against_every_seed():
    def verdicts(reports: list[dict]) -> dict[str, str]:
        return {row[0]: row[-1] for row in claims.claim_rows(reports)}

    good, bad = made_up(0.1, mol_5=(5.4, 5.6)), made_up(0.2, mol_5=(5.9, 5.6), parent_20=(5.7, 9.0))
    found = verdicts([good, bad])
    assert found["along the line the old loss rises and the new one falls, step by step"] == "in 1 of 2 seeds"
    assert found["MoL forgets no more than cross entropy at 5% of replay"] == "in 1 of 2 seeds"
    assert found["L2 lies inside the frontier of merging"] == "reproduced"
    assert verdicts([good])["the line is convex"] == "reproduced"
    assert verdicts([good])["LoRA forgets less than training all weights"] == "reproduced"
    strong = made_up(l2_1=(5.9, 5.1), l2_10=(5.8, 5.05), l2_100=(5.7, 5.3))
    assert verdicts([strong])["L2: a weaker pull forgets more"] == "reproduced"
    assert verdicts([strong])["L2: a weaker pull learns more"] == "not reproduced"
    assert verdicts([bad])["a fifth of the parent keeps most of what was learned"] == "not reproduced"
    # All of the made-up trained arms are one point.
    assert verdicts([good])["the old loss falls with every step of replay"] == "not reproduced"


def test_the_table_has_every_version_once_and_the_time_as_a_share_of_the_plain_update():
    rows = frontier.loss_table([made_up(), made_up(0.1)], {"plain": 100, "l2_1": 133}).splitlines()[2:]
    cells = {row.split(" | ")[0].strip("| `"): row.split(" | ") for row in rows}
    assert list(cells)[:3] == ["base", "plain", "parent_10"] and len(rows) == len(cells)
    assert cells["kl_all"][6].strip(" |") == "2.00 (0.00)"
    assert cells["parent_50"][6].strip(" |") == "-"
    assert [cells[name][7].strip(" |") for name in ("plain", "l2_1", "kl_all")] == ["1.00", "1.33", "-"]
    assert cells["plain"][1:4] == ["6.050 (0.071)", "5.050 (0.071)", "+1.000 (0.000)"]


def test_the_picture_names_every_method():
    svg = frontier.picture([made_up(), made_up(0.1)], "nats per token")
    for family in frontier.FAMILIES:
        assert f">{family}<" in svg
    assert "forgotten: old loss, less that of base (nats per token)" in svg
    for note in ("base", "plain", "20", "50", "80", "1e4", "32"):
        assert f">{note}<" in svg
    assert frontier.notes_of("replay", frontier.FAMILIES["replay"]) == ["", "5", "25"]


def test_the_picture_compares_each_seed_with_its_own_parent_and_plain_update():
    """Shifts that a seed's versions share leave no trace: bars show how methods vary, not how seeds do."""
    one, other = (
        frontier.picture([made_up(), made_up(0.1)], "nats"),
        frontier.picture([made_up(), made_up(0.3)], "nats"),
    )
    assert one == other
    assert one != frontier.picture([made_up(), made_up(kl_all=(5.2, 5.3))], "nats")


def test_the_state_of_a_version_is_the_size_of_its_last_checkpoint(tmp_path):
    for seed, version, step, size in (
        (1, "plain", 50, 7),
        (1, "plain", 100, 3),
        (2, "plain", 100, 9),
        (1, "base", 0, 0),
    ):
        run = tmp_path / "runs" / f"seed={seed}"
        step_path = run / "versions" / version / "checkpoints" / f"step_{step:06d}"
        step_path.mkdir(parents=True)
        (run / "report.json").touch()
        (run / "versions" / version / "inputs.json").touch()
        if size:
            (step_path / "__0_0.distcp").write_bytes(b"x" * size)
            (step_path / "_SUCCESS").touch()
    assert frontier.state_sizes(tmp_path) == {"plain": 3}


def test_arms_that_were_left_out_are_left_out_of_tables_claims_and_picture():
    whole, part = [made_up(), made_up(0.1)], [made_up(), made_up(0.1)]
    for report in part:
        for entry in report["versions"]:
            if entry["id"] in ("lora_4", "mol_25", "parent_blocks"):
                entry["status"] = "waiting"
    names = {row[0] for row in claims.claim_rows(whole)} - {row[0] for row in claims.claim_rows(part)}
    assert names == {
        "LoRA lies inside the frontier of merging",
        "LoRA forgets less than training all weights",
        "LoRA learns less than training all weights",
        "LoRA: a higher rank forgets more",
        "LoRA: a higher rank learns more",
        "MoL forgets no more than cross entropy at 25% of replay",
        "a share for each block is better than one share",
    }
    svg = frontier.picture(part, "nats per token")
    assert ">LoRA<" not in svg and ">KL on all<" in svg
    assert "lora_32" not in frontier.loss_table(part, {"plain": 1})
