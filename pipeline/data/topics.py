"""Topics: one label a document, from its metadata, a classifier, or clusters; an artefact beside the cleaned documents.

`<task>.parquet` holds a column `topic`, a row for every document of the task, in order.
"""

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datatrove.data import Document, DocumentsPipeline
from datatrove.pipeline.base import PipelineStep

from perdure.pipeline import recipe
from perdure.pipeline.core.errors import PerdureError
from perdure.pipeline.core.files import read_json, write_json
from perdure.pipeline.core.manifest import finish
from perdure.pipeline.core.remembered_hashes import hash_files
from perdure.pipeline.data.backends.local import building
from perdure.pipeline.data.cleaning.normalise import is_heldout, text_hash
from perdure.pipeline.data.context import StageContext
from perdure.pipeline.data.features import CHARS, classifier, letters, read_rows, sample_texts
from perdure.pipeline.data.read.readers import CleanedDocuments
from perdure.pipeline.data.shard import batches

UNLABELLED = "unlabelled"
MEASURED = 0.2
"""Share of the labelled texts that measures a classifier, by the hash of the text."""
TOP_WORDS = 8
"""Words shown of a cluster: those whose weight exceeds the mean over all clusters most."""


def label_topics(
    context: StageContext, final: Path, name: str, topics: recipe.Topics, clean: Path, manifest: dict
) -> None:
    """Writes the topic of every cleaned document of one source.

    Args:
        context: What the stage's steps share.
        final: Where the artefact goes.
        name: The source's name in the recipe.
        topics: How topics are told.
        clean: The source's cleaned documents.
        manifest: What the artefact depends on; `topics` (documents by topic) is added, and what was learned: `accuracy`
            and `majority` (the share of the most frequent topic) of a classifier, `top_words` of clusters.

    Raises:
        PerdureError: If a label is not mapped, no document has the field, or a classifier is not accurate enough.
    """
    where = f"sources.{name}.topics"
    with building(context.out, final) as work:
        learned = {}
        if not isinstance(topics, recipe.MetadataTopics):
            context.execute([Learn(topics, clean, work / "model", where)], work / "learn", tasks=1)
            learned = read_json(work / "model" / "learned.json")
        label = Label(topics, work / "model", work / "artefact")
        *_, counts = context.execute([CleanedDocuments(str(clean)), label], work / "label")
        found = {key[6:]: count for key, count in sorted(counts.items()) if key.startswith("topic:")}
        unmapped = {key[9:]: count for key, count in sorted(counts.items()) if key.startswith("unmapped:")}
        if unmapped:
            listed = ", ".join(
                f"{label!r} ({count:,} documents)" for label, count in list(unmapped.items())[:10]
            )
            raise PerdureError(
                f"{where}.map: labels that nobody mapped: {listed}; add each of them with its topic"
            )
        if isinstance(topics, recipe.MetadataTopics) and set(found) == {UNLABELLED}:
            raise PerdureError(f"{where}.field = {topics.field!r}: no document has this metadata field")
        files = hash_files(work / "artefact")
        finish(work / "artefact", manifest | learned | {"topics": found, "files": files})


