"""The models whose training steps are timed."""

SHAPES: dict[str, dict[str, int | float]] = {
    "Llama-3.2-1B": {
        "num_layers": 16,
        "hidden_size": 2048,
        "ffn_hidden_size": 8192,
        "num_attention_heads": 32,
        "num_query_groups": 8,
        "rope_theta": 500_000.0,
    },
    "SmolLM2-135M": {
        "num_layers": 30,
        "hidden_size": 576,
        "ffn_hidden_size": 1536,
        "num_attention_heads": 9,
        "num_query_groups": 3,
    },
    "small": {
        "num_layers": 2,
        "hidden_size": 256,
        "ffn_hidden_size": 512,
        "num_attention_heads": 4,
        "num_query_groups": 2,
    },
    "tiny": {
        "num_layers": 2,
        "hidden_size": 32,
        "ffn_hidden_size": 64,
        "num_attention_heads": 4,
        "num_query_groups": 2,
    },
}
"""Models as a recipe describes them; their embeddings are tied."""
BATCHES = {
    "Llama-3.2-1B": (2048, 4, 2),
    "SmolLM2-135M": (512, 2, 1),
    "small": (64, 4, 2),
    "tiny": (16, 4, 2),
}
"""Per model: tokens per sample, samples per step, samples per micro-batch."""
VOCABULARIES = {"Llama-3.2-1B": 128_256, "SmolLM2-135M": 49_152, "small": 1024, "tiny": 384}
"""Multiples of 128, to which Megatron pads: its own loss would give padding probability."""
