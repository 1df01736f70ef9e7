"""Fields of sources of code: documents to be filled in the middle, and repositories as documents."""

from typing import Annotated, Any, Literal, get_args

from pydantic import Field, field_validator

from perdure.pipeline.recipe.section import Fraction, Section

Convention = Literal["starcoder", "deepseek", "qwen"]
Spelling = Annotated[str, Field(min_length=2)]


class FillInTheMiddle(Section):
    """Fill-in-the-middle (Bavarian et al. 2022, arXiv 2207.14255), by characters, of whole documents before they are packed.

    A document is cut at two places drawn evenly from all that there are, and the middle moves to the end. Which documents, and
    where, follows from the recipe's seed, the source's name and the document's id.
    """

    rate: Fraction = 0.5
    """Share of the training documents that are transformed; 0 is as no `fim`. Held-out documents stay as they are."""
    spm: Fraction | None = None
    """Of these, the share in the order suffix, prefix, middle; the others are prefix, suffix, middle. Default: what the models
    of the sentinels were trained with, 0.5 for `starcoder`, else 0."""
    sentinels: Convention | tuple[Spelling, ...] = "starcoder"
    """What stands before prefix, suffix and middle: the tokens of a family of models, `starcoder` (StarCoder, StarCoder2),
    `deepseek` (DeepSeek-Coder) or `qwen` (Qwen2.5-Coder), or three strings; a fourth is put behind the middle, as CodeLlama
    does with `<EOT>`. Each should be an added token of the tokenizer; one that is trained here gets them."""

    @field_validator("sentinels", mode="before")
    @classmethod
    def _three_or_four(cls, sentinels: Any) -> Any:
        """A family's name, or strings."""
        return _sentinels(sentinels, get_args(Convention), (3, 4))


class Repository(Section):
    """The files of a repository as one document, in the form of StarCoder2 or Qwen2.5-Coder.

    `<repo_name>name<file_sep>path`, a line end, `code<file_sep>` and so on, or, where names are left out,
    `<file_sep>code<file_sep>code`. Files are cleaned, deduplicated and held out one by one: what is held out of a repository is
    a document of its own.
    """

    order: Literal["given", "dependencies"] = "given"
    """Order of the files: as they were read, or (`dependencies`) Python files behind those that they import. Files in a circle,
    and those that are no Python or cannot be parsed, keep the given order as far as that allows."""
    names: Fraction = 0.5
    """Share of the repositories whose name and paths are shown, as in StarCoder2."""
    sentinels: Literal["starcoder", "qwen"] | tuple[Spelling, Spelling] | None = None
    """What stands before a repository's name and before a file: the tokens and line ends of a family of models (`starcoder`:
    StarCoder2; `qwen`: Qwen2.5-Coder), or two strings. Default: the family that `fim` names. Each should be an added token of
    the tokenizer; one that is trained here gets them."""

    @field_validator("sentinels", mode="before")
    @classmethod
    def _two(cls, sentinels: Any) -> Any:
        """A family's name, or strings."""
        return None if sentinels is None else _sentinels(sentinels, ("starcoder", "qwen"), (2,))


def _sentinels(found: Any, families: tuple[str, ...], numbers: tuple[int, ...]) -> Any:
    """What a recipe names between texts; one message says all that it may be.

    Raises:
        ValueError: If it is neither a family nor a list of so many different strings.
    """
    strings = isinstance(found, list | tuple) and all(isinstance(token, str) for token in found)
    if strings and len(found) in numbers and len({*found}) == len(found) and min(map(len, found)) > 1:
        return tuple(found)
    if isinstance(found, str) and found in families:
        return found
    names, count = ", ".join(f"`{name}`" for name in families), " or ".join(map(str, numbers))
    raise ValueError(f"should be {names}, or a list of {count} different strings of at least two characters")
