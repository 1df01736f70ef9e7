"""What cleaning drops of fluent text in eight languages, beside datatrove's filters: `python tests/every_script.py` prints
it."""

import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from datatrove.data import Document
from datatrove.pipeline.filters.c4_filters import C4QualityFilter
from datatrove.pipeline.filters.fineweb_quality_filter import FineWebQualityFilter
from datatrove.pipeline.filters.gopher_quality_filter import GopherQualityFilter
from datatrove.pipeline.filters.gopher_repetition_filter import GopherRepetitionFilter
from datatrove.utils.text import ngrams, simplify_text
from languages import LANGUAGES, Language

from perdure.pipeline import recipe
from perdure.pipeline.data.cleaning.languages import splitter
from perdure.pipeline.data.cleaning.normalise import split_words
from perdure.pipeline.data.cleaning.steps import block
from perdure.pipeline.data.cleaning.steps.decontaminate import NgramFilter, NgramIndex

STEPS = {
    "gopher_quality": (recipe.GopherQuality, GopherQualityFilter),
    "gopher_repetition": (recipe.GopherRepetition, GopherRepetitionFilter),
    "c4_quality": (recipe.C4Quality, C4QualityFilter),
    "fineweb_quality": (recipe.FineWebQuality, FineWebQualityFilter),
}
DOCUMENTS = 50

Keeps = Callable[[str], bool]


def share_dropped(keeps: Keeps, texts: list[str]) -> float:
    """Share of texts that a step does not keep."""
    return sum(not keeps(text) for text in texts) / len(texts)


def ours(step: str, language: str) -> Keeps:
    """Perdure's step with its defaults for a language."""
    section = STEPS[step][0](type=step, language=language)
    found = block(section, Path()).step
    return lambda text: found.filter(Document(text, "id")) is True


def theirs(step: str, language: str) -> Keeps:
    """datatrove's filter with its defaults and the language's words."""
    script = splitter(language).script  # without it, datatrove takes Arabic and Hindi for the Latin script
    found = STEPS[step][1](language=f"{language}_{script}")
    return lambda text: found.filter(Document(text, "id")) is True


def fluent(language: Language) -> list[str]:
    """Documents that every step should keep."""
    return [language.document(seed) for seed in range(DOCUMENTS)]


def contaminated(language: Language) -> tuple[list[str], list[str], list[str]]:
    """Evaluation texts, documents that have nothing to do with them, and the same with one of them planted."""
    evaluation = [language.document(seed, paragraphs=1, sentences=2, half=0) for seed in range(100)]
    unrelated = [language.document(seed, half=1) for seed in range(100)]
    planted = [
        text[: len(text) // 2] + question + text[len(text) // 2 :]
        for text, question in zip(unrelated, evaluation, strict=True)
    ]
    return evaluation, unrelated, planted


def decontamination(evaluation: list[str], folder: Path) -> Keeps:
    """Perdure's decontamination by 13 words."""
    path = folder / "evaluation.jsonl"
    path.write_text("".join(json.dumps({"question": text}) + "\n" for text in evaluation))
    NgramIndex([path], 13, folder / "index").run()
    step = NgramFilter(folder / "index", 13)
    return lambda text: step.filter(Document(text, "id")) is True


def by_count(evaluation: list[str]) -> Keeps:
    """Decontamination by 13 words, or characters of scripts without blanks, as version 0.1 did it."""

    def grams(text: str) -> set[tuple[str, ...]]:
        return set(ngrams(split_words(simplify_text(text)), 13))

    wanted = set().union(*map(grams, evaluation))
    return lambda text: wanted.isdisjoint(grams(text))


def main() -> None:
    """Prints the table of docs/data.md."""
    print("| language | " + " | ".join(STEPS) + " | unrelated, decontaminated | planted, found |")
    print("|---|" + "---|" * (len(STEPS) + 2))
    for code, language in LANGUAGES.items():
        cells = []
        for step in STEPS:
            try:
                other = f"{share_dropped(theirs(step, code), fluent(language)):.0%}"
            except Exception as error:  # packages missing, or too new for datatrove
                print(f"{code} {step}: {error}", file=sys.stderr)
                other = "does not run"
            cells.append(f"{share_dropped(ours(step, code), fluent(language)):.0%} ({other})")
        evaluation, unrelated, planted = contaminated(language)
        with tempfile.TemporaryDirectory() as folder:
            step = decontamination(evaluation, Path(folder))
            dropped, found = share_dropped(step, unrelated), share_dropped(step, planted)
        before = share_dropped(by_count(evaluation), unrelated)
        cells += [f"{dropped:.0%} ({before:.0%})", f"{found:.0%}"]
        print(f"| {code} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
