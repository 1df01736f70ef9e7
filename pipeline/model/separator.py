"""The token that documents end in: what a directory's files say of it, and what an export's say."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from perdure.pipeline.core.files import read_json

if TYPE_CHECKING:
    from tokenizers import Tokenizer

NAMING = ("config.json", "generation_config.json")
"""Files that name end tokens by their ids, beside `tokenizer_config.json`, which names one by its text."""


def special_tokens(directory: Path) -> dict[int, str]:
    """Tokens of a directory's `tokenizer.json` that are no text, such as `</s>`, by id."""
    added = read_json(directory / "tokenizer.json").get("added_tokens") or []
    return {token["id"]: token["content"] for token in added if token.get("special")}


def end_tokens(named: Any, separator: int, special: dict[int, str]) -> int | list[int]:
    """What an export's file says under `eos_token_id`.

    The separator of training comes first. Others that the file named before stay, as those that end a turn of a chat do,
    unless they are tokens of ordinary text: those would end sentences at random.

    Args:
        named: What the file said before; None if nothing.
        separator: The token that documents ended in.
        special: Tokens that are no text (`special_tokens`).
    """
    others = [token for token in _ids(named) if token in special and token != separator]
    return [separator, *others] if others else separator


def separator_line(directory: Path, tokenizer: "Tokenizer") -> tuple[str, str]:
    """What a directory's documents end in.

    Returns:
        It in words, and a line for a recipe's tokenizer section: empty if all files agree, else the field with what they
        say, or, if no file names a token of the vocabulary, a comment on what it must name.
    """
    path = directory / "tokenizer_config.json"
    own = read_json(path).get("eos_token") if path.is_file() else None
    own = own["content"] if isinstance(own, dict) else own
    separator = None if own is None else tokenizer.token_to_id(own)
    named = {
        name: _ids(read_json(directory / name).get("eos_token_id"))
        for name in NAMING
        if (directory / name).is_file()
    }
    others = {
        name: " or ".join(f"{tokenizer.id_to_token(token)!r} ({token})" for token in ids)
        for name, ids in named.items()
        if ids and separator not in ids
    }
    said = "; ".join(f"{name} says {words}" for name, words in others.items())
    if separator is None:
        words = (
            "nothing names"
            if own is None
            else f"{own!r} of tokenizer_config.json is no token; nothing else names"
        )
        candidates = ", ".join(map(repr, special_tokens(directory).values())) or "there are none"
        hint = f"# eos_token: the token that documents end in; special tokens: {candidates}{'; ' if said else ''}{said}"
        return f"{words} the token that documents end in: tokenizer.eos_token must", hint
    if said:
        field = yaml.safe_dump({"eos_token": own}, allow_unicode=True).strip()
        return (
            f"documents end in {own!r}, or in something else: {said}",
            f"{field}  # or what else documents end in: {said}",
        )
    return f"documents end in {own!r}", ""


def _ids(named: Any) -> list[int]:
    ids = named if isinstance(named, list) else [named]
    return [token for token in ids if isinstance(token, int)]
