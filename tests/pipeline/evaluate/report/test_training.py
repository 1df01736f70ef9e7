from perdure.pipeline.evaluate.report.training import replay_shares
from tests.tiny import tiny_recipe


def test_steps_that_were_skipped_trained_on_no_replay(tmp_path):
    base = tiny_recipe(tmp_path).model_dump()["versions"]["v1"]
    mixture = {"sources": {"a": {}}, "replay": {"share": 0.25, "sources": {"b": {}}}}
    later = base | {"start": {"type": "update", "parent": "v1"}, "mixture": mixture}
    recipe = tiny_recipe(tmp_path, versions={"v1": base, "v2": later})
    steps = {
        1: {"trained_tokens": 100, "replayed_tokens": 25},
        2: {"trained_tokens": 100, "replayed_tokens": 100, "skipped": "skipped"},
        3: {"trained_tokens": 100, "replayed_tokens": 35, "skipped": None},
    }
    shares = replay_shares(recipe.versions["v2"], None, steps)
    assert shares is not None and shares["measured"] == 60 / 200
