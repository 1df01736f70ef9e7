"""A sentencepiece model (Kudo and Richardson 2018) as a fast tokenizer, built from what the model file says."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perdure.pipeline.core.errors import PerdureError

if TYPE_CHECKING:
    from tokenizers import Tokenizer, normalizers, pre_tokenizers

SPACE = "▁"
UNIGRAM, BPE = 1, 2
UNKNOWN, CONTROL, USER_DEFINED, BYTE = 2, 3, 4, 6
RESERVED = (UNKNOWN, CONTROL, BYTE)
"""Kinds of pieces that no text becomes by their spelling."""


def convert(path: Path) -> tuple["Tokenizer", str]:
    """Converts a `.model` file.

    Returns:
        The tokenizer and its end-of-sequence piece.

    Raises:
        PerdureError: If it is no sentencepiece model, has no end-of-sequence piece, or is neither unigram nor BPE.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models

    if reason := unusable(path):
        raise PerdureError(f"tokenizer.path = {path}: {reason}")
    proto = _read(path)
    spec = proto.trainer_spec
    pieces = [(piece.piece, piece.score) for piece in proto.pieces]
    if spec.model_type == UNIGRAM:
        model: Any = models.Unigram(pieces, spec.unk_id, spec.byte_fallback)
    else:
        vocabulary = {piece: index for index, (piece, _) in enumerate(pieces)}
        model = models.BPE(
            vocabulary,
            _merges([piece for piece in proto.pieces if piece.type not in RESERVED], vocabulary),
            unk_token=pieces[spec.unk_id][0],
            fuse_unk=True,
            byte_fallback=spec.byte_fallback,
        )
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = _normalizer(proto.normalizer_spec)
    if spec.model_type == UNIGRAM:
        tokenizer.pre_tokenizer = _spellings(proto.pieces)
    steps: list = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    if proto.normalizer_spec.add_dummy_prefix:
        steps.append(decoders.Strip(content=" ", left=1))
    tokenizer.decoder = decoders.Sequence(steps)
    for piece in proto.pieces:
        if piece.type in (CONTROL, USER_DEFINED):
            tokenizer.add_tokens([AddedToken(piece.piece, normalized=False, special=piece.type == CONTROL)])
    return tokenizer, pieces[spec.eos_id][0]


def unusable(path: Path) -> str | None:
    """Why a file cannot be converted; None if it can."""
    from google.protobuf.message import DecodeError

    try:
        proto = _read(path)
    except DecodeError:
        return "not a sentencepiece model"
    spec = proto.trainer_spec
    if not 0 <= spec.eos_id < len(proto.pieces):
        return "the model has no end-of-sequence piece to separate documents"
    return None if spec.model_type in (UNIGRAM, BPE) else "only unigram and BPE models can be converted"


def _read(path: Path) -> Any:
    from sentencepiece import sentencepiece_model_pb2

    proto = getattr(sentencepiece_model_pb2, "ModelProto")()  # noqa: B009 - made at run time, unknown to mypy
    proto.ParseFromString(path.read_bytes())
    return proto


def verify(tokenizer: "Tokenizer", path: Path, texts: list[str]) -> None:
    """Compares a converted tokenizer with its original.

    Raises:
        PerdureError: With the first text on which they differ.
    """
    from sentencepiece import SentencePieceProcessor

    original = SentencePieceProcessor(model_file=str(path))
    tokenizer.encode_special_tokens = True
    for text in texts:
        if tokenizer.encode(text, add_special_tokens=False).ids != original.encode(text):
            raise PerdureError(
                f"tokenizer.path = {path}: the converted tokenizer differs from sentencepiece on {text[:60]!r}; "
                "convert the model yourself and use type `huggingface`"
            )


def _normalizer(spec: Any) -> "normalizers.Sequence":
    from tokenizers import Regex, normalizers

    steps: list = []
    if spec.precompiled_charsmap:
        steps.append(normalizers.Precompiled(spec.precompiled_charsmap))
    if spec.remove_extra_whitespaces:
        steps += [normalizers.Strip(), normalizers.Replace(Regex(" {2,}"), " ")]
    if spec.add_dummy_prefix:
        steps.append(normalizers.Prepend(SPACE))
    return normalizers.Sequence([*steps, normalizers.Replace(" ", SPACE)])


def _spellings(pieces: Any) -> "pre_tokenizers.Split":
    """Cuts the spelling of a reserved piece in two, because a unigram model would find the piece in the text.

    The cut is made where nothing reaches across, if there is such a place: no other piece, nor a run of characters that
    no piece has, which is unknown as a whole.
    """
    from tokenizers import Regex, pre_tokenizers

    others = {piece.piece for piece in pieces if piece.type not in RESERVED}
    joined = "\n".join(others)
    found = []
    for piece in (piece.piece for piece in pieces if piece.type in RESERVED and len(piece.piece) > 1):
        pairs = [piece[cut - 1 : cut + 1] for cut in range(1, len(piece))]
        apart = [pair not in joined and not others.isdisjoint(pair) for pair in pairs]
        cut = 1 + (apart.index(True) if True in apart else 0)
        found.append(f"{re.escape(piece[:cut])}(?={re.escape(piece[cut:])})")
    return pre_tokenizers.Split(Regex("|".join(found)), "merged_with_previous")


def _merges(pieces: Any, vocabulary: dict[str, int]) -> list[tuple[str, str]]:
    """All pairs of pieces that form a piece, best score first, as sentencepiece merges them."""
    merges = []
    for piece in pieces:
        text = piece.piece
        for cut in range(1, len(text)):
            left, right = text[:cut], text[cut:]
            if left in vocabulary and right in vocabulary:
                merges.append((-piece.score, vocabulary[left], vocabulary[right], left, right))
    return [(left, right) for *_, left, right in sorted(merges)]
