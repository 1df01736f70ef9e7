"""A small model's shape, and losses by a plain forward pass."""

import numpy as np
import torch

VOCAB = 500
SMALL = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}


def plain_losses(model, inputs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Losses and entropies of one window by a plain forward pass, float64 [2, n]."""
    with torch.inference_mode():
        logits = model(torch.from_numpy(inputs)[None].long()).logits[0].double()
    spread = torch.distributions.Categorical(logits=logits).entropy()
    nll = -torch.log_softmax(logits, -1)[range(len(labels)), labels]
    return torch.stack([nll, spread]).numpy()
