"""Checks and facts of a Hugging Face tokenizer's directory, read without transformers."""

import json
import shutil
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perdure.pipeline import recipe
from perdure.pipeline.core.errors import PerdureError, Problem
from perdure.pipeline.core.files import write_json

if TYPE_CHECKING:
    from tokenizers import Tokenizer

COPIED = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "tokenizer.model",
)
SETTINGS = ("tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")
"""Of these files, the ones that do not list the vocabulary."""
SEPARATOR = "<|endoftext|>"
"""Separates documents where the tokenizer is trained here."""
PLAIN = {"tokenizer_class": "PreTrainedTokenizerFast"}
"""What stands for a `tokenizer_config.json` that is not there."""

Spec = recipe.HuggingFaceTokenizer | recipe.ExtendedTokenizer


def problem(spec: Spec) -> Problem | None:
    """The problem of a directory that cannot be used: own code, dropout, no separator; None if there is none."""
    path = spec.path
    try:
        tokenizer = read_tokenizer(path / "tokenizer.json")
        config = _object(path / "tokenizer_config.json", PLAIN)
        _object(path / "special_tokens_map.json", {})
    except PerdureError as error:
        return Problem("tokenizer.path", str(path), str(error).removeprefix(f"{path}/"))
    own_code = config.get("auto_map") or {}
    if not isinstance(own_code, dict) or "AutoTokenizer" in own_code:
        return Problem(
            "tokenizer.path",
            str(path),
            "its tokenizer_config.json has an `auto_map`: it needs code of its own, which is never run; save it as "
            "`tokenizer_class: PreTrainedTokenizerFast`",
        )
    extended = not_extensible(tokenizer) if isinstance(spec, recipe.ExtendedTokenizer) else None
    if reason := extended or random_cuts(tokenizer):
        return Problem("tokenizer.path", str(path), reason)
    eos = spec.eos_token or own_separator(path)
    if eos is None:
        config_eos, map_eos = _named(path)
        reason = (
            f"its tokenizer_config.json names {config_eos!r}, its special_tokens_map.json {map_eos!r} for the end of a "
            "sequence"
            if map_eos
            else f"{path} names no end-of-sequence token"
        )
    elif tokenizer.token_to_id(eos) is None:
        cut = len(tokenizer.encode(eos, add_special_tokens=False).ids)
        reason = f"{path} has no token {eos!r}" + (f" (it is {cut} tokens)" if cut > 1 else "")
    else:
        return None
    remedy = f"{reason}; set it to a token of its vocabulary that should separate documents"
    return Problem("tokenizer.eos_token", spec.eos_token, remedy)


def read_tokenizer(path: Path) -> "Tokenizer":
    """Loads a `tokenizer.json`; not to be changed, because it is kept.

    Raises:
        PerdureError: If it cannot be read.
    """
    try:
        return _read(path, path.stat().st_mtime_ns)
    except Exception as error:  # the library raises bare exceptions on a broken file
        raise PerdureError(f"{path}: cannot be read ({error})") from None


@lru_cache(maxsize=4)
def _read(path: Path, modified: int) -> "Tokenizer":
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(path))


def not_extensible(tokenizer: "Tokenizer") -> str | None:
    """Why no tokens can be added to a tokenizer as its merges would; None if they can."""
    kind = type(tokenizer.model).__name__
    affixes = [
        getattr(tokenizer.model, name, None) for name in ("continuing_subword_prefix", "end_of_word_suffix")
    ]
    if kind == "BPE" and not any(affixes):
        return None
    with_affixes = f" with {' and '.join(repr(affix) for affix in affixes if affix)}" if kind == "BPE" else ""
    return f"{kind}{with_affixes} cannot be extended; only BPE without prefixes and suffixes can"


def random_cuts(tokenizer: "Tokenizer") -> str | None:
    """Why a tokenizer would cut the same text differently every time; None if it does not."""
    if dropout := getattr(tokenizer.model, "dropout", None):
        return (
            f"its model has a `dropout` of {dropout:g}: it would cut the same text differently every time; set it to null "
            "in a copy of tokenizer.json"
        )
    return None


def lacks_characters(tokenizer: "Tokenizer") -> str | None:
    """Warning about characters that a vocabulary has no token for; None if it has a token for every byte."""
    from tokenizers import pre_tokenizers

    vocabulary = tokenizer.get_vocab(with_added_tokens=True)
    byte_level = all(character in vocabulary for character in pre_tokenizers.ByteLevel.alphabet())
    if byte_level or all(f"<0x{byte:02X}>" in vocabulary for byte in range(256)):
        return None
    unknown = getattr(tokenizer.model, "unk_token", None)
    fate = f"becomes {unknown!r}" if unknown else "is left out, or told as one unknown token"
    return (
        f"the tokenizer's vocabulary has no bytes: a character that it does not know {fate}; the data stage counts them, "
        "and drops documents of nothing else"
    )


def tokenizer_warnings(spec: recipe.Tokenizer) -> list[str]:
    """Warnings about a checked recipe's tokenizer."""
    if not isinstance(spec, Spec) or not (spec.path / "tokenizer.json").is_file():
        return []
    reason = lacks_characters(read_tokenizer(spec.path / "tokenizer.json"))
    return [f"tokenizer.path = {spec.path}: {reason}"] if reason else []


def own_separator(path: Path) -> str | None:
    """The end-of-sequence token that a directory names; None if it names none, or two files name different ones."""
    config, mapped = _named(path)
    return None if config and mapped and config != mapped else config or mapped


def _named(path: Path) -> tuple[str | None, str | None]:
    """The end-of-sequence token by `tokenizer_config.json`, and by `special_tokens_map.json` where it is read."""
    config = _object(path / "tokenizer_config.json", PLAIN)
    mapped = {} if "added_tokens_decoder" in config else _object(path / "special_tokens_map.json", {})
    return _content(config.get("eos_token")), _content(mapped.get("eos_token"))


def _content(token: Any) -> str | None:
    token = token.get("content") if isinstance(token, dict) else token
    return token if isinstance(token, str) and token else None


def _object(path: Path, default: dict) -> dict:
    if not path.is_file():
        return default
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise PerdureError(f"{path}: not readable as JSON ({error})") from None
    if not isinstance(value, dict):
        raise PerdureError(f"{path}: should be a JSON object")
    return value


def copy_files(spec: Spec, names: tuple[str, ...], directory: Path) -> str:
    """Copies files as they are, so that their hashes go on identifying them; only the separator may change.

    Returns:
        The separator.

    Raises:
        PerdureError: If the directory has a `problem`.
    """
    if found := problem(spec):
        raise PerdureError(str(found))
    for name in names:
        if (spec.path / name).is_file():
            shutil.copyfile(spec.path / name, directory / name)
    own = own_separator(directory)
    eos = spec.eos_token or own
    assert eos is not None  # else there was a problem
    config = directory / "tokenizer_config.json"
    if eos != own:
        (directory / "special_tokens_map.json").unlink(missing_ok=True)
    if eos != own or not config.is_file():
        write_json(config, _object(config, PLAIN) | {"eos_token": eos})
    return eos
