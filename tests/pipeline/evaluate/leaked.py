"""Texts with planted evaluation passages, and the probes that they leak."""

import random

import numpy as np

from perdure.pipeline.evaluate import contamination
from perdure.pipeline.evaluate.record import measured_on

WORDS = [f"{first}{last}" for first in "bcdfghjklm" for last in ("ato", "elu", "imo", "ora", "uno", "aze")]
PLANTED = "the quiet harbour of northport opened its third lighthouse in the spring of that year"
HALF = "the quiet harbour of northport opened its third lighthouse in a hurry"
SHORT = "eight words are enough to be looked for"
VOCABULARY = ["<eos>", *WORDS, *dict.fromkeys(f"{PLANTED} {HALF} {SHORT} second bridge autumn".split())]


def probe(name, text, answer):
    question = text.replace(answer, "___", 1)
    return {"id": name, "kind": "new", "question": question, "choices": [answer, "other"], "answer": answer}


PROBES = [
    probe("leaked", PLANTED.capitalize().replace(" northport", " Northport,"), "lighthouse"),
    probe("clean", PLANTED.replace("third", "second").replace("spring", "autumn"), "lighthouse"),
    probe("short", SHORT, "enough"),
    probe("too-short", "eight words are enough", "enough"),
    # The wrong choice stands in the training data, the right one does not.
    probe("other-answer", PLANTED.replace("lighthouse", "bridge"), "bridge"),
]


def documents(seed, *planted):
    rng = random.Random(seed)
    texts = [" ".join(rng.choices(WORDS, k=40)) for _ in range(20)]
    texts += [
        f"{' '.join(rng.choices(WORDS, k=9))} {text} {' '.join(rng.choices(WORDS, k=9))}" for text in planted
    ]
    return [np.array([*(VOCABULARY.index(word) for word in text.split()), 0], np.uint16) for text in texts]


def found_for(recipe, data):
    """What the report says, measured on this data."""
    return contamination.contamination(recipe, measured_on(recipe, data))
