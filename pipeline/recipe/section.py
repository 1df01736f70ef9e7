"""What every part of a recipe is made of."""

import os
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Annotated, Any, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    field_validator,
    model_validator,
)


def _whole(value: Any) -> Any:
    """Whole numbers as people write large ones: `1e9` is text in YAML."""
    try:
        number = Decimal(value) if isinstance(value, str) else Decimal("nan")
    except InvalidOperation:
        return value
    whole = number.is_finite() and number.adjusted() < MAX_DIGITS and number == number.to_integral_value()
    return int(number) if whole else value


def _without_truth(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return type(value)(map(_without_truth, value))
    return object() if isinstance(value, bool) else value


def _nameable(name: str) -> str:
    longest = max(map(len, os.fsencode(name).split(b"/")))
    if longest > MAX_NAME:
        raise ValueError(
            f"should be names of at most {MAX_NAME} bytes, has one of {longest}: file systems hold no more"
        )
    if len(name) >= MAX_PATH:
        raise ValueError(f"should be a path of at most {MAX_PATH} bytes: systems take no more")
    return name


MAX_NAME, MAX_PATH = 255, 4096
"""Bytes of a file's name and of a path that Linux takes."""
MAX_DIGITS = 30
"""Digits of a whole number in a recipe; text such as `1e999999999` would take all memory."""
Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(gt=0, le=10**18), BeforeValidator(_whole)]
"""Whole numbers that 64 bits hold, and their sums."""
Budget = Annotated[int, Field(ge=0, le=10**18), BeforeValidator(_whole)]
"""The same, or 0."""
Size = Annotated[Positive, Field(le=1 << 24)]
"""Widths, lengths and numbers of samples; the largest vocabularies and contexts have a million."""
Single = Annotated[float, Field(gt=0, le=1e30)]
"""Numbers that stay apart from 0 and infinity in single precision, in which ranks compute."""
Epsilon = Annotated[float, Field(ge=1e-30, le=1)]
"""What is added to keep divisors from 0; in single precision, too."""
ModelName = Annotated[str, AfterValidator(os.path.expanduser), AfterValidator(_nameable)]
"""A version's name, or a directory."""
DocumentIds = Annotated[
    Annotated[tuple[str, ...], Tag("[list]")] | Annotated[Path, Tag("[file]")],
    Discriminator(lambda value: "[list]" if isinstance(value, list | tuple) else "[file]"),
]
"""Ids of documents, or a file with one a line."""
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

    @model_validator(mode="before")
    @classmethod
    def _true_is_no_number(cls, tree: Any) -> Any:
        """Keeps pydantic from taking `true` for 1: no type but bool takes a bare object."""
        if not isinstance(tree, dict):
            return tree
        flags = {
            name
            for name, field in cls.model_fields.items()
            if field.annotation is bool or bool in get_args(field.annotation)
        }
        return {key: value if key in flags else _without_truth(value) for key, value in tree.items()}

    @field_validator("*")
    @classmethod
    def _at_home(cls, value: Any) -> Any:
        """Paths that begin with `~`, which no shell has seen (libraries would take them this way or that) and can be opened."""
        if isinstance(value, list | tuple):
            return type(value)(cls._at_home(entry) for entry in value)
        if isinstance(value, dict):
            return {key: cls._at_home(entry) for key, entry in value.items()}
        if not isinstance(value, Path):
            return value
        return Path(_nameable(str(value.expanduser() if value.parts[:1] == ("~",) else value)))
