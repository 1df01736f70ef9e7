"""Fill-in-the-middle: documents cut in three, with the middle last, each part behind a token that announces it.

Source: Bavarian et al. 2022, arXiv 2207.14255, by characters, of whole documents. Two orders: PSM is
`PRE prefix SUF suffix MID middle`; SPM is `PRE SUF suffix MID prefix middle`, as StarCoder has it (its second variant).
Everything follows from a hash of seed, source and document, so that nothing depends on the order in which documents are read.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, NamedTuple

from perdure.pipeline.core.errors import PerdureError
from perdure.pipeline.recipe import FillInTheMiddle, Recipe, Source

if TYPE_CHECKING:
    from tokenizers import Tokenizer

SENTINELS = {
    "starcoder": ("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),
    "deepseek": ("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"),
    "qwen": ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),
}
"""What families of models put before prefix, suffix and middle."""
SPM = {"starcoder": 0.5}
"""Share of SPM among the transformed documents that a family was trained with, where it is not 0."""

REPOSITORY = {
    "starcoder": ("<repo_name>", "<file_sep>"),
    "qwen": ("<|repo_name|>", "<|file_sep|>"),
}
"""What families of models put before a repository's name and before a file. Qwen2.5-Coder ends names and files in a line end,
and has a file's path before what is filled in; StarCoder2 has it in the prefix, and no line ends. Neither cuts a path."""

Part = str | int
"""A piece of a document: text, or the id of a token that is no text."""


@dataclass(frozen=True)
class Infill:
    """How a source's documents are transformed.

    Attributes:
        rate: Share of them that are.
        spm: Share of these in the order SPM.
        sentinels: Ids of the tokens before prefix, suffix and middle, and perhaps of one behind the middle.
        seed: The recipe's seed.
        view: The source's name: another source has other draws for the same document.
    """

    rate: float
    spm: float
    sentinels: tuple[int, ...]
    seed: int
    view: str


class Rendering(NamedTuple):
    """A document as it is tokenised: each text of it on its own; and how many texts in it were transformed, by order."""

    parts: list[Part]
    psm: int = 0
    spm: int = 0


def spellings(fim: FillInTheMiddle) -> tuple[str, ...]:
    """The sentinels of a recipe, as text."""
    return SENTINELS[fim.sentinels] if isinstance(fim.sentinels, str) else fim.sentinels


def repository_spellings(source: Source) -> tuple[str, ...]:
    """The tokens before a repository's name and before a file, as text; empty if nobody says which."""
    assert source.repository is not None
    chosen = source.repository.sentinels or (source.fim.sentinels if source.fim is not None else None)
    if isinstance(chosen, str):
        return REPOSITORY.get(chosen, ())
    return chosen if source.repository.sentinels and chosen else ()


def sentinels_of(source: Source) -> dict[str, tuple[str, ...]]:
    """The tokens between texts that a source asks for, by the field that names them."""
    found = {"fim.sentinels": spellings(source.infilled)} if source.infilled else {}
    return found | ({"repository.sentinels": repository_spellings(source)} if source.repository else {})


def repository_settings(recipe: Recipe, name: str) -> dict[str, Any]:
    """What the repositories of a source become depends on: the fields of `Repositories`, with spellings for ids."""
    source = recipe.sources[name]
    assert source.repository is not None
    tokens = repository_spellings(source)
    by_line = tokens == REPOSITORY["qwen"]
    return {
        "order": source.repository.order,
        "names": source.repository.names,
        "sentinels": tokens,
        "name_end": "\n" if by_line else "",
        "file_end": "\n" if by_line else "",
        "path_inside": not by_line,
        "seed": recipe.seed,
        "view": name,
    }


def settings(fim: FillInTheMiddle, recipe: Recipe, source: str) -> dict[str, Any]:
    """What the transformed documents depend on: the fields of `Infill`, with spellings for ids."""
    usual = SPM.get(fim.sentinels, 0.0) if isinstance(fim.sentinels, str) else 0.0
    spm = usual if fim.spm is None else fim.spm
    return {
        "rate": fim.rate,
        "spm": spm,
        "sentinels": spellings(fim),
        "seed": recipe.seed,
        "view": source,
    }


def special_tokens(recipe: Recipe) -> list[str]:
    """Sentinels of all sources, which a tokenizer that is trained here gets."""
    found = [tokens for source in recipe.sources.values() for tokens in sentinels_of(source).values()]
    return list(dict.fromkeys(token for tokens in found for token in tokens))


