"""The step `gopher_quality`: Gopher's quality rules (Rae et al. 2021), by datatrove's filter."""

from pathlib import Path

from datatrove.pipeline.filters.gopher_quality_filter import GopherQualityFilter

from perdure.pipeline.data.cleaning.counted import Block
from perdure.pipeline.data.cleaning.languages import ENGLISH, splitter, stop_words
from perdure.pipeline.data.cleaning.splitters import filter_options
from perdure.pipeline.recipe import GopherQuality


def block(step: GopherQuality, _folder: Path) -> Block:
    """The step's block. Languages other than English get spaCy's stop words."""
    options, found = filter_options(step), splitter(step.language)
    listed = options["min_stop_words"] and options["stop_words"] is None
    if found and step.language not in ENGLISH and listed:
        options["stop_words"] = stop_words(found.stop_words or "en")
    return Block("gopher_quality", GopherQualityFilter(**options))
