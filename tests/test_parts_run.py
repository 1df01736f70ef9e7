"""A whole recipe over topics: mixed, one after another, replayed, reweighted by their perplexity; a reference trained on
the recipe's own high-quality subset (RHO-1, step 1); a subset of lowest perplexity."""

from pathlib import Path

import numpy as np
import pytest
import yaml
from pyarrow import parquet
from run_recipe import RECIPE, perdure

from perdure.pipeline.core.files import read_json
from perdure.pipeline.core.remembered_hashes import VERIFIED
from tests.pipeline.data.subjects import SUBJECTS, text
from tests.pipeline.data.texts import write_jsonl

pytestmark = pytest.mark.slow

STEP = 64 * 8
SCHEDULE = {"type": "constant", "max_lr": 0.01, "warmup": 0}


def version(start: dict, steps: int, mixture: dict, **changes) -> dict:
    mixture = {"max_repetition": 50} | mixture
    return {"start": start, "tokens": STEP * steps, "schedule": SCHEDULE, "mixture": mixture} | changes


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The recipe's file, its directory and what the run said."""
    directory = tmp_path_factory.mktemp("topics")
    rows = [
        {"text": text(subject, number), "id": f"{subject}-{number}", "subject": subject}
        for number in range(40)
        for subject in SUBJECTS
    ]
    good = [{"text": text("sea", seed)} for seed in range(200, 240)]
    reader = {"type": "jsonl", "path": str(write_jsonl(directory / "in.jsonl", rows))}
    source = {"reader": reader, "clean": [], "heldout_fraction": 0.2}
    positive = str(write_jsonl(directory / "good.jsonl", good))
    versions = {
        "base": version(
            {"type": "init"},
            6,
            {"sources": {f"web/{subject}": {} for subject in SUBJECTS}, "domain_order": "similarity"},
        ),
        "reference": version({"type": "update", "parent": "base"}, 4, {"sources": {"good": {}}}),
        "update": version(
            {"type": "update", "parent": "base"},
            4,
            {
                "sources": {
                    "web/sea": {"order": "hard_to_easy", "buckets": 2, "lowest_perplexity": {"share": 0.5}},
                    "web/farm": {},
                },
                "perplexity_model": "base",
                "reweight": {"interval": 2 * STEP, "alpha": 0.5},
                "replay": {"share": 0.25, "from_parents": True},
            },
            selection={"k": 0.6, "reference": "reference"},
        ),
    }
    tree = RECIPE | {
        "sources": {
            "web": source | {"topics": {"type": "metadata", "field": "subject"}},
            "good": source | {"subset": {"type": "classifier", "positive": positive, "tokens": 2000}},
        },
        "tokenizer": {"type": "train", "vocab_size": 400, "sources": ["web"]},
        "versions": versions,
    }
    path, out = directory / "topics.yaml", directory / "out"
    path.write_text(yaml.safe_dump(tree, sort_keys=False))
    result = perdure("run", path, "--out", out)
    assert result.returncode == 0, result.stderr
    return path, out, result.stdout


def test_every_topic_is_measured_and_stands_in_the_report(finished):
    _, out, _ = finished
    domains = ["web", "good", "web/sea", "web/farm", "web/kitchen"]
    report = read_json(out / "report.json")
    assert report["domains"] == domains
    for row, name in enumerate(("base", "reference", "update"), start=1):
        measured = read_json(out / "versions" / name / "eval.json")["domains"]
        assert measured.keys() == set(domains)
        parts = [measured[f"web/{subject}"] for subject in SUBJECTS]
        assert sum(part["documents"] for part in parts) == measured["web"]["documents"] or (
            measured["web"]["tokens"] >= 1900  # `evaluation.max_tokens` cuts the whole source short
        )
        assert [measured[domain]["loss"] for domain in domains] == report["loss_matrix"][row]
    assert list(report["consumed"]["base"]) == ["web/sea", "web/farm", "web/kitchen"]
    # A third of the budget each, less the padding of what was read whole.
    assert all(STEP < tokens <= 2 * STEP for tokens in report["consumed"]["base"].values())
    assert sum(report["consumed"]["base"].values()) == report["versions"][0]["tokens"]
    assert report["versions"][1]["change"]["web/sea"] < 0  # the reference learned the sea
    assert (out / "report" / "index.html").read_text().count("web/kitchen") > 1


