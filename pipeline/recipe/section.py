"""What every part of a recipe is made of."""

import os
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, field_validator


def _whole(value: Any) -> Any:
    """Whole numbers as people write large ones: `1e9` is text in YAML."""
    try:
        return int(float(value)) if isinstance(value, str) and float(value).is_integer() else value
    except ValueError:
        return value


Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(gt=0), BeforeValidator(_whole)]
ModelName = Annotated[str, AfterValidator(os.path.expanduser)]
"""A version's name, or a directory."""
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")]


class Section(BaseModel):
    """Base of every part of a recipe: immutable, and an unknown key, or an infinite number, is an error."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        protected_namespaces=(),
    )

    @field_validator("*")
    @classmethod
    def _at_home(cls, value: Any) -> Any:
        """Paths that begin with `~`, which no shell has seen; libraries below would take them this way or that."""
        if isinstance(value, list | tuple):
            return type(value)(cls._at_home(entry) for entry in value)
        return value.expanduser() if isinstance(value, Path) and value.parts[:1] == ("~",) else value
