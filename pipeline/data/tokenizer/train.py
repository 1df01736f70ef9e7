"""The run's one tokenizer: copied from a model, extended, converted from sentencepiece, or trained; always a Hugging Face
directory with a `tokenizer.json`, which both the tokenizers library and transformers' `AutoTokenizer` load."""

import json
import shutil
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perdure.pipeline import recipe
from perdure.pipeline.core.errors import PerdureError
from perdure.pipeline.core.files import read_json, write_json
from perdure.pipeline.core.hashes import hash_file, hash_of
from perdure.pipeline.core.integrity import is_whole, require_whole
from perdure.pipeline.core.manifest import finish
from perdure.pipeline.data.chat import TEMPLATE, read_template, special_tokens
from perdure.pipeline.data.context import StageContext
from perdure.pipeline.data.tokenizer.directory import COPIED, SEPARATOR, SETTINGS, copy_files
from perdure.pipeline.data.tokenizer.extend import extend
from perdure.pipeline.data.tokenizer.sentencepiece import convert, verify

if TYPE_CHECKING:
    from tokenizers import Tokenizer

LONGEST_WORD = 1024
"""Bytes of a word from which a tokenizer is trained whole; longer ones are cut."""
SAMPLE = 200
"""Documents on which a converted tokenizer is compared with its original."""


def parses_special_tokens(spec: recipe.Tokenizer) -> bool:
    """Whether the spelling of a special token in a text becomes that token; else it is text like any other."""
    return spec.type in ("huggingface", "extend") and spec.parse_special_tokens


def tokenizer_inputs(spec: recipe.Tokenizer) -> dict[str, Any]:
    """What a tokenizer depends on, sources to train on excepted.

    Raises:
        PerdureError: If its files do not exist.
    """
    if (own := spec.chat_template) is None:
        return _inputs(spec)
    if not own.is_file():
        raise PerdureError(f"tokenizer.chat_template = {own}: no such file")
    return _inputs(spec) | {"chat_template": hash_file(own)}


def put_template(directory: Path, own: Path | None) -> dict[str, str]:
    """Puts the recipe's chat template in the place of a tokenizer's own, if it names one.

    Returns:
        For the manifest, the hash of the template and of the special tokens that it writes by their variables; empty if there
        is none.
    """
    if own is not None:
        shutil.copyfile(own, directory / TEMPLATE)
        config = directory / "tokenizer_config.json"
        if config.is_file():
            told = json.loads(config.read_text(encoding="utf-8"))
            write_json(config, {key: value for key, value in told.items() if key != "chat_template"})
    if (found := read_template(directory)) is None:
        return {}
    written = {
        name: token
        for name, token in special_tokens(directory).items()
        if name != "eos_token"
        and any(name in text for text in found[1:])  # the separator is in the data's inputs
    }
    return {"chat_template": hash_of([*found[1:], written] if written else found[1:])}


def _inputs(spec: recipe.Tokenizer) -> dict[str, Any]:
    match spec:
        case recipe.HuggingFaceTokenizer() | recipe.ExtendedTokenizer():
            if not (spec.path / "tokenizer.json").is_file():
                raise PerdureError(f"tokenizer.path = {spec.path}: no `tokenizer.json` in it")
            files = {name: hash_file(spec.path / name) for name in COPIED if (spec.path / name).is_file()}
            inputs: dict[str, Any] = {"type": spec.type, "files": files, "eos_token": spec.eos_token}
            inputs["parse_special_tokens"] = spec.parse_special_tokens
            if spec.type == "extend":
                inputs |= {"num_tokens": spec.num_tokens, "sample_words": spec.sample_words}
            return inputs
        case recipe.SentencePieceTokenizer():
            if not spec.path.is_file():
                raise PerdureError(
                    f"tokenizer.path = {spec.path}: no such file; name a sentencepiece `.model`"
                )
            return {"type": spec.type, "model": hash_file(spec.path)}
        case recipe.TrainedTokenizer():
            return {"type": spec.type, "vocab_size": spec.vocab_size, "sample_words": spec.sample_words}


