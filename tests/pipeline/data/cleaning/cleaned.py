"""Texts to clean, cleaned in this process."""

import pickle
from pathlib import Path

from perdure.pipeline.core.files import read_json
from perdure.pipeline.data.backends.local import executor_on
from perdure.pipeline.data.cleaning.clean import clean_source
from perdure.pipeline.data.context import StageContext
from perdure.pipeline.data.read.readers import CleanedDocuments
from perdure.pipeline.recipe import Source
from tests.pipeline.data.texts import write_jsonl

GERMAN = (
    "Der alte Mann ging langsam durch den Garten, und die Kinder spielten unter den hohen Bäumen. Am Abend kam "
    "seine Tochter nach Hause und erzählte von der Arbeit, die sie an diesem Tag getan hatte. "
)
PROSE = [
    "The river rises in the hills and flows to the sea.",
    "People of the valley have fished in it for a thousand years, and they will go on.",
    "In the spring the water is high, and the fields are flooded with mud that makes them rich.",
    "Nobody knows who built the bridge that you have seen on the way to the market.",
    "It is said that a king gave the stones, but the books do not agree with the story.",
    "Be that as it may, the bridge has stood in storms, and it will stand when we are gone.",
    "Travellers come to look at it, and the inn beside the road has rooms for them.",
]


class InProcess:
    """Runs tasks one after the other, here; each gets its own copy of the pipeline, as in a worker."""

    def map(self, function, ranks):
        return [pickle.loads(pickle.dumps(function))(rank) for rank in ranks]


def clean(directory: Path, texts: list[str], steps: list, tasks: int = 2) -> tuple[list[str], dict, Path]:
    """Texts that are left, the counts of the manifest, and the artefact."""
    rows = [{"text": text, "id": str(number)} for number, text in enumerate(texts)]
    path = write_jsonl(directory / "in.jsonl", rows)
    reader = {"type": "jsonl", "path": str(path)}
    source = Source.model_validate({"reader": reader, "clean": steps})
    final = directory / "out" / "clean" / "s"
    context = StageContext(directory / "out", tasks, lambda: executor_on(InProcess()))
    clean_source(context, final, "s", source, {})
    found = [
        document.text for rank in range(tasks) for document in CleanedDocuments(str(final)).run(None, rank)
    ]
    return found, read_json(final / "manifest.json")["counts"], final


def reasons(counts: dict, step: int = 1) -> dict:
    return {reason: entry["documents"] for reason, entry in counts["steps"][step]["dropped"].items()}
