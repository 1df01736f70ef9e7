"""Versions that differ in one thing alone: which they are, and that no more is claimed than documents show."""

from copy import deepcopy

import numpy as np
import pyarrow as pa
import pytest
import yaml

from perdure.pipeline.evaluate.documents import DOCUMENTS, write_tables
from perdure.pipeline.evaluate.report.formats import loss_table
from perdure.pipeline.evaluate.report.ledger_lines import ledger_lines
from perdure.pipeline.evaluate.report.page import render_page
from perdure.pipeline.evaluate.report.siblings import findings, pairs
from perdure.pipeline.evaluate.report.summary import summarize
from perdure.pipeline.recipe import Recipe

ALL = ["base", "reference", "update", "control"]


@pytest.mark.parametrize(
    ("path", "value", "found"),
    [
        ("selection", None, ("selection", "update", "twin", True)),
        ("selection.k", 1.0, ("selection", "update", "twin", True)),
        ("selection.k", 0.3, ("selection", "twin", "update", False)),
        ("mixture.replay", None, ("replay", "update", "twin", True)),
        ("mixture.replay.share", 0.5, ("replay", "twin", "update", False)),
        ("mixture.sources", {"code": {}}, ("order", "update", "twin", True)),
        ("mixture.sources", {"code": {"order": "given"}}, ("order", "twin", "update", False)),
        ("mixture.reweight", {"interval": 9, "alpha": 0.1}, ("reweight", "twin", "update", True)),
        ("keep", [5], None),
        ("tokens", 900_000, None),
        ("mixture.sources", {"code": {"order": "easy_to_hard", "weight": 2.0}}, None),
        ("mixture.sources", {"code": {"order": "easy_to_hard"}, "clean": {}}, None),
        ("weight_decay", 0.5, None),
        ("schedule.max_lr", 0.5, None),
        ("start.moments", "keep", None),
    ],
)
def test_which_versions_are_siblings(recipe, path, value, found):
    tree = recipe.model_dump(mode="json")
    twin = deepcopy(tree["versions"]["update"])
    node = twin
    *parents, last = path.split(".")
    for key in parents:
        node = node[key]
    node[last] = value
    tree["versions"] = {name: tree["versions"][name] for name in ("base", "reference", "update")}
    made = Recipe.model_validate(tree | {"versions": tree["versions"] | {"twin": twin}})
    answer = [
        (pair.by, pair.version, pair.against, pair.plain)
        for pair in pairs(dict.fromkeys(made.versions, made))
    ]
    assert answer == ([] if found is None else [found])
    # Two that were made under other settings are no siblings.
    other = made.model_copy(update={"seed": 7})
    assert pairs({"update": made, "twin": other}) == []


def test_two_that_differ_in_two_things_say_nothing_of_either(recipe):
    tree = recipe.model_dump(mode="json")
    twin = deepcopy(tree["versions"]["update"])
    twin["mixture"]["replay"] = twin["selection"] = None
    tree["versions"] = {name: tree["versions"][name] for name in ("base", "reference", "update")}
    made = Recipe.model_validate(tree | {"versions": tree["versions"] | {"twin": twin}})
    assert pairs(dict.fromkeys(made.versions, made)) == []
    # Between them one that differs from each in one thing alone.
    middle = twin | {"selection": tree["versions"]["update"]["selection"]}
    made = Recipe.model_validate(tree | {"versions": tree["versions"] | {"twin": twin, "middle": middle}})
    found = [(pair.by, pair.version, pair.against) for pair in pairs(dict.fromkeys(made.versions, made))]
    assert sorted(found) == [("replay", "update", "middle"), ("selection", "middle", "twin")]


def write_documents(recipe: Recipe, losses: dict[str, dict[str, list[float]]]) -> None:
    """Tables of documents of ten tokens each, with mean losses by version (`initial` is of the first) and domain."""
    for name, domains in losses.items():
        rows = [
            {"domain": domain, "tokens": 10, "bytes": 40, "topic": None, "language": None}
            | {"loss": 10 * loss, "separator_loss": 0.0}
            for domain, each in domains.items()
            for loss in each
        ]
        place = recipe.directory / "versions" / name / "eval_documents.parquet"
        write_tables(place, [pa.Table.from_pylist(rows, DOCUMENTS)])


