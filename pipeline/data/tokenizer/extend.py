"""Vocabulary extension: tokens of a new domain for an existing BPE tokenizer (as Swallow, arXiv 2404.17790, extends
Llama 2's vocabulary by Japanese).

BPE training goes on where the old tokenizer's ended: the new texts are cut into old tokens, and the most frequent
neighbours are merged. The new merges stand behind the old ones, so every old merge happens as before, new tokens can
be reached, and old text changes only where it holds the very pairs that are frequent in the new domain.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from perdure.pipeline.core.errors import PerdureError
from perdure.pipeline.data.tokenizer.directory import not_extensible

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Texts = Callable[[], Iterator[str]]
SPACE = "▁"
BYTE = re.compile(r"<0x[0-9A-F]{2}>")
FIRST = 0x10000
"""Code point that stands for token 0 while merges are learnt; the million from here on hold no space or surrogate."""
COVERAGE = 0.9995
"""Share of the characters that a vocabulary with byte fallback should hold (sentencepiece's default)."""
LONGEST_RUN = 1024
"""Tokens of a run; learning takes quadratic time in it."""
BATCH = 256
"""Documents that are tokenised together."""


def extend(
    base: "Tokenizer", num_tokens: int, texts: Texts, path: Path
) -> tuple["Tokenizer", list[list[int]]]:
    """Adds tokens to a BPE tokenizer; the ids of old tokens stay.

    Args:
        base: The tokenizer.
        num_tokens: Tokens to add.
        texts: Begins to read the documents of the new domain.
        path: Where the tokenizer comes from, for messages.

    Returns:
        The extended tokenizer, whose new ids follow the largest old one; and for each new token the ids into which
        the old tokenizer cuts its text.

    Raises:
        PerdureError: If the tokenizer is no BPE, or the texts are too few for so many tokens.
    """
    from tokenizers import Tokenizer

    tree = json.loads(base.to_str())
    model = tree["model"]
    if reason := not_extensible(base):
        raise PerdureError(f"tokenizer.path = {path}: {reason}")
    # Once others follow them, added tokens keep their ids only if the vocabulary holds them.
    model["vocab"] |= {token["content"]: token["id"] for token in tree["added_tokens"]}
    first = max(model["vocab"].values()) + 1
    new = _missing_characters(base, texts)[:num_tokens] if model["byte_fallback"] else []
    model["vocab"] |= {character: first + number for number, character in enumerate(new)}
    grown = Tokenizer.from_str(json.dumps(tree))
    grown.encode_special_tokens = base.encode_special_tokens
    segments = _segments(grown, texts)
    names = {index: piece for piece, index in model["vocab"].items()}
    # Several merges may lead to the same text, so more are learnt than are needed.
    for pair in _learn(segments, 2 * (num_tokens - len(new))):
        if len(new) == num_tokens:
            break
        left, right = ("".join(names[ord(mark) - FIRST] for mark in side) for side in pair)
        model["merges"].append([left, right])
        if (piece := left + right) not in model["vocab"]:
            model["vocab"][piece] = first + len(new)
            new.append(piece)
    if len(new) < num_tokens:
        raise PerdureError(
            f"tokenizer.num_tokens = {num_tokens}: the sources yield only {len(new)} new tokens (pairs that occur "
            "twice); lower it or name more sources"
        )
    pieces = [[token.id for token in base.model.tokenize(piece)] for piece in new]
    return Tokenizer.from_str(json.dumps(tree)), pieces


def _missing_characters(tokenizer: "Tokenizer", texts: Texts) -> list[str]:
    """Characters that the vocabulary lacks, the most frequent first, as far as `COVERAGE` asks for them."""
    normalizer, vocabulary = tokenizer.normalizer, tokenizer.get_vocab()
    counts: Counter[str] = Counter()
    for text in texts():
        counts.update(normalizer.normalize_str(text) if normalizer else text)
    found, covered, enough = [], 0, COVERAGE * counts.total()
    for character, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        if covered >= enough:
            break
        covered += count
        if character not in vocabulary and not character.isspace():
            found.append(character)
    return found


def _segments(tokenizer: "Tokenizer", texts: Texts) -> Counter[str]:
    """Runs of tokens that may grow together, one character a token, with their counts.

    A run ends with its word (a tokenizer without words, as Llama 2's, marks them by `SPACE`); tokens that are special
    or stand for bytes are in none.
    """
    vocabulary = tokenizer.get_vocab()
    special = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
    excluded = {index for piece, index in vocabulary.items() if piece in special or BYTE.fullmatch(piece)}
    opening = {index for piece, index in vocabulary.items() if piece.startswith(SPACE)}
    counts: Counter[str] = Counter()
    documents = texts()
    while batch := list(islice(documents, BATCH)):
        for encoding in tokenizer.encode_batch(batch, add_special_tokens=False):
            run, last = "", None
            for index, word in zip(encoding.ids, encoding.word_ids):
                if word != last or index in opening or index in excluded or len(run) == LONGEST_RUN:
                    counts[run] += 1
                    run, last = "", word
                if index not in excluded:
                    run += chr(FIRST + index)
            counts[run] += 1
    return Counter({run: count for run, count in counts.items() if len(run) > 1})


def _learn(segments: Counter[str], num_merges: int) -> list[list[str]]:
    """Merges of the byte-pair algorithm (Sennrich et al. 2016) over the characters of weighted words."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    alphabet = len(set().union(*segments))
    trainer = trainers.BpeTrainer(vocab_size=alphabet + num_merges, min_frequency=2, show_progress=False)
    learner.train_from_iterator((f"{run} " * count for run, count in sorted(segments.items())), trainer)
    return json.loads(learner.to_str())["model"]["merges"]
