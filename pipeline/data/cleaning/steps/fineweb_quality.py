"""The step `fineweb_quality`: FineWeb's own rules (Penedo et al. 2024), by datatrove's filter."""

from pathlib import Path

from datatrove.pipeline.filters.fineweb_quality_filter import FineWebQualityFilter

from perdure.pipeline.data.cleaning.counted import Block
from perdure.pipeline.data.cleaning.splitters import filter_options
from perdure.pipeline.recipe import FineWebQuality


def block(step: FineWebQuality, _folder: Path) -> Block:
    """The step's block."""
    return Block("fineweb_quality", FineWebQualityFilter(**filter_options(step)))