@pytest.fixture
def with_documents(recipe, run):
    """The made-up run, measured on ten documents of prose and of code that agree, and four of `clean`."""
    data = run(recipe, ALL)
    step = np.linspace(0, 0.9, 10)
    level = {"base": (4.5, 6.0), "reference": (4.75, 6.25), "update": (4.625, 4.5), "control": (5.5, 4.375)}
    wobble = np.array([0.5, -0.5] * 5)
    losses = {
        name: {
            "prose": [prose + step[i] for i in range(10)],
            "clean": [4.0] * 4,
            "code": [code + step[i] + (wobble[i] if name == "control" else 0) for i in range(10)],
        }
        for name, (prose, code) in level.items()
    }
    write_documents(recipe, losses)
    return recipe, data


def test_what_is_claimed_has_an_interval_that_leaves_out_0(with_documents):
    report = summarize(*with_documents)
    (pair,) = report["siblings"]
    assert (pair["by"], pair["version"], pair["against"], pair["plain"]) == (
        "replay",
        "update",
        "control",
        True,
    )
    prose, code = pair["domains"]["prose"], pair["domains"]["code"]
    # Every document of prose differs by the same: so does every draw.
    assert (prose["difference"], prose["documents"], prose["within_noise"]) == (-0.875, 10, False)
    assert prose["interval"] == pytest.approx([-0.875, -0.875])
    # Of code, single documents differ by -0.375 and 0.625: the mean, 0.125, is within the noise.
    random = np.random.default_rng([recipe_seed(report) + 2, 10])
    each = np.array([0.125 - 0.5 if i % 2 == 0 else 0.125 + 0.5 for i in range(10)])
    means = random.multinomial(9, np.full(10, 1 / 10), 1000) @ each / 9
    assert code["interval"] == pytest.approx(list(np.quantile(means, [0.025, 0.975])))
    assert code["within_noise"] and code["interval"][0] < 0 < code["interval"][1]
    assert not pair["domains"]["clean"]["shown"] and pair["domains"]["clean"]["within_noise"]
    low, high = (f"{bound:+.3f}".replace("-", "\N{MINUS SIGN}") for bound in code["interval"])
    assert report["findings"] == [
        "Replay (update; without it: control), nats per token: prose ends 0.875 lower (\N{MINUS SIGN}0.875 to "
        f"\N{MINUS SIGN}0.875); within the noise: code ({low} to {high}). Replay avoided 87.5% of the forgetting on prose."
    ]


def test_sentences_are_in_the_reports_unit(with_documents):
    report = summarize(*with_documents)
    sizes = {"prose": 4.0, "clean": 4.0, "code": 2.0}
    (nats,) = findings(report)
    (bits,) = findings(report | {"unit": "bits_per_byte", "bytes_per_token": sizes})
    assert "nats per token: prose ends 0.875 lower" in nats
    # 0.875 / (4 ln 2) = 0.316; the avoided share is a ratio.
    assert "bits per byte: prose ends 0.316 lower (\N{MINUS SIGN}0.316 to \N{MINUS SIGN}0.316)" in bits
    assert bits.endswith("Replay avoided 87.5% of the forgetting on prose.")


def test_means_and_metrics_stand_beside_their_intervals(with_documents):
    report = summarize(*with_documents)
    spans = report["intervals"]["metrics"]["update"]
    # `prose`, the one domain that was learned before, rose by 0.125 in every document.
    assert spans["bwt"] == pytest.approx([-0.125, -0.125]) and spans["forgetting"] == pytest.approx(
        [0.125] * 2
    )
    assert spans["acc"][0] < spans["acc"][1] and spans["fwt"] is None
    in_bits = report["intervals"]["metrics_bits_per_byte"]["update"]["bwt"]
    assert in_bits == pytest.approx([-0.125 / (4 * np.log(2))] * 2)
    page = render_page(report)
    row = page.partition("along each version&#39;s path")[2].partition('<th scope="row">update</th>')[2]
    low, high = (f"{bound:+.3f}".replace("-", "\N{MINUS SIGN}") for bound in spans["acc"])
    assert f">{low} to {high}</span>" in row.partition("</tr>")[0]
    low, high = report["intervals"]["macro_bits_per_byte"][3]
    cells = page.partition('<table class="heat">')[2].partition('<th scope="row">update</th>')[2]
    assert f">{low:.3f} to {high:.3f}</span>" in cells.partition("</tr>")[0]
    table = loss_table(report).partition("bits per byte (")[2].splitlines()
    assert table[2].endswith("mean  95% of resamples")
    line = next(line for line in table if line.startswith("update"))
    assert line.endswith(f"{low:.3f} to {high:.3f}")
    # A page in bits per byte has intervals in bits per byte.
    page = render_page(report | {"unit": "bits_per_byte"})
    row = page.partition("along each version&#39;s path")[2].partition('<th scope="row">update</th>')[2]
    assert "\N{MINUS SIGN}0.045 to \N{MINUS SIGN}0.045" in row.partition("</tr>")[0]


