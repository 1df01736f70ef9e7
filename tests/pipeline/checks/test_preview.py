"""The preview's numbers are right."""

import json

import pytest

from perdure.pipeline.checks.mixture_table import moves_across
from perdure.pipeline.checks.preview import preview
from perdure.pipeline.cli.preview_text import plot, print_preview
from perdure.pipeline.recipe import Mixture, load_recipe
from tests.pipeline.checks.template import TEMPLATE

# ------------------------------------------------------------------------------------------ preview


def test_preview_of_the_template():
    data = preview(load_recipe(TEMPLATE))
    base, reference, update = data["versions"]
    assert (base["steps"], base["samples"], base["tokens"]) == (98, 98 * 16, 98 * 16 * 256)
    assert update["lineage_tokens"] == base["tokens"] + update["tokens"]
    assert reference["parent"] == "base"
    assert [(m["part"], m["source"], m["share"], m["order"]) for m in update["mixture"]] == [
        ("new", "code", 0.9375, "easy_to_hard"),
        ("replay", "prose", 0.0625, "shuffled"),  # of what is read: 0.1 of what is trained on, as k is 0.6
    ]
    assert (update["replay_share"], update["replay_share_trained"]) == (0.0625, pytest.approx(0.1))
    assert base["learning_rate"][0] == [0, 0.0]
    assert base["learning_rate"][-1] == [98, pytest.approx(1e-4)]
    steps = 98 + 25 + 98
    assert data["total"] == {"steps": steps, "tokens": steps * 4096, "steps_to_do": steps}
    assert json.loads(json.dumps(data)) == data


def test_what_replay_and_moving_shares_come_to_is_told(capsys):
    def told(*overrides):
        print_preview(preview(load_recipe(TEMPLATE, overrides)))
        return " ".join(capsys.readouterr().out.split())

    replay, rule = (
        "versions.update.mixture.replay",
        "versions.update.mixture.reweight={interval: 9, alpha: .1",
    )
    both = "versions.update.mixture.sources={prose: {}, code: {}}"
    assert "replay 6.2% of what is read, 10.0% of what is trained on" in told()
    assert "replay 10.0% of what is read, 15.6% of what is trained on" in told(f"{replay}.share_of=read")
    assert "of what is trained on" not in told("versions.update.selection.k=1")
    alone = told(both, f"{rule}}}")
    assert "note: shares move between code, prose, so that one may take most of another's" in alone
    grouped = told(both, f"{rule}, groups: {{all: [code, prose]}}}}")
    assert "inside groups, whose totals are fixed (all: prose, code)" in grouped and "note:" not in grouped


@pytest.mark.parametrize(
    ("sources", "across"),
    [
        (["web@zh/law", "web@zh/sea"], []),
        (["web@zh/law", "web@en/law"], ["en", "zh"]),
        (["web/law", "web/sea"], []),
        (["web/law", "news/law"], ["news", "web"]),
        (["web@zh", "news@en"], ["news", "web", "en", "zh"]),
    ],
)
def test_shares_that_would_move_between_sources_or_languages_are_named(sources, across):
    tree: dict = {"sources": {key: {} for key in sources}, "reweight": {"interval": 9, "alpha": 0.1}}
    assert moves_across(Mixture.model_validate(tree)) == across
    tree["reweight"]["groups"] = {"some": sources}
    assert moves_across(Mixture.model_validate(tree)) == []


def test_an_existing_model_keeps_its_own_vocabulary(llama):
    model = preview(load_recipe(TEMPLATE, [f"model={{type: huggingface, path: {llama}}}"]))["model"]
    assert (model["vocab_size"], model["padded_vocab_size"]) == (4096, 5120)


def test_plot():
    assert plot([0, 1, 2, 4], height=2) == ["   █", " ▄██"]
    assert plot([0.0, 0.0], height=1) == ["  "]