def sentinel_ids(
    tokenizer: "Tokenizer", tokens: tuple[str, ...], separator: str, where: str
) -> tuple[int, ...]:
    """Ids of sentinels.

    Raises:
        PerdureError: If the tokenizer has one of them not as a single token, or puts blanks before texts, or one of them is the
            separator.
    """
    if reason := is_separator(tokens, separator) or unusable(tokenizer, tokens):
        raise PerdureError(f"{where}: {reason}")
    found = [tokenizer.token_to_id(token) for token in tokens]
    assert None not in found
    return tuple(number for number in found if number is not None)


def is_separator(tokens: tuple[str, ...], separator: str | None) -> str | None:
    """Why the separator cannot stand between texts; None if it is not among these tokens."""
    if separator not in tokens:
        return None
    return f"{separator!r} ends every document, so that it can announce no part of one; choose another token"


def unusable(tokenizer: "Tokenizer", tokens: tuple[str, ...]) -> str | None:
    """Why documents cannot be put together of texts and these tokens; None if they can."""
    added = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
    for token in tokens:
        if token not in added:
            count = len(tokenizer.encode(token, add_special_tokens=False).ids)
            return (
                f"the tokenizer has no token {token!r}, and makes {count} of it; should be among its added tokens: name "
                "those that it has, or choose a tokenizer with these"
            )
    twice = tokenizer.encode("x", add_special_tokens=False).ids * 2
    if tokenizer.decode(twice) != "xx":
        return "the tokenizer puts a blank before every text, so before every part of a document; choose one that does not"
    return None


def draws(seed: int, view: str, document: str) -> list[int]:
    """Four numbers of 64 bits, by hash: whether a document is transformed, in which order, and its two boundaries."""
    digest = blake2b(f"{seed}\0{view}\0{document}".encode(), digest_size=32).digest()
    return [int.from_bytes(digest[place : place + 8], "little") for place in range(0, 32, 8)]


def chance(number: int, share: float) -> bool:
    """Whether a number of 64 bits is below a share of all."""
    return number < share * 2.0**64


def boundaries(draw: list[int], length: int) -> tuple[int, int]:
    """Two places in a text, from 0 to its length, each as likely; the lower first."""
    low, high = sorted(number * (length + 1) >> 64 for number in draw)
    return low, high


def parts_of(
    text: str, places: tuple[int, int], spm: bool, sentinels: tuple[int, ...], before: str = ""
) -> list[Part]:
    """A text with its middle last.

    Args:
        text: The text.
        places: Where its middle begins, and where it stops.
        spm: Whether the suffix comes first.
        sentinels: Before prefix, suffix and middle, and perhaps one behind the middle.
        before: What the prefix begins with, and is never cut.
    """
    begin, stop = places
    prefix, middle, suffix = before + text[:begin], text[begin:stop], text[stop:]
    before_prefix, before_suffix, before_middle, *end = sentinels
    if spm:
        return [before_prefix, before_suffix, suffix, before_middle, prefix, middle, *end]
    return [before_prefix, prefix, before_suffix, suffix, before_middle, middle, *end]


def rendering(infill: Infill, document: str, text: str, before: str = "") -> Rendering:
    """A text of a training document, transformed or not.

    Args:
        infill: How.
        document: Its id.
        text: Its text.
        before: What stands before it in the same text, and is never cut.
    """
    whether, order, *places = draws(infill.seed, infill.view, document)
    if not chance(whether, infill.rate) or not text:
        return Rendering([before + text])
    spm = chance(order, infill.spm)
    parts = parts_of(text, boundaries(places, len(text)), spm, infill.sentinels, before)
    return Rendering(parts, psm=not spm, spm=spm)


def restored(tokens: Iterable[int], sentinels: Sequence[int], breaks: Sequence[int] = ()) -> list[int]:
    """Tokens of a document in their order before it was transformed, without sentinels; `breaks` end a text, and stay.

    In both orders the suffix stands between two sentinels, and belongs behind what follows: up to the next text that was
    transformed, to the sentinel behind the middle, or to the end.
    """
    before_prefix, before_suffix, before_middle, *end = sentinels
    found: list[int] = []
    suffix: list[int] = []
    waiting: list[int] | None = None
    for token in tokens:
        if token == before_suffix:
            waiting = suffix
        elif token == before_middle:
            waiting = None
        elif token == before_prefix or token in end:
            found += suffix
            suffix, waiting = [], None
        elif token in breaks:
            found += [*suffix, token]
            suffix, waiting = [], None
        else:
            (found if waiting is None else waiting).append(token)
    return found + suffix


def cut_apart(text: str, tokens: tuple[str, ...]) -> list[str]:
    """A text in pieces of which none spells one of some tokens: cut behind the first character of each."""
    pattern = "|".join(map(re.escape, tokens))
    places = [match.start() + 1 for match in re.finditer(f"(?={pattern})", text)]
    return [text[begin:stop] for begin, stop in zip([0, *places], [*places, len(text)])]
