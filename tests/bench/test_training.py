"""Training speed beside the plain Hugging Face loop: same model, same batch, same CPU, taking turns."""

import json
import statistics
import time
from pathlib import Path

import pytest
from support import on_rank, prepare_version, tiny_recipe

STEPS, ROUNDS = 12, 5
SHAPE = {
    "type": "llama",
    "num_layers": 6,
    "hidden_size": 256,
    "ffn_hidden_size": 704,
    "num_attention_heads": 4,
    "num_query_groups": 2,
}
VOCAB, SEQ_LENGTH, BATCH = 4096, 256, 8


def plain_loop() -> list[float]:
    """Seconds per step: a transformers Llama, torch's AdamW, gradient clipping."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=SHAPE["hidden_size"],
        intermediate_size=SHAPE["ffn_hidden_size"],
        num_hidden_layers=SHAPE["num_layers"],
        num_attention_heads=SHAPE["num_attention_heads"],
        num_key_value_heads=SHAPE["num_query_groups"],
        tie_word_embeddings=True,
        attn_implementation="sdpa",
    )
    model = LlamaForCausalLM(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1)
    seconds = []
    for _ in range(STEPS):
        tokens = torch.randint(1, VOCAB, (BATCH, SEQ_LENGTH))
        begun = time.perf_counter()
        model(input_ids=tokens, labels=tokens, use_cache=False).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        seconds.append(time.perf_counter() - begun)
    return seconds[1:]


@pytest.mark.bench
def test_training_is_at_least_as_fast_as_the_plain_hugging_face_loop(tmp_path: Path):
    changes = {
        "model": SHAPE,
        "training__seq_length": SEQ_LENGTH,
        "training__micro_batch_size": BATCH,
        "training__global_batch_size": BATCH,
        "versions__v1__tokens": SEQ_LENGTH * BATCH * STEPS,
        "versions__v1__mixture__max_repetition": 1e6,
    }
    plain = prepare_version(tiny_recipe(tmp_path / "plain", **changes), vocab_size=VOCAB)
    selection = {"versions__v1__selection": {"k": 0.6, "reference": "/unused"}}
    selective = prepare_version(
        tiny_recipe(tmp_path / "selective", **changes, **selection), scored=True, vocab_size=VOCAB
    )
    loops = {
        "transformers loop": ("plain_loop",),
        "perdure": ("step_seconds", str(plain), STEPS),
        "perdure, k = 0.6": ("step_seconds", str(selective), STEPS),
    }
    rates: dict[str, list[float]] = {name: [] for name in loops}
    for _ in range(ROUNDS):
        for name, call in loops.items():
            seconds = on_rank(*call, threads=2)
            rates[name].append(SEQ_LENGTH * BATCH / statistics.median(seconds))
    print(f"\n| loop | tokens/s (median of {ROUNDS} runs) | against transformers |\n|---|---|---|")
    base = statistics.median(rates["transformers loop"])
    for name, found in rates.items():
        print(f"| {name} | {statistics.median(found):,.0f} | {statistics.median(found) / base:.2f} |")
    print(json.dumps(rates))
    assert statistics.median(rates["perdure"]) >= base
