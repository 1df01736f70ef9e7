"""Two ways of scoring, each in a process of its own: `python scoring.py FUNCTION JSON_ARGUMENTS ANSWER`.

The plain way: padded batches in the order of the documents, whole logits, log_softmax.
"""

import json
import sys
import threading
import time
from functools import partial
from pathlib import Path

import numpy as np
import psutil

sys.path.insert(0, str(Path(__file__).parent))
from turns import in_turns

BATCH = 8


def documents(number: int, vocab: int) -> list[np.ndarray]:
    """As long as those of an encyclopedia: log-normal, half of them below 90 tokens, some of several windows."""
    rng = np.random.default_rng(0)
    lengths = np.clip(rng.lognormal(4.5, 0.8, number).astype(int), 8, 1000)
    return [rng.integers(1, vocab, length) for length in lengths]


def model(shape: dict):
    """In evaluation mode, fp32, with random weights."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(attn_implementation="sdpa", **shape)).eval()


def plain(scorer, texts: list[np.ndarray], context: int) -> list[np.ndarray]:
    """Windows in the order of the documents, padded to the longest of their batch; all logits at once."""
    import torch

    from perdure.pipeline.data.score.losses import document_windows

    windows = [window for tokens in texts for window in document_windows(tokens, 0, context)]
    found = []
    with torch.inference_mode():
        for start in range(0, len(windows), BATCH):
            batch = windows[start : start + BATCH]
            width = max(len(window.inputs) for window in batch)
            tokens = torch.zeros(2, len(batch), width, dtype=torch.long)
            mask = torch.zeros(len(batch), width, dtype=torch.long)
            for row, window in enumerate(batch):
                tokens[0, row, : len(window.inputs)] = torch.from_numpy(window.inputs)
                tokens[1, row, : len(window.inputs)] = torch.from_numpy(window.labels)
                mask[row, : len(window.inputs)] = 1
            logits = scorer(input_ids=tokens[0], attention_mask=mask, use_cache=False).logits
            log_probs = torch.log_softmax(logits.float(), -1)
            losses = -log_probs.gather(-1, tokens[1][..., None])[..., 0].numpy()
            found += [losses[row, : len(window.inputs)] for row, window in enumerate(batch)]
    return found


def ours(scorer, texts: list[np.ndarray], context: int) -> list[np.ndarray]:
    """The losses of `token_losses`, which finds the entropies too."""
    from perdure.pipeline.data.score.losses import score_documents

    return [scores[0] for scores in score_documents(scorer, texts, 0, context, 0)]


WAYS = {"plain": plain, "ours": ours}


def memory(way: str, shape: dict, context: int, number: int) -> int:
    """Bytes beyond the model's at the peak."""
    scorer, texts = model(shape), documents(number, shape["vocab_size"])
    WAYS[way](scorer, texts[:2], context)
    process, stop = psutil.Process(), threading.Event()
    peak = before = process.memory_info().rss

    def watch():
        nonlocal peak
        while not stop.wait(0.002):
            peak = max(peak, process.memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    WAYS[way](scorer, texts, context)
    stop.set()
    watcher.join()
    return peak - before


def seconds(shape: dict, context: int, number: int, turns: int) -> dict:
    """CPU seconds of both ways, taking turns; the number of tokens, and the largest difference of a token's losses."""
    scorer, texts = model(shape), documents(number, shape["vocab_size"])
    losses = {}

    def timed(way: str) -> float:
        begun = time.process_time()
        losses[way] = np.concatenate(WAYS[way](scorer, texts, context))
        return time.process_time() - begun

    for run in WAYS.values():
        run(scorer, texts[:2], context)
    taken = in_turns({way: partial(timed, way) for way in WAYS}, turns)
    apart = float(np.abs(losses["plain"] - losses["ours"]).max())
    return {"seconds": taken, "tokens": len(losses["ours"]), "apart": apart}


if __name__ == "__main__":
    function, arguments, answer = sys.argv[1:]
    Path(answer).write_text(json.dumps(globals()[function](*json.loads(arguments))))
