"""Checks of scores: which need a reference, smoothing, windows."""

from tests.pipeline.checks.template import found


def test_scores_say_whether_they_need_a_reference():
    where = "versions.update.selection"
    assert found(f"{where}.score=random", f"{where}.reference=null") == {}
    remedy = "has no use with `score: highest_loss`, which needs no reference"
    assert found(f"{where}.score=highest_loss")[f"{where}.reference"] == ("reference", remedy)
    remedy = "required by `score: intersection`: an earlier version, or a model directory"
    assert found(f"{where}.score=intersection", f"{where}.reference=null")[f"{where}.reference"] == (
        None,
        remedy,
    )


def test_smoothing_is_for_scores_of_the_reference_alone():
    where = "versions.update.selection"
    assert found(f"{where}.score=reference_loss", f"{where}.smoothing=8") == {}
    (problem,) = found(f"{where}.smoothing=8").items()
    assert problem[0] == f"{where}.smoothing" and problem[1][0] == 8
    assert problem[1][1].startswith("has no use with `score: excess`: it averages what a reference says")


def test_windows_of_scoring_must_move_on():
    assert found("scoring.overlap=256")["scoring.overlap"] == (
        256,
        "should be below the context of 256 tokens",
    )
    assert found("scoring.overlap=255") == {}
