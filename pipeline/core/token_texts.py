"""Texts of consecutive tokens for display, with whole characters even where their bytes are spread over tokens."""

from collections.abc import Callable

MOST = 4
"""Tokens that a character can be spread over: the most bytes that UTF-8 has for one."""


def token_texts(decode: Callable[[list[int]], str], tokens: list[int]) -> list[str]:
    """The text that each token adds to that of the tokens before it.

    Args:
        decode: Gives the text of tokens.
        tokens: A run.

    Returns:
        A string for each token; joined, they are the text. Of tokens that make a character together, the first has it and the
        others are empty.
    """
    texts: list[str] = []
    before: list[int] = []  # decoded along, since a token's blank may depend on what precedes it
    start = 0
    while start < len(tokens):
        known = decode(before)
        for end in range(start + 1, min(start + MOST, len(tokens)) + 1):
            text = decode(before + tokens[start:end])
            if not text.endswith("\ufffd"):
                break
        else:
            text, end = (
                decode(before + tokens[start : start + 1]),
                start + 1,
            )  # no character, or the replacement character
        texts += [text[len(known) :], *[""] * (end - start - 1)]
        before, start = tokens[start:end], end
    return texts
