"""Losses and entropies of tokens under a Hugging Face causal language model, batched by length, without logits.

The context of a token is its document's separator-led stream up to it, as a trainer with document masks sees it at a
sample's start. Documents longer than the context are cut into windows that share `overlap` tokens.

What a window gets does not depend on what else is scored. The order in which a matrix product sums follows from its shape, so
a window is padded to a width that follows from its own length, and the other sizes of a forward pass from that width.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from perdure.pipeline.core.errors import PerdureError
from perdure.pipeline.core.shards import REF_MAX_UNITS, REF_MISSING, REF_NATS_PER_UNIT

if TYPE_CHECKING:
    import torch

FORMAT, BEFORE = 3, 2
"""Version of what is stored; a change in its meaning makes new directories. Scores of the version before depend by rounding on
what they were batched with; they are read where they are whole."""
SIDECARS = {"ref": "mean_nll", "ent": "mean_entropy"}
"""What is stored of every token, by suffix of its file, in the order of the rows that `token_losses` returns: its loss and the
entropy of the prediction. The values name the columns of `docs.parquet` with their means over documents."""
BATCH_TOKENS = {"cuda": 8192, "cpu": 2048}
"""Tokens of a forward pass, padding included; more would fill memory, not the machine."""
WHOLE_LOGITS = 1 << 24
"""Logits of a forward pass for models whose logits cannot be made a part at a time."""
HEAD_TOKENS = {"cuda": 2048, "cpu": 256}
"""Tokens whose losses are made at a time from the last hidden states, padding included."""
NARROWEST = 16
"""Least width of a forward pass, and least difference of two: CPUs sum the products of fewer rows in another order."""


class Window(NamedTuple):
    """A stretch of a document.

    Attributes:
        inputs: int64 [n].
        labels: int64 [n]; labels[t] follows inputs[t].
        skip: The first labels, which are context alone: the window before has scored them.
    """

    inputs: np.ndarray
    labels: np.ndarray
    skip: int = 0


class Head(NamedTuple):
    """An output layer: logits are hidden @ weight^T, capped.

    Attributes:
        weight: [vocabulary, hidden].
        softcap: c, if logits are c * tanh(z / c).
    """

    weight: "torch.Tensor"
    softcap: float | None


def token_losses(
    model: Any,
    windows: Sequence[Window],
    longest: int,
    batch_tokens: int | None = None,
    scored: Callable[[int], None] = lambda tokens: None,
) -> list[np.ndarray]:
    """Losses and entropies of a causal language model on many windows, batched by length.

    Args:
        model: A transformers causal language model in evaluation mode.
        windows: Of any sizes up to `longest`.
        longest: Tokens that a forward pass is wide at most, whatever windows there are.
        batch_tokens: Tokens of a forward pass, padding included; default `BATCH_TOKENS`. A longer window is a batch of
            its own.
        scored: Is told how many tokens each forward pass has scored.

    Returns:
        float32 [2, n - skip] per window, in nats: -log p(labels[t] | inputs[..t]), and the entropy of
        p(. | inputs[..t]).
    """
    import torch

    from perdure.pipeline.core.sending import received, sent

    device = next(model.parameters()).device
    batch_tokens = batch_tokens or BATCH_TOKENS[device.type]
    head = output_head(model)
    if head is None:
        batch_tokens = min(batch_tokens, max(1, WHOLE_LOGITS // model.config.vocab_size))
    found: list[Any] = [None] * len(windows)

    def take(batch: list[int], scores: Callable[[], "torch.Tensor"]) -> None:
        values = scores().numpy().copy()  # pinned memory is scarce, and handed out again
        ends = np.cumsum([len(windows[index].inputs) - windows[index].skip for index in batch])
        for index, part in zip(batch, np.split(values, ends[:-1], axis=1), strict=True):
            found[index] = part
        scored(values.shape[1])

    with torch.inference_mode():
        before: tuple | None = None  # a GPU computes the next batch while the scores of this one are taken
        for width, batch in width_batches([len(window.inputs) for window in windows], batch_tokens, longest):
            # GPUs sum in another order for another number of rows, so that theirs is always the same.
            rows = max(1, batch_tokens // width)
            if device.type == "cpu":
                rows = max(len(batch), -(-NARROWEST // width))
            arrays = _padded([windows[index] for index in batch], rows, width)
            tensors = (sent(torch.from_numpy(array), device) for array in arrays)
            scores = received(_losses(model, head, *tensors))
            if before:
                take(*before)
            before = batch, scores
        if before:
            take(*before)
    return found


def _padded(windows: Sequence[Window], rows: int, width: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Inputs, int64 [rows, width]; of the labels that are wanted, int64 [n], their places in the flattened inputs, and they.

    Padding stands on the right, where causal attention never looks.
    """
    inputs = np.zeros((rows, width), np.int64)
    for row, window in enumerate(windows):
        inputs[row, : len(window.inputs)] = window.inputs
    places = [row * width + np.arange(window.skip, len(window.inputs)) for row, window in enumerate(windows)]
    labels = [window.labels[window.skip :] for window in windows]
    return inputs, np.concatenate(places), np.concatenate(labels).astype(np.int64)


