"""Topics from metadata, a classifier and clusters: what stands in `docs.parquet`, what is counted, what is refused."""

import json

import pyarrow.parquet as pq
import pytest

from perdure.pipeline.core.errors import PerdureError
from perdure.pipeline.core.files import read_json
from perdure.pipeline.data.identity import WORDS as WORDS_VERSION
from perdure.pipeline.data.stage import run_data
from tests.pipeline.data.subjects import SUBJECTS, labelled, text
from tests.pipeline.data.texts import write_jsonl


@pytest.fixture
def make(make_recipe, tmp_path):
    """A recipe over 60 documents on three subjects, with `topics`."""

    def make(topics: dict, tasks: int = 2, fields=lambda subject: {"subject": subject}, **options):
        rows = [
            {"text": text(subject, number), "id": f"{subject}-{number}"} | fields(subject)
            for number in range(20)
            for subject in SUBJECTS
        ]
        reader = {"type": "jsonl", "path": str(write_jsonl(tmp_path / "in.jsonl", rows))}
        return make_recipe({"news": reader}, tasks=tasks, topics=topics, **options)

    return make


def topics_of(directory) -> dict[str, str]:
    return {row["id"]: row["topic"] for row in pq.read_table(directory / "docs.parquet").to_pylist()}


def test_topics_from_metadata_are_counted_by_split(make, said):
    directory = run_data(make({"type": "metadata", "field": "subject"}))["news"]
    assert topics_of(directory) == {f"{s}-{n}": s for s in SUBJECTS for n in range(20)}
    counts = read_json(directory / "manifest.json")["counts"]
    assert list(counts["topics"]) == sorted(SUBJECTS)
    for split in ("train", "heldout"):
        for unit in ("documents", "tokens"):
            assert sum(topic[split][unit] for topic in counts["topics"].values()) == counts[split][unit]
    assert "news: 3 topics: farm 20, kitchen 20, sea 20" in said


def test_labels_are_mapped_and_one_that_nobody_mapped_is_refused(make):
    mapping = {"sea": "out", "farm": "out", "kitchen": "home"}
    found = topics_of(run_data(make({"type": "metadata", "field": "subject", "map": mapping}))["news"])
    assert found == {f"{s}-{n}": mapping[s] for s in SUBJECTS for n in range(20)}
    recipe = make({"type": "metadata", "field": "subject", "map": {"sea": "farm"}})
    message = r"sources.news.topics.map: labels that nobody mapped: 'farm' \(20 documents\), 'kitchen' \(20 documents\)"
    with pytest.raises(PerdureError, match=message):
        run_data(recipe)


def test_a_field_that_no_document_has_is_refused(make):
    with pytest.raises(PerdureError, match=r"sources.news.topics.field = 'topic': no document has this"):
        run_data(make({"type": "metadata", "field": "topic"}))


def test_documents_without_the_field_are_unlabelled(make):
    recipe = make(
        {"type": "metadata", "field": "subject"}, fields=lambda s: {} if s == "sea" else {"subject": s}
    )
    found = topics_of(run_data(recipe)["news"])
    assert {found[f"sea-{n}"] for n in range(20)} == {"unlabelled"}


def test_a_classifier_labels_and_says_how_often_it_is_right(make, tmp_path):
    topics = {"type": "classifier", "labelled": labelled(tmp_path / "labelled.jsonl"), "min_accuracy": 0.9}
    directory = run_data(make(topics))["news"]
    assert topics_of(directory) == {f"{s}-{n}": s for s in SUBJECTS for n in range(20)}
    manifest = read_json(next((tmp_path / "out" / "topics").glob("news@*")) / "manifest.json")
    assert manifest["accuracy"] == 1.0 and manifest["majority"] < 0.6 and manifest["measured_on"] >= 10


def test_a_classifier_that_is_not_accurate_enough_is_refused(make, tmp_path):
    topics = {"type": "classifier", "labelled": labelled(tmp_path / "labelled.jsonl", wrong=1.0)}
    with pytest.raises(
        PerdureError, match=r"topics.min_accuracy = 0.8: the classifier is right on 0\.\d+ of \d+"
    ):
        run_data(make(topics))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"text": "x", "label": "sea"}], "line 1 should be JSON with `text` and `topic` as text"),
        ([{"text": text("sea", 1), "topic": "sea"}], "1 labelled texts are too few"),
    ],
)
def test_labelled_texts_that_cannot_be_used(make, tmp_path, rows, message):
    path = write_jsonl(tmp_path / "labelled.jsonl", rows)
    with pytest.raises(PerdureError, match=message):
        run_data(make({"type": "classifier", "labelled": str(path)}))


def test_clusters_are_the_subjects_and_show_their_words(make, tmp_path, said):
    directory = run_data(make({"type": "cluster", "num_clusters": 3}))["news"]
    found = topics_of(directory)
    by_subject = {subject: {found[f"{subject}-{n}"] for n in range(20)} for subject in SUBJECTS}
    assert all(len(clusters) == 1 for clusters in by_subject.values())
    assert len(set.union(*by_subject.values())) == 3
    manifest = read_json(next((tmp_path / "out" / "topics").glob("news@*")) / "manifest.json")
    assert manifest["words"] == WORDS_VERSION
    for subject, (cluster,) in by_subject.items():
        assert set(manifest["top_words"][cluster]) <= set(SUBJECTS[subject])
        assert any(f"{cluster} 20 ({', '.join(manifest['top_words'][cluster])})" in line for line in said)


def test_the_languages_of_documents_are_counted(make, tmp_path):
    recipe = make({"type": "metadata", "field": "subject"}, clean=[{"type": "language"}])
    directory = run_data(recipe)["news"]
    rows = pq.read_table(directory / "docs.parquet").to_pylist()
    assert all(json.loads(row["metadata"])["language"] == row["language"] for row in rows)
    languages = read_json(directory / "manifest.json")["counts"]["languages"]
    assert sum(part["train"]["documents"] + part["heldout"]["documents"] for part in languages.values()) == 60
