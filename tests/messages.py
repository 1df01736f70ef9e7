"""What Perdure's loggers say meanwhile, for tests that read it."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager


class _Keeping(logging.Handler):
    def __init__(self, kept: list[str]):
        super().__init__()
        self.kept = kept

    def emit(self, record: logging.LogRecord) -> None:
        self.kept.append(record.getMessage())


@contextmanager
def messages() -> Iterator[list[str]]:
    """A list that receives every message of a logger below `perdure`, details (DEBUG) left out."""
    logger, said = logging.getLogger("perdure"), list[str]()
    handler, before = _Keeping(said), logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield said
    finally:
        logger.setLevel(before)
        logger.removeHandler(handler)