def recipe_seed(report: dict) -> int:
    return yaml.safe_load(report["recipe"])["seed"]


def test_a_domain_that_was_never_shown_is_no_finding(with_documents):
    report = summarize(*with_documents)
    assert report["shown"]["base"] == ["prose"] and report["shown"]["update"] == ["prose", "code"]
    gap = {"depth": 0.762, "recovery_tokens": None, "worst_tokens": 100, "start": 1.0, "worst": 1.762}
    report["stability_gap"] = {"update": {"domains": {"clean": gap, "prose": gap}}}
    told = [line for line in ledger_lines(report) if "0.762" in line]
    assert len(told) == 1 and "on prose rose by 0.762" in told[0]
    report["stability_gap"] = {}
    card = render_page(report).partition("<h3>control</h3>")[2].partition("</article>")[0]
    rows = card.split("<tr")[1:]
    assert "worse" in rows[0] and "not shown" in rows[1] and "worse" not in rows[1]
    assert 'style="background:transparent"' in rows[1]


def siblings_in(tree: dict) -> list[tuple]:
    recipe = Recipe.model_validate(tree)
    return [
        (pair.by, pair.version, pair.against, pair.plain)
        for pair in pairs(dict.fromkeys(recipe.versions, recipe))
    ]


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("tokens",), 799_000),
        (("start", "moments"), "keep"),
        (("start",), {"type": "branch", "parent": "base", "step": 5}),
        (("selection", "k"), 0.5),
        (("schedule", "max_lr"), 1e-3),
        (("weight_decay",), 0.2),
        (("mixture", "sources"), {"code": {}, "clean": {}}),
        (("mixture", "switches"), [{"at": 0.5, "sources": {"clean": {}}}]),
        (("mixture", "reweight"), {"interval": 1000, "alpha": 0.1}),
        (("mixture", "domain_order"), "given"),
        (("mixture", "max_repetition"), 2.0),
        (("mixture", "perplexity_model"), None),
    ],
)
def test_versions_that_differ_in_more_than_replay_are_not_compared(report, place, value):
    tree = yaml.safe_load(report["recipe"])
    node = tree["versions"]["control"]
    for key in place[:-1]:
        node = node[key]
    assert node[place[-1]] != value
    node[place[-1]] = value
    assert siblings_in(tree) == []


def test_shares_and_order_of_new_sources_are_more_than_replay(report):
    tree = yaml.safe_load(report["recipe"])

    def findings(domain_order, update, control):
        for name, sources in (("update", update), ("control", control)):
            mixture = tree["versions"][name]["mixture"]
            mixture["domain_order"] = domain_order
            mixture["sources"] = {source: {"weight": weight} for source, weight in sources.items()}
        return siblings_in(tree)

    both = {"code": 1.0, "clean": 3.0}
    assert findings(None, both, both) != [] and findings("given", both, both) != []
    assert findings(None, both, {"clean": 3.0, "code": 1.0}) != []
    assert findings("given", both, {"clean": 3.0, "code": 1.0}) == []
    assert findings(None, both, {"code": 1.0, "clean": 1.0}) == []


def test_checkpoints_that_are_kept_decide_nothing(report):
    tree = yaml.safe_load(report["recipe"])
    tree["versions"]["control"]["keep"] = [5]
    assert siblings_in(tree) == [("replay", "update", "control", True)]
