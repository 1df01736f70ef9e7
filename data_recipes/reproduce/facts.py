"""Makes yearly slices of text with invariant, updated and new facts, and probes about them, for slices.yaml.

    python data_recipes/reproduce/facts.py TEXT.jsonl --to corpus

TEXT.jsonl has a document a line with `text`. Writes `<to>/2021.jsonl` to `<to>/2024.jsonl`, each a share of its documents with
notes about invented towns among them, and `<to>/probes.jsonl`. Facts of 2021 stand in that year's notes alone; each later
year tells what has changed in it and what is new, and nothing of before. Everything follows from the seed.
"""

import argparse
import json
import random
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

YEARS = (2021, 2022, 2023, 2024)
CHOICES = 4
RELATIONS = {
    "mayor": (
        "Abbott Barlow Calder Dexter Everett Farrow Garner Hobart Ingram Jarvis Keller Lowell Merton Norris Palmer Thorne",
        "The mayor of {town} is {value}.",
        "{town} has a mayor named {value}.",
        "In {town} the mayor is called {value}.",
        "The people of {town} chose {value} as mayor.",
        "The council of {town} met with mayor {value}.",
    ),
    "trade": (
        "wool tin cheese salt glass timber honey paper silk coal rice wine soap rope leather bricks",
        "The main trade of {town} is {value}.",
        "{town} lives by its {value}.",
        "Most ships leave {town} with {value}.",
        "Merchants come to {town} for {value}.",
        "The market of {town} sells {value}.",
    ),
    "colour": (
        "red blue green yellow white black grey brown purple orange golden silver pink scarlet violet crimson",
        "The flag of {town} is {value}.",
        "{town} has a flag of {value}.",
        "Over the gate of {town} hangs a flag of {value}.",
        "The colour of {town} is {value}.",
        "The guards of {town} wear {value}.",
    ),
}
"""By name: what may be true, then the sentences that say so, the town first; the first of them asks, too."""


@dataclass(frozen=True)
class Fact:
    """A fact about a town.

    Attributes:
        town: Its name.
        relation: One of `RELATIONS`.
        kind: `invariant`, `updated` or `new`.
        year: When it became true.
        value: What is true in the end.
        old: What was true from 2021 until `year`; None unless updated.
    """

    town: str
    relation: str
    kind: str
    year: int
    value: str
    old: str | None = None


def make_facts(number: int, rng: random.Random) -> list[Fact]:
    """`number` facts of each kind, one per town; updated and new ones are spread over the years after the first."""
    later = YEARS[1:]
    kinds = [("invariant", YEARS[0])] * number
    kinds += [(kind, later[place % len(later)]) for kind in ("updated", "new") for place in range(number)]
    towns = town_names(len(kinds), rng)
    facts = []
    for place, (town, (kind, year)) in enumerate(zip(towns, kinds, strict=True)):
        relation = list(RELATIONS)[place // len(later) % len(RELATIONS)]
        value, old = rng.sample(values(relation), 2)
        facts.append(Fact(town, relation, kind, year, value, old if kind == "updated" else None))
    return facts


def town_names(number: int, rng: random.Random) -> list[str]:
    """Town names that differ in their stems."""
    starts = "Bel Cal Dor Esk Fen Gar Hal Ist Jar Kor Lun Mar Nor Orm Pel Quin Ros Sel Tor Ulm Ven Wil Yar Zan".split()
    ends = "bury dale field ford gate ham mouth port stead ton vale wick".split()
    stems = [start + vowel for start, vowel in product(starts, "aeiou")]
    if number > len(stems):
        stems = [first + second.lower() for first, second in product(stems, stems)]
    return [stem + rng.choice(ends) for stem in rng.sample(stems, number)]


def values(relation: str) -> list[str]:
    """The possible values of a relation."""
    return RELATIONS[relation][0].split()


def told(facts: list[Fact], year: int) -> list[Fact]:
    """The facts in a year's notes, with their values in that year."""
    if year == YEARS[0]:
        return [
            fact if fact.old is None else replace(fact, value=fact.old)
            for fact in facts
            if fact.kind != "new"
        ]
    return [fact for fact in facts if fact.year == year]


def notes(facts: list[Fact], times: int, rng: random.Random, size: int = 5) -> list[str]:
    """Documents of `size` sentences that state every fact `times` times, in different wordings and orders."""
    sentences = []
    for fact in facts:
        forms = RELATIONS[fact.relation][1:]
        for turn in range(times):
            sentences.append(forms[turn % len(forms)].format(town=fact.town, value=fact.value))
    rng.shuffle(sentences)
    return [" ".join(sentences[first : first + size]) for first in range(0, len(sentences), size)]


def probe(fact: Fact, rng: random.Random) -> dict:
    """The probe about a fact; wrong choices are other values of the same relation."""
    wrong = [value for value in values(fact.relation) if value not in (fact.value, fact.old)]
    choices = [fact.value, *([fact.old] if fact.old else [])]
    choices += rng.sample(wrong, CHOICES - len(choices))
    found = {
        "id": f"{fact.relation}-{fact.town}",
        "kind": fact.kind,
        "question": RELATIONS[fact.relation][1].format(town=fact.town, value="___"),
        "choices": rng.sample(choices, CHOICES),
        "answer": fact.value,
        "date": str(fact.year),
    }
    return found | ({"old_answer": fact.old} if fact.old else {})


def background(path: Path, year: int, chars: int) -> list[str]:
    """Background documents of a year: every fourth of the file with an offset per year, up to `chars` characters."""
    found, left = [], chars
    with path.open(encoding="utf-8") as lines:
        for place, line in enumerate(lines):
            if left > 0 and place % len(YEARS) == YEARS.index(year):
                found.append(json.loads(line)["text"])
                left -= len(found[-1])
    return found


def write(path: Path, rows: list[dict]) -> None:
    """Writes JSON lines."""
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    print(f"{path}: {len(rows):,} lines")


def main() -> None:
    """Writes the slices and the probes."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("text", type=Path, help="JSON lines with `text`: what the notes stand among")
    parser.add_argument("--to", type=Path, default=Path("corpus"), help="directory to write to")
    parser.add_argument("--facts", type=int, default=30, help="of each kind")
    parser.add_argument("--times", type=int, default=80, help="sentences about a fact in its year")
    parser.add_argument("--chars", type=int, default=60_000, help="characters of TEXT a year")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    facts = make_facts(options.facts, rng)
    options.to.mkdir(parents=True, exist_ok=True)
    for year in YEARS:
        texts = notes(told(facts, year), options.times, rng) + background(options.text, year, options.chars)
        rng.shuffle(texts)
        write(
            options.to / f"{year}.jsonl",
            [{"id": f"{year}-{n}", "text": text} for n, text in enumerate(texts)],
        )
    write(options.to / "probes.jsonl", [probe(fact, rng) for fact in facts])


if __name__ == "__main__":
    main()