def document_windows(tokens: np.ndarray, eos_id: int, context: int, overlap: int = 0) -> list[Window]:
    """Cuts a document into windows, so that every token is scored once.

    Args:
        tokens: int64 [n], the document, its separator included.
        eos_id: The separator, which stands before the first token.
        context: Longest window.
        overlap: Tokens that a window shares with the one before, in [0, context).
    """
    stream = np.concatenate([[eos_id], tokens])
    starts = range(0, max(1, len(tokens) - overlap), context - overlap)
    return [
        Window(
            stream[start : start + context][: len(tokens) - start],
            tokens[start : start + context],
            overlap if start else 0,
        )
        for start in starts
    ]


def score_documents(
    model: Any,
    documents: list[np.ndarray],
    eos_id: int,
    context: int,
    overlap: int,
    scored: Callable[[int], None] = lambda tokens: None,
) -> Iterator[np.ndarray]:
    """Losses and entropies, float32 [2, num_tokens], of each document, in nats; `scored` as for `token_losses`."""
    windows = [document_windows(tokens, eos_id, context, overlap) for tokens in documents]
    every = [window for pieces in windows for window in pieces]
    found = iter(token_losses(model, every, context, scored=scored))
    for pieces in windows:
        yield np.concatenate([next(found) for _ in pieces], axis=1)


def to_units(nats: np.ndarray) -> np.ndarray:
    """Nats as stored: uint16 milli-nats, clipped; `REF_MISSING` where a value is not finite."""
    finite = np.isfinite(nats)
    units = np.rint(np.where(finite, nats, 0.0) / REF_NATS_PER_UNIT)
    return np.where(finite, np.clip(units, 0, REF_MAX_UNITS), REF_MISSING).astype(np.uint16)


def finite_mean(nats: np.ndarray) -> float:
    """Mean over a document's finite values; NaN if there are none."""
    finite = nats[np.isfinite(nats)]
    return float(finite.mean(dtype=np.float64)) if len(finite) else math.nan


def load_model(model_dir: Path, precision: str, device: str) -> Any:
    """A Hugging Face causal language model, ready to score.

    Raises:
        PerdureError: If transformers cannot load it.
    """
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # of its own: one a model, between our lines
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
    try:
        model = AutoModelForCausalLM.from_pretrained(
            model_dir, dtype=dtype, local_files_only=True, use_safetensors=True
        )
    except (OSError, ValueError, KeyError) as error:
        raise PerdureError(f"{model_dir}: the model cannot be loaded: {error}") from error
    return model.to(device).eval()


def output_head(model: Any) -> Head | None:
    """A model's output layer; None if its logits are not simply that layer applied to the last hidden state."""
    import torch

    layer = model.get_output_embeddings()
    softcap = getattr(model.config, "final_logit_softcapping", None)
    tokens = torch.arange(min(8, model.config.vocab_size), device=next(model.parameters()).device)[None]
    with torch.inference_mode():
        logits = model(input_ids=tokens, use_cache=False).logits
        hidden = model.base_model(input_ids=tokens, use_cache=False).last_hidden_state
        made = hidden @ layer.weight.t()
        if softcap:
            made = softcap * torch.tanh(made / softcap)
        # Equal but for rounding, of which bf16 has 2^-8 of a logit.
        tolerance = 1e-3 if logits.dtype == torch.float32 else 3e-2
        same = torch.allclose(made, logits, rtol=tolerance, atol=tolerance)
    return Head(layer.weight, softcap) if same else None


def width_batches(lengths: Sequence[int], batch_tokens: int, longest: int) -> Iterator[tuple[int, list[int]]]:
    """Batches of windows by padded width: the width, and the indices of at most `batch_tokens` tokens' windows."""
    members: dict[int, list[int]] = {}
    for index, length in enumerate(lengths):
        members.setdefault(_width(length, longest), []).append(index)
    for width, indices in sorted(members.items(), reverse=True):
        rows = max(1, batch_tokens // width)
        for start in range(0, len(indices), rows):
            yield width, indices[start : start + rows]


def _width(length: int, longest: int) -> int:
    """Padded width of a window: one of four widths per octave, at most `longest`."""
    step = max(NARROWEST, 1 << max(0, (length - 1).bit_length() - 3))
    return min(-(-length // step) * step, longest)


def _losses(
    model: Any, head: Head | None, inputs: "torch.Tensor", places: "torch.Tensor", labels: "torch.Tensor"
) -> "torch.Tensor":
    """Losses and entropies, float32 [2, wanted tokens], of `_padded` arrays on the model's device."""
    import torch

    from perdure.kernels import linear_nll

    if head is None:
        logits = model(input_ids=inputs, use_cache=False).logits.flatten(0, 1)[places].float()
        log_probs = torch.log_softmax(logits, -1)
        nll = -log_probs.gather(-1, labels[:, None])[:, 0]
        return torch.stack([nll, torch.special.entr(log_probs.exp()).sum(-1)])
    hidden = model.base_model(input_ids=inputs, use_cache=False).last_hidden_state.flatten(0, 1)[places]
    count, size, weight = len(hidden), HEAD_TOKENS[hidden.device.type], head.weight
    hidden = torch.nn.functional.pad(hidden, (0, 0, 0, -count % size))
    targets = torch.nn.functional.pad(labels, (0, -count % size))
    parts = [
        torch.stack(linear_nll(rows, weight, own, vocab_size=len(weight), softcap=head.softcap, entropy=True))
        for rows, own in zip(hidden.split(size), targets.split(size), strict=True)
    ]
    return torch.cat(parts, 1)[:, :count]
