"""The step `gopher_repetition`: Gopher's repetition rules (Rae et al. 2021), by datatrove's filter."""

from pathlib import Path

from datatrove.pipeline.filters.gopher_repetition_filter import GopherRepetitionFilter

from perdure.pipeline.data.cleaning.counted import Block
from perdure.pipeline.data.cleaning.splitters import filter_options
from perdure.pipeline.recipe import GopherRepetition


def block(step: GopherRepetition, _folder: Path) -> Block:
    """The step's block."""
    return Block("gopher_repetition", GopherRepetitionFilter(**filter_options(step)))
