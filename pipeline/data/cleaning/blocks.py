"""The cleaning steps of a recipe as datatrove's blocks."""

from pathlib import Path

from datatrove.data import Document
from datatrove.pipeline.filters.base_filter import BaseFilter
from datatrove.pipeline.filters.c4_filters import C4QualityFilter
from datatrove.pipeline.filters.fineweb_quality_filter import FineWebQualityFilter
from datatrove.pipeline.filters.gopher_quality_filter import GopherQualityFilter
from datatrove.pipeline.filters.gopher_repetition_filter import GopherRepetitionFilter

from perdure.pipeline import recipe
from perdure.pipeline.data.cleaning.c4 import C4LinesFilter
from perdure.pipeline.data.cleaning.counted import Block
from perdure.pipeline.data.cleaning.decontaminate import decontaminate
from perdure.pipeline.data.cleaning.dedup import exact_dedup, minhash_dedup, sentence_dedup
from perdure.pipeline.data.cleaning.language import LanguageFilter
from perdure.pipeline.data.cleaning.languages import ENGLISH, splitter, stop_words, with_language
from perdure.pipeline.data.cleaning.personal import PersonalData
from perdure.pipeline.data.cleaning.splitters import LanguageSplitter
from perdure.pipeline.data.cleaning.step_inputs import language_model


def block(step: recipe.CleaningStep, folder: Path) -> Block:
    """What carries out a cleaning step; `folder` is its own, for signatures and the like."""
    options = with_language(step)
    english = options.get("language") in ENGLISH
    if "language" in options:
        options["language"] = LanguageSplitter(options["language"])
    match step:
        case recipe.Length():
            return Block("too_short", LengthFilter(step.min_chars, step.max_chars))
        case recipe.LanguageIdentification():
            return Block(
                "other_language", LanguageFilter(language_model(step.model), step.keep, step.min_score)
            )
        case recipe.GopherQuality():
            found = splitter(step.language)
            if found and not english and options["min_stop_words"] and options["stop_words"] is None:
                options["stop_words"] = stop_words(found.stop_words or "en")
            return Block("gopher_quality", GopherQualityFilter(**options))
        case recipe.GopherRepetition():
            return Block("gopher_repetition", GopherRepetitionFilter(**options))
        case recipe.C4Quality():
            if not english:
                return Block("c4_quality", C4LinesFilter(**options | {"language": step.language}))
            return Block("c4_quality", C4QualityFilter(**options))
        case recipe.FineWebQuality():
            return Block("fineweb_quality", FineWebQualityFilter(**options))
        case recipe.PersonalData():
            return Block("pii", PersonalData(**options))
        case recipe.ExactDedup():
            return exact_dedup(folder)
        case recipe.MinhashDedup():
            return minhash_dedup(folder)
        case recipe.SentenceDedup():
            return sentence_dedup(step, folder)
        case recipe.Decontaminate():
            return decontaminate(step, folder)


class LengthFilter(BaseFilter):
    """Keeps documents of a range of lengths, in characters."""

    name = "📏 Length"

    def __init__(self, min_chars: int, max_chars: int | None):
        super().__init__()
        self.min_chars, self.max_chars = min_chars, max_chars

    def filter(self, document: Document) -> bool | tuple[bool, str]:
        """Whether a document is kept, else why not."""
        if len(document.text) < self.min_chars:
            return False, "too_short"
        if self.max_chars is not None and len(document.text) > self.max_chars:
            return False, "too_long"
        return True