class Learn(PipelineStep):
    """Fits a classifier or clusters; leaves `model.joblib` and `learned.json`."""

    type = "🎓 - LEARN"
    name = "Topics"

    def __init__(
        self, topics: recipe.ClassifierTopics | recipe.ClusterTopics, clean: Path, folder: Path, where: str
    ):
        super().__init__()
        self.topics, self.clean, self.folder, self.where = topics, clean, folder, where

    def run(self, data: DocumentsPipeline = None, rank: int = 0, world_size: int = 1) -> None:
        """Learns on one thread, so that the sums are the same on any number of cores."""
        import joblib
        from threadpoolctl import threadpool_limits

        with threadpool_limits(1):
            if isinstance(self.topics, recipe.ClassifierTopics):
                model, learned = self.learn_classifier(self.topics)
            else:
                model, learned = self.learn_clusters(self.topics.num_clusters)
        self.folder.mkdir(parents=True, exist_ok=True)
        joblib.dump(model, self.folder / "model.joblib")
        write_json(self.folder / "learned.json", learned)

    def learn_classifier(self, topics: recipe.ClassifierTopics) -> tuple[Any, dict]:
        """A classifier, and its accuracy on labelled texts that it has not seen."""
        rows = list(dict.fromkeys(read_rows(topics.labelled, "text", "topic")))
        measured = [row for row in rows if is_heldout(text_hash(row[0]), MEASURED)]
        seen = [row for row in rows if not is_heldout(text_hash(row[0]), MEASURED)]
        if len({topic for _, topic in seen}) < 2 or not measured:
            raise PerdureError(
                f"{self.where}.labelled = {topics.labelled}: {len(rows)} labelled texts are too few, or of one topic"
            )
        model = classifier().fit([text for text, _ in seen], [topic for _, topic in seen])
        right = [topic for _, topic in measured]
        accuracy = float(np.mean(model.predict([text for text, _ in measured]) == np.array(right)))
        majority = max(right.count(topic) for topic in set(right)) / len(right)
        if accuracy < topics.min_accuracy:
            raise PerdureError(
                f"{self.where}.min_accuracy = {topics.min_accuracy:g}: the classifier is right on {accuracy:.3f} of "
                f"{len(measured)} labelled texts that it has not seen (the most frequent topic alone: {majority:.3f}); "
                "label more texts, use fewer topics, or lower it"
            )
        return model, {"accuracy": accuracy, "majority": majority, "measured_on": len(measured)}

    def learn_clusters(self, number: int) -> tuple[Any, dict]:
        """Clusters of a sample of the source, and their top words."""
        from sklearn.cluster import MiniBatchKMeans
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.pipeline import make_pipeline

        texts = sample_texts(self.clean, 0.0)
        if len(texts) < number:
            raise PerdureError(
                f"{self.where}.num_clusters = {number}: the source has only {len(texts)} documents"
            )
        words = TfidfVectorizer(
            analyzer=letters,
            max_features=20_000,
            max_df=0.5,
            min_df=2 if len(texts) > 100 else 1,
            sublinear_tf=True,
        )
        means = MiniBatchKMeans(number, random_state=0, n_init=5, batch_size=1024)
        try:
            model = make_pipeline(words, means).fit(texts)
        except ValueError as error:  # no words at all
            raise PerdureError(f"{self.where}: the documents cannot be clustered: {error}") from None
        names = words.get_feature_names_out()
        telling = means.cluster_centers_ - means.cluster_centers_.mean(0)
        top = {
            f"cluster-{cluster:02d}": names[np.argsort(-telling[cluster], kind="stable")[:TOP_WORDS]].tolist()
            for cluster in range(number)
        }
        return model, {"top_words": top}


class Label(PipelineStep):
    """Writes the topic of every document, and counts topics."""

    type = "🏷️ - TOPICS"
    name = "Label"

    def __init__(self, topics: recipe.Topics, model: Path, folder: Path):
        super().__init__()
        self.topics, self.model, self.folder = topics, model, folder

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> None:
        """Writes `<rank>.parquet`."""
        from threadpoolctl import threadpool_limits

        labels: list[str] = []
        with threadpool_limits(1):
            for batch in batches(data):
                labels += self.labels(batch)
        for label in labels:
            self.stat_update(f"topic:{label}")
        pq.write_table(
            pa.table({"topic": pa.array(labels, pa.string())}), self.folder / f"{rank:05d}.parquet"
        )

    def labels(self, documents: list[Document]) -> list[str]:
        """Topics of some documents."""
        match self.topics:
            case recipe.MetadataTopics():
                return [self.from_metadata(self.topics, document) for document in documents]
            case recipe.ClassifierTopics():
                return _load(self.model).predict([document.text for document in documents]).tolist()
            case recipe.ClusterTopics():
                found = _load(self.model).predict([document.text[:CHARS] for document in documents])
                return [f"cluster-{cluster:02d}" for cluster in found]

    def from_metadata(self, topics: recipe.MetadataTopics, document: Document) -> str:
        """A document's topic by its metadata; labels missing in `map` are counted and reported."""
        value = document.metadata.get(topics.field)
        if value is None:
            return UNLABELLED
        label = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        if topics.map is None:
            return label
        if label not in topics.map:
            self.stat_update(f"unmapped:{label}")
        return topics.map.get(label, UNLABELLED)


@lru_cache(maxsize=1)
def _load(folder: Path) -> Any:
    import joblib

    return joblib.load(folder / "model.joblib")
