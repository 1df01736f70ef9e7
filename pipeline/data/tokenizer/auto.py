"""A tokenizer's directory as `transformers.AutoTokenizer` loads it from an export, which decides the tokens.

A class that the directory or the model's `config.json` names may build its tokenizer anew from vocabulary and merges
(transformers 5: `LlamaTokenizer`, `Qwen2Tokenizer`, ...), other files may add tokens. Where the result cuts texts in
another way than `tokenizer.json` does, it is kept beside it and used instead.
"""

import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from perdure.pipeline import recipe
from perdure.pipeline.core.errors import PerdureError
from perdure.pipeline.core.files import read_json, write_atomic, write_json
from perdure.pipeline.core.hashes import hash_file
from perdure.pipeline.core.tokenizers import LOADED
from perdure.pipeline.data.tokenizer.coverage import loses_characters, sample_characters
from perdure.pipeline.data.tokenizer.directory import COPIED, random_cuts

if TYPE_CHECKING:
    from tokenizers import Tokenizer

READ = ("model_type", "model_name", "tokenizer_class", "transformers_version")
"""Entries of a model's `config.json` that AutoTokenizer looks at."""


def model_config(model: recipe.Model) -> dict:
    """The entries of an export's `config.json` that AutoTokenizer reads."""
    if isinstance(model, recipe.LlamaModel):
        return {"model_type": "llama"}
    path = model.path / "config.json"
    return {key: value for key, value in read_json(path).items() if key in READ} if path.is_file() else {}


