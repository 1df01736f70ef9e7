"""Documents of a source, as the data stage reads them."""

from collections import Counter

from perdure.pipeline.data.cleaning.normalise import Normaliser
from perdure.pipeline.data.read.readers import reader_step
from perdure.pipeline.recipe import Source


def read(reader: dict, tasks: int = 1) -> tuple[list, Counter]:
    """Documents, and counts of what was met and dropped, of a recipe's reader and the normaliser."""
    documents, counts = [], Counter()
    for rank in range(tasks):
        step = reader_step(Source.model_validate({"reader": reader}))
        normaliser = Normaliser()
        documents += normaliser.run(step.run(None, rank, tasks))
        for stats in (step.stats.stats, normaliser.stats.stats):
            counts.update(
                {key: value.total for key, value in stats.items() if key[:2] in ("in", "dr") and value.total}
            )
    counts.pop("input_files", None)
    return documents, counts
