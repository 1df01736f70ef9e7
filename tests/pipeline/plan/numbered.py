"""Two sources whose tokens are numbered, so that a label tells its place."""

import numpy as np
from tiny import EOS, tiny_recipe

from perdure.pipeline.plan.planning import build_plan
from perdure.pipeline.train.streams import read_sample

SEQ = 32


def numbered_documents(lengths: list[int], first: int) -> list[np.ndarray]:
    """Documents whose tokens number all tokens of a source from `first` on; each ends in end-of-sequence."""
    documents = []
    for length in lengths:
        documents.append(np.append(np.arange(first, first + length), EOS).astype(np.uint16))
        first += length
    return documents


def recipe_of(out, mixture: dict, steps: int = 40, **changes):
    changes = {"versions__v1__mixture": {"max_repetition": 1000} | mixture} | changes
    return tiny_recipe(out, **{"versions__v1__tokens": SEQ * 8 * steps} | changes)


def build(out, data, mixture, scores=None, **changes):
    recipe = recipe_of(out, mixture, **changes)
    return build_plan(out / "plan", recipe, "v1", data, scores or {})


def labels(dataset, key, sample):
    tokens, _reference, num_valid, *_ = read_sample(dataset.streams[key], sample, SEQ)
    return tokens[1 : num_valid + 1]


BOTH = {"sources": {"a": {"weight": 0.7}, "b": {"weight": 0.3}}}
REPLAY = {"sources": {"b": {}}, "replay": {"share": 0.25, "sources": {"a": {"order": "given"}}}}
