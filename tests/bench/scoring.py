"""Two ways of scoring, each in a process of its own: `python scoring.py FUNCTION JSON_ARGUMENTS ANSWER`.

The plain way: padded batches in the order of the documents, whole logits, log_softmax. The model has SmolLM2-135M's shape
and random weights: the work is the same.
"""

import json
import sys
import threading
import time
from pathlib import Path

import numpy as np
import psutil

VOCAB, CONTEXT, BATCH = 49_152, 256, 8
SHAPE = {
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "tie_word_embeddings": True,
}


def documents() -> list[np.ndarray]:
    """As long as those of an encyclopedia: log-normal, half of them below 90 tokens, some of several windows."""
    rng = np.random.default_rng(0)
    lengths = np.clip(rng.lognormal(4.5, 0.8, 48).astype(int), 8, 1000)
    return [rng.integers(1, VOCAB, length) for length in lengths]


def model():
    """In evaluation mode, fp32."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(vocab_size=VOCAB, attn_implementation="sdpa", **SHAPE)).eval()


def plain(scorer, texts: list[np.ndarray]) -> list[np.ndarray]:
    """Windows in the order of the documents, padded to the longest of their batch; all logits at once."""
    import torch

    from perdure.pipeline.data.losses import document_windows

    windows = [window for tokens in texts for window in document_windows(tokens, 0, CONTEXT)]
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


def ours(scorer, texts: list[np.ndarray]) -> list[np.ndarray]:
    """The losses of `token_losses`, which finds the entropies too."""
    from perdure.pipeline.data.losses import score_documents

    return [scores[0] for scores in score_documents(scorer, texts, 0, CONTEXT, 0)]


def measure(way: str) -> dict:
    """Seconds, bytes beyond the model's at the peak, and the losses' sum; called in a process of its own."""
    scorer, texts = model(), documents()
    globals()[way](scorer, texts[:2])
    process, peak, stop = psutil.Process(), 0, threading.Event()

    def watch():
        nonlocal peak
        while not stop.wait(0.002):
            peak = max(peak, process.memory_info().rss)

    before = process.memory_info().rss
    watcher = threading.Thread(target=watch)
    watcher.start()
    begun = time.process_time()
    losses = np.concatenate(globals()[way](scorer, texts))
    seconds = time.process_time() - begun
    stop.set()
    watcher.join()
    return {"seconds": seconds, "bytes": peak - before, "tokens": len(losses), "loss": float(losses.mean())}


if __name__ == "__main__":
    function, arguments, answer = sys.argv[1:]
    Path(answer).write_text(json.dumps(globals()[function](*json.loads(arguments))))
