"""Text for the console: control characters written out, JSON, and numbers in words. Messages are `logs`."""

import json
import re
from typing import Any

from perdure.pipeline.core.files import finite

CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
"""Characters that a terminal obeys, but for tabs and line ends."""


def visible(text: str) -> str:
    """The text with control characters written out (`\\x1b`), so that a name or a path cannot steer the terminal."""
    return CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text)


def visible_line(text: object) -> str:
    """`visible`, with line ends written out, too, for text that has to stay on its line."""
    return visible(str(text)).replace("\n", "\\n")


def print_json(value: Any) -> None:
    """A value for programs, on stdout; numbers that are not finite are null, since JSON has none."""
    print(json.dumps(finite(value), indent=1, default=str, ensure_ascii=False))
