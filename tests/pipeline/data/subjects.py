"""Made-up texts about a sea, a farm and a kitchen."""

import random

from tests.pipeline.data.texts import write_jsonl

SEA = "ship harbour sailor wave anchor captain storm sail deck island".split()
FARM = "field barn wheat plough cow farmer harvest tractor soil fence".split()
KITCHEN = "oven flour recipe butter cook pan sugar onion dish spoon".split()
SUBJECTS = {"sea": SEA, "farm": FARM, "kitchen": KITCHEN}


def text(subject: str, seed: int) -> str:
    rng = random.Random(f"{subject}{seed}")
    common = "the of and a in that it was for on".split()
    return " ".join(rng.choice(SUBJECTS[subject] if rng.random() < 0.5 else common) for _ in range(80))


def labelled(path, seeds=range(100, 130), wrong: float = 0.0):
    rng = random.Random(0)
    names = list(SUBJECTS)
    rows = [
        {"text": text(subject, seed), "topic": rng.choice(names) if rng.random() < wrong else subject}
        for seed in seeds
        for subject in names
    ]
    return str(write_jsonl(path, rows))
