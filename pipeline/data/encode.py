"""Documents as tokens: texts, texts whose middle is to be filled in, and conversations."""

from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import NamedTuple

from datatrove.data import Document

from perdure.pipeline.core.errors import PerdureError
from perdure.pipeline.core.shards import LABEL, PREFIX
from perdure.pipeline.core.tokenizers import LoadedTokenizer
from perdure.pipeline.data.chat import ChatTemplate, encode_chat, render, text_of_labels
from perdure.pipeline.data.fim import Rendering, cut_apart
from perdure.pipeline.data.pairs import encode_pair, render_pair
from perdure.pipeline.data.read.conversations import CONVERSATION


class Encoded(NamedTuple):
    """A document as it is written.

    Attributes:
        text: What was tokenised.
        tokens: Their ids, the separator last.
        mask: Which of them are labels, a number each; None: all are.
        num_bytes: UTF-8 bytes of the text that counts.
        plain: Its first text that is tokenised as it stands, with the ids that the tokenizer gives for it and a separator
            behind them; None if there is no such text.
        has_sentinels: Whether its text has tokens that only stand between texts, whatever is done.
        halves: Documents that it is to attention: two of a pair.
    """

    text: str
    tokens: list[int]
    mask: list[int] | None
    num_bytes: int
    plain: tuple[str, list[int]] | None
    has_sentinels: bool = False
    halves: int = 1


def encode_texts(
    tokenizer: LoadedTokenizer,
    documents: list[Document],
    renderings: list[Rendering] | None = None,
    sentinels: Mapping[str, int] = MappingProxyType({}),
) -> Iterator[Encoded]:
    """Token ids of each document, and the separator.

    Args:
        tokenizer: The tokenizer.
        documents: The documents.
        renderings: Each in parts, of which every text is tokenised on its own; default: the whole text of each.
        sentinels: Ids of tokens, by spelling, that no text may become.
    """
    if renderings is None:
        renderings = [Rendering([document.text]) for document in documents]
    texts = [part for rendering in renderings for part in rendering.parts if isinstance(part, str)]
    encodings = iter(tokenizer.tokenizer.encode_batch_fast(texts, add_special_tokens=False))
    for document, rendering in zip(documents, renderings, strict=True):
        tokens: list[int] = []
        plain, has_sentinels = None, False
        for part in rendering.parts:
            if isinstance(part, int):
                tokens.append(part)
                continue
            ids = next(encodings).ids
            if _none_of(sentinels, ids):
                plain = plain or ((part, [*ids, tokenizer.eos_id]) if part else None)
            else:
                ids = _cut(tokenizer, part, sentinels)
                has_sentinels |= not _none_of(sentinels, ids)
            tokens += ids
        tokens.append(tokenizer.eos_id)
        size = len(document.text.encode())
        yield Encoded(document.text, tokens, None, size, plain, has_sentinels)


def encode_chats(
    tokenizer: LoadedTokenizer, documents: list[Document], template: ChatTemplate
) -> Iterator[Encoded]:
    """Token ids of each conversation, or pair, as the template renders it, and the separator; with its labels."""
    eos = tokenizer.eos_id
    tokenizer.tokenizer.encode_special_tokens = False  # the template's own are tokens
    for document in documents:
        conversation = document.metadata[CONVERSATION]
        try:
            if "rejected" in conversation:
                yield _encode_pair(tokenizer, template, conversation)
                continue
            rendered = render(template, conversation)
        except PerdureError as error:
            raise PerdureError(f"document {document.id}: {error}") from None
        tokens, mask = encode_chat(rendered, tokenizer.tokenizer, eos, template.spellings)
        if not any(mask):
            raise PerdureError(f"{template.name}: no token of document {document.id} would be trained on")
        own = tokens[: len(tokens) - (not rendered.text.endswith(template.special["eos_token"]))]
        num_bytes = len(text_of_labels(rendered, template.spellings).encode())
        yield Encoded(rendered.text, tokens, mask, num_bytes, (rendered.text, [*own, eos]))


def with_prefixes(
    tokenizer: LoadedTokenizer,
    encoded: Iterable[Encoded],
    prefixes: list[str | None],
    sentinels: Mapping[str, int] = MappingProxyType({}),
) -> Iterator[Encoded]:
    """Documents with prefixes, which are tokenised on their own, so that the tokens of a text are the same with and without.

    Args:
        tokenizer: The tokenizer.
        encoded: The documents.
        prefixes: Each document's, None for those that have none.
        sentinels: Ids of tokens, by spelling, that no prefix may become.
    """
    texts = [prefix for prefix in prefixes if prefix is not None]
    ids = iter(tokenizer.tokenizer.encode_batch_fast(texts, add_special_tokens=False))
    for document, prefix in zip(encoded, prefixes, strict=True):
        before = [] if prefix is None else next(ids).ids
        has_sentinels = document.has_sentinels
        if prefix is not None and not _none_of(sentinels, before):
            before = _cut(tokenizer, prefix, sentinels)
            has_sentinels |= not _none_of(sentinels, before)
        mask = [PREFIX] * len(before) + [LABEL] * len(document.tokens)
        yield document._replace(tokens=[*before, *document.tokens], mask=mask, has_sentinels=has_sentinels)


def _none_of(sentinels: Mapping[str, int], ids: list[int]) -> bool:
    return set(sentinels.values()).isdisjoint(ids)


def _cut(tokenizer: LoadedTokenizer, text: str, sentinels: Mapping[str, int]) -> list[int]:
    """Tokens of a text in pieces of which none spells a sentinel."""
    pieces = tokenizer.tokenizer.encode_batch_fast(
        cut_apart(text, tuple(sentinels)), add_special_tokens=False
    )
    return [token for piece in pieces for token in piece.ids]


def _encode_pair(tokenizer: LoadedTokenizer, template: ChatTemplate, pair: dict) -> Encoded:
    """A pair as it is written; its text, and bytes, are those of the prompt with the chosen answer."""
    rendered = render_pair(template, pair)
    half, second, mask = encode_pair(rendered, tokenizer.tokenizer, tokenizer.eos_id, template.spellings)
    text = rendered[0].text
    whole = [*half, tokenizer.eos_id] if text.endswith(template.special["eos_token"]) else half
    num_bytes = len(text_of_labels(rendered[0], template.spellings).encode())
    return Encoded(text, [*half, *second], mask, num_bytes, (text, whole), halves=2)