def load_as_exported(directory: Path, config: dict) -> Any:
    """Loads a tokenizer with AutoTokenizer, beside the `config.json` of its model; runs no code of the directory.

    Raises:
        PerdureError: If transformers cannot load it, or encodes texts in Python.
    """
    # Where PyTorch is not installed, it would say so; tokenizers do not need it.
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    from transformers import AutoTokenizer, PreTrainedTokenizerFast
    from transformers.utils import logging

    told = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        with _beside(directory, config) as path:
            found = AutoTokenizer.from_pretrained(path, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # of any class, by whatever the files lead to
        reason = " ".join(str(error).split())[:300]
        raise PerdureError(
            f"{directory}: AutoTokenizer cannot load it beside a {config.get('model_type')} model "
            f"({type(error).__name__}: {reason}); name another `tokenizer_class` in its tokenizer_config.json"
        ) from None
    finally:
        logging.set_verbosity(told)
    own, plain = type(found), PreTrainedTokenizerFast
    if not isinstance(found, plain) or any(
        getattr(own, name, None) is not getattr(plain, name, None)
        for name in ("__call__", "encode", "_encode_plus", "_batch_encode_plus")
    ):
        raise PerdureError(
            f"{directory}: its class {own.__name__} encodes texts by code of its own; only tokenizers that are "
            "wholly in the tokenizers library can be used"
        )
    return found


@contextmanager
def _beside(directory: Path, config: dict) -> Iterator[str]:
    with TemporaryDirectory() as folder:
        for name in COPIED:
            if (directory / name).is_file():
                shutil.copyfile(directory / name, Path(folder) / name)
        if config:
            write_json(Path(folder) / "config.json", config)
        yield folder


def as_loaded(directory: Path, config: dict) -> dict:
    """Records in a tokenizer's manifest how AutoTokenizer loads it, unless that is recorded.

    Args:
        directory: What `build_tokenizer` made.
        config: What `model_config` says.

    Returns:
        The manifest. Its `loaded` has the model's type as `beside`; `sha256` of `LOADED`, None if there is none; and
        whether the tokenizer `loses_characters`.

    Raises:
        PerdureError: If it cannot be loaded, would cut the same text differently every time, or has another separator
            than the one recorded; or if it was made for a model of another type, beside which it means something else.
    """
    facts = read_json(directory / "manifest.json")
    model_type = config.get("model_type")
    if (known := facts.get("loaded")) and known["beside"] == model_type:
        return facts
    from tokenizers import Tokenizer

    parse = facts["parse_special_tokens"]
    auto = load_as_exported(directory, config)
    stated, loaded = Tokenizer.from_file(str(directory / "tokenizer.json")), auto.backend_tokenizer
    tree = _tree(loaded, directory)
    if reason := random_cuts(loaded):
        raise PerdureError(f"{directory}: {reason}")
    eos = facts["eos_token"]
    if (auto.eos_token, auto.eos_token_id) != (eos, facts["eos_id"]):
        raise PerdureError(
            f"{directory}: AutoTokenizer takes {auto.eos_token!r} ({auto.eos_token_id}) for the end of a sequence, but "
            f"documents end in {eos!r} ({facts['eos_id']}); tokenizer.eos_token can name one of both"
        )
    text = None
    if _encoding(tree, parse) != _encoding(json.loads(stated.to_str()), parse):
        text = json.dumps(tree, ensure_ascii=False)
    used = stated if text is None else Tokenizer.from_str(text)
    loses = loses_characters(used, directory)
    _compare(used, loaded, parse, directory)
    if known:
        if text != ((directory / LOADED).read_text(encoding="utf-8") if known["sha256"] else None):
            raise PerdureError(
                f"{directory}: was made for a {known['beside']} model; beside a {model_type} model AutoTokenizer loads "
                "it otherwise; give this recipe an `out` of its own"
            )
        return facts
    if text is not None:
        write_atomic(directory / LOADED, text)
        if "files" in facts:
            facts["files"][LOADED] = {
                "bytes": len(text.encode()),
                "sha256": hash_file(directory / LOADED),
            }
        facts["vocab_size"] = max(loaded.get_vocab(with_added_tokens=True).values()) + 1
    facts["loaded"] = {
        "beside": model_type,
        "sha256": hash_file(directory / LOADED) if text is not None else None,
        "loses_characters": loses,
    }
    write_json(directory / "manifest.json", facts)
    return facts


def _tree(tokenizer: "Tokenizer", directory: Path) -> dict:
    """A tokenizer as JSON, from which it can be made again."""
    from tokenizers import Tokenizer

    tokenizer.no_truncation()
    tokenizer.no_padding()
    try:
        text = tokenizer.to_str()
        Tokenizer.from_str(text)
    except Exception as error:  # the library raises bare exceptions: parts in Python cannot be saved
        raise PerdureError(
            f"{directory}: as AutoTokenizer loads it, it cannot be saved ({error}); save it with save_pretrained() and "
            "`tokenizer_class: PreTrainedTokenizerFast`"
        ) from None
    return json.loads(text)


def _compare(used: "Tokenizer", loaded: "Tokenizer", parse_special_tokens: bool, directory: Path) -> None:
    """Compares a tokenizer read from JSON with one in memory, which can hold what no JSON says of its added tokens.

    Those that are the same once normalised are found by a hash map whose order is random.
    """
    contents = [token.content for token in loaded.get_added_tokens_decoder().values()]
    normalizer = loaded.normalizer
    alike = Counter(
        normalizer.normalize_str(token.content) if normalizer else token.content
        for token in loaded.get_added_tokens_decoder().values()
        if token.normalized
    )
    if same := next((content for content, times in alike.items() if times > 1), None):
        raise PerdureError(
            f"{directory}: several of its added tokens are {same!r} once normalised; which of them a text becomes changes "
            "with every start"
        )
    probes = [" ".join(sample_characters()), "".join(contents), " ".join(contents), f"x{'x'.join(contents)}x"]
    probes += [content.swapcase() for content in contents] + contents
    found = []
    for tokenizer in (used, loaded):
        tokenizer.no_truncation()
        tokenizer.no_padding()
        tokenizer.encode_special_tokens = not parse_special_tokens
        found.append([encoding.ids for encoding in tokenizer.encode_batch(probes, add_special_tokens=False)])
    for probe, ours, theirs in zip(probes, *found, strict=True):
        if ours != theirs:
            raise PerdureError(
                f"{directory}: AutoTokenizer cuts {probe[:60]!r} in another way once the tokenizer is saved and read "
                "again: its files define an added token twice"
            )


def _encoding(tree: dict, parse_special_tokens: bool) -> dict:
    """The parts of a tokenizer's JSON that decide the tokens of texts, in a canonical form."""
    model = {key: value for key, value in tree["model"].items() if value != ""}
    model = {key: value for key, value in model.items() if value not in (None, False, 0.0)}
    if "unk_token" not in model:
        model.pop("fuse_unk", None)
    if "<0x00>" not in model["vocab"]:
        model.pop("byte_fallback", None)
    added = tree["added_tokens"]
    if not parse_special_tokens:
        plain = [token["content"] for token in added if not token["special"]]
        added = [token for token in added if not token["special"] or _shadows(token["content"], plain)]
    return {
        "model": model,
        "added_tokens": sorted(added, key=lambda token: token["id"]),
        "normalizer": _steps(tree["normalizer"], "normalizers"),
        "pre_tokenizer": _steps(tree["pre_tokenizer"], "pretokenizers"),
    }


def _shadows(special: str, plain: list[str]) -> bool:
    """Whether a special token that is text like any other can keep another added token from being found.

    The library looks for both kinds alike, from left to right, and passes over special ones once they are found.
    """
    return any(
        other in special or any(other.startswith(special[cut:]) for cut in range(1, len(special)))
        for other in plain
    )


def _steps(part: dict | None, nested: str) -> list[dict]:
    """A normaliser or pre-tokenizer as a flat list of steps, without options for offsets."""
    if part is None:
        return []
    if part["type"] == "Sequence":
        return [step for inner in part[nested] for step in _steps(inner, nested)]
    return [{key: value for key, value in part.items() if key != "trim_offsets"}]