def build_tokenizer(
    context: StageContext, spec: recipe.Tokenizer, final: Path, sources: dict[str, Path], inputs: dict
) -> Path:
    """Writes the tokenizer's directory, unless it is finished.

    Args:
        context: What the stage's steps share; documents that any source holds out (`reserved_fraction`) do not train it.
        spec: The recipe's tokenizer.
        final: Where it goes.
        sources: Each source's cleaned documents.
        inputs: What it depends on, for the manifest; `sample` is added: `documents` and `words` that it was learnt from,
            and `of_words` that its sources have, where they have more than `sample_words`.

    Returns:
        `final`.

    Raises:
        PerdureError: If the separator is unknown, or a sentencepiece model cannot be converted faithfully.
    """
    if is_whole(final):
        return final
    from perdure.pipeline.data.backends.local import building

    with building(context.out, final) as work:
        sample = None
        if isinstance(spec, recipe.TrainedTokenizer | recipe.ExtendedTokenizer):
            chosen, sample = _learnt_from(context, spec, sources, work)
        artefact = work / "artefact"
        shutil.rmtree(artefact)  # of a build that was killed
        artefact.mkdir()
        match spec:
            case recipe.HuggingFaceTokenizer():
                tokenizer, eos = _copy(spec, artefact)
            case recipe.ExtendedTokenizer():
                tokenizer, eos = _extend(
                    spec, lambda: train_texts(chosen, context.reserved_fraction), artefact
                )
            case recipe.SentencePieceTokenizer():
                tokenizer, eos = convert(spec.path)
                first = [
                    text
                    for directory in sources.values()
                    for text in islice(document_texts(directory), SAMPLE)
                ]
                verify(tokenizer, spec.path, first)
                _save(tokenizer, eos, artefact)
            case recipe.TrainedTokenizer():
                texts, special = (
                    train_texts(chosen, context.reserved_fraction),
                    inputs.get("special_tokens", []),
                )
                tokenizer, eos = train(spec.vocab_size, texts, special), SEPARATOR
                _save(tokenizer, eos, artefact)
        chat = put_template(artefact, spec.chat_template)
        vocabulary = tokenizer.get_vocab(with_added_tokens=True)
        finish(
            artefact,
            chat
            | {
                "inputs": inputs,
                "tokenizer_hash": hash_file(artefact / "tokenizer.json"),
                "eos_token": eos,
                "eos_id": vocabulary[eos],
                "vocab_size": max(vocabulary.values()) + 1,
                "parse_special_tokens": parses_special_tokens(spec),
                "sample": sample,
            },
        )
    return final


def _learnt_from(
    context: StageContext,
    spec: recipe.TrainedTokenizer | recipe.ExtendedTokenizer,
    sources: dict[str, Path],
    work: Path,
) -> tuple[list[Path], dict[str, int] | None]:
    """Directories of the documents to learn from, and the size of the sample, if it is one."""
    chosen = [sources[name] for name in spec.sources]
    for directory in chosen:
        require_whole(directory)
    words = sum(read_json(path / "manifest.json")["counts"]["words"]["out"] for path in chosen)
    if words <= spec.sample_words:
        return chosen, None
    from perdure.pipeline.data.tokenizer.sample import draw

    drawn, sizes = draw(context, chosen, spec.sample_words / words, work)
    return drawn, sizes | {"of_words": words}


def train(vocab_size: int, texts: Iterator[str], special: Iterable[str] = ()) -> "Tokenizer":
    """Trains a byte-level BPE tokenizer (Radford et al. 2019), whose every byte is in the vocabulary.

    Args:
        vocab_size: Its tokens; fewer if the texts hold fewer pairs to merge.
        texts: What it learns from.
        special: Further special tokens, behind the separator.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    words = pre_tokenizers.ByteLevel(add_prefix_space=False)
    # Learning takes quadratic time in the length of a word, and a run of one character is one. One character is one byte here.
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, pre_tokenizers.FixedLength(LONGEST_WORD)])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(dict.fromkeys([SEPARATOR, *special])),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.pre_tokenizer = words
    return tokenizer


def _copy(spec: recipe.HuggingFaceTokenizer, directory: Path) -> tuple["Tokenizer", str]:
    """Copies the files as they are, so that their hashes go on identifying them; only the separator may change."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(spec.path / "tokenizer.json"))
    return tokenizer, copy_files(spec, COPIED, directory)


def _extend(
    spec: recipe.ExtendedTokenizer, texts: Callable[[], Iterator[str]], directory: Path
) -> tuple["Tokenizer", str]:
    """Writes the extended tokenizer, and in `extension.json` what it adds to which one."""
    from tokenizers import Tokenizer

    path = spec.path / "tokenizer.json"
    base = Tokenizer.from_file(str(path))
    base.encode_special_tokens = not spec.parse_special_tokens
    eos = copy_files(spec, SETTINGS, directory)
    tokenizer, pieces = extend(base, spec.num_tokens, texts, path)
    tokenizer.save(str(directory / "tokenizer.json"))
    first = max(base.get_vocab(with_added_tokens=True).values()) + 1
    facts = {"base_tokenizer_hash": hash_file(path), "base_vocab_size": first, "pieces": pieces}
    write_json(directory / "extension.json", facts)
    return tokenizer, eos


def _save(tokenizer: "Tokenizer", eos: str, directory: Path) -> None:
    tokenizer.save(str(directory / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": eos,
        "clean_up_tokenization_spaces": False,
        "model_max_length": 1_000_000_000,
    }
    write_json(directory / "tokenizer_config.json", config)


def document_texts(directory: Path) -> Iterator[str]:
    """Texts of the cleaned documents in a directory."""
    from perdure.pipeline.data.read.readers import CleanedDocuments

    for document in CleanedDocuments(str(directory)).all():
        yield document.text


def train_texts(directories: list[Path], reserved_fraction: float) -> Iterator[str]:
    """Texts of the documents whose hash is not below `reserved_fraction`: those that no source holds out."""
    from perdure.pipeline.data.cleaning.normalise import is_heldout, text_hash

    for directory in directories:
        for text in document_texts(directory):
            if not is_heldout(text_hash(text), reserved_fraction):
                yield text