def test_domains_came_one_after_another_by_similarity(finished):
    _, out, _ = finished
    phases = read_json(out / "versions/base/plan/plan.json")["phases"]
    assert [phase["first_sample"] for phase in phases] == [0, 16, 32]
    assert [phase["reason"] for phase in phases] == ["domain"] * 3
    assert (
        phases[0]["counts"] == {"web/sea": 1} and 0 < phases[1]["divergence"] <= phases[2]["divergence"] < 1
    )


def test_a_reference_of_the_recipes_own_subset_selects(finished):
    _, out, stdout = finished
    (good,) = (out / "data").glob("good@*")
    rows = parquet.read_table(good / "docs.parquet").to_pylist()
    assert all(row["id"].startswith("sea") for row in rows if row["split"] == "train")
    record = read_json(out / "versions/update/version.json")
    assert record["selection"]["reference"] == "reference"
    counts = record["selection_counts"]
    assert counts["selected"] == pytest.approx(0.6 * counts["scored"], rel=0.01)
    assert "scored web with reference" in stdout or (out / "versions/update/passage.json").exists()


def test_the_subset_is_of_the_topics_lowest_perplexities(finished):
    path, out, stdout = finished
    (web,) = (out / "data").glob("web@*")
    entry = read_json(out / "versions/update/plan/plan.json")["sources"]["web/sea"]
    part = read_json(web / "parts" / entry["part"] / "manifest.json")
    documents = np.load(out / "versions/update/plan/web~sea.documents.npy")
    train = [row for row in parquet.read_table(web / "docs.parquet").to_pylist() if row["split"] == "train"]
    perplexities = parquet.read_table(web / "scores" / entry["scores"] / "docs.parquet")[
        "perplexity"
    ].to_numpy()
    sea = [number for number, row in enumerate(train) if row["topic"] == "sea"]
    taken = perplexities[documents]
    left = perplexities[[number for number in sea if number not in documents]]
    assert set(documents.tolist()) < set(sea) and taken.max() == part["max_perplexity"] <= left.min()
    half = len(documents) // 2
    assert taken[: half + len(documents) % 2].min() >= taken[half + len(documents) % 2 :].max()
    line = f"subset of web/sea: {len(documents)} documents, {part['taken']['tokens']:,} of {part['available']['tokens']:,}"
    assert line in stdout
    checked = perdure("check", path, "--out", out)
    assert line in checked.stdout
    # The order that the data decided is known by now.
    phases = read_json(out / "versions/base/plan/plan.json")["phases"]
    order = [f"{next(iter(phase['counts']))} after step {2 * n}" for n, phase in enumerate(phases)]
    assert f"one domain after another (similarity): {', '.join(order)}" in checked.stdout


def test_shares_of_topics_follow_their_perplexity_and_replay_keeps_its_own(finished):
    _, out, _ = finished
    (phase,) = read_json(out / "versions/update/version.json")["phases"]
    assert phase["perplexity"].keys() == {"web/sea", "web/farm"} and phase["reason"] == "reweight"
    whole = sum(phase["counts"].values())
    replayed = {key: count for key, count in phase["counts"].items() if key.startswith("replay/")}
    assert set(replayed) == {f"replay/web/{subject}" for subject in SUBJECTS}
    assert sum(replayed.values()) / whole == pytest.approx(1 / 6, abs=1e-3)  # a quarter of what is trained on
    before = {"web/sea": 0.5, "web/farm": 0.5}
    change = {key: phase["perplexity"][key] - phase["perplexity_before"][key] for key in before}
    raw = {key: 0.5 * (1 + 0.5 * change[key] / max(map(abs, change.values()))) for key in before}
    for key, value in raw.items():
        assert phase["counts"][key] / whole == pytest.approx(5 / 6 * value / sum(raw.values()), abs=1e-3)


def stamps_of(out: Path) -> dict[Path, int]:
    """When each file of the data was written, but for what remembers that they were compared with their hashes."""
    files = (file for file in out.glob("data/**/*") if file.is_file() and file.name != VERIFIED)
    return {file: file.stat().st_mtime_ns for file in files}


def test_running_again_changes_nothing(finished):
    path, out, _ = finished
    stamps = stamps_of(out)
    result = perdure("run", path, "--out", out)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("finished, skipped") == 3
    assert stamps == stamps_of(out)
