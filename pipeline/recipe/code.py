"""Fields of sources of code: documents to be filled in the middle."""

from typing import Annotated, Literal

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

    @field_validator("sentinels")
    @classmethod
    def _three_or_four(cls, sentinels: "Convention | tuple[str, ...]") -> "Convention | tuple[str, ...]":
        if isinstance(sentinels, tuple) and (
            len(sentinels) not in (3, 4) or len({*sentinels}) < len(sentinels)
        ):
            raise ValueError(
                "should be `starcoder`, `deepseek`, `qwen`, or a list of three or four different strings"
            )
        return sentinels
