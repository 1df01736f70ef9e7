"""Makes conversations of a model's own answers, for chats.yaml: what it says before an update, to be replayed and measured.

    python data_recipes/reproduce/own_answers.py models/smollm2 --to corpus/chats.jsonl

MODEL is a Hugging Face directory whose tokenizer has a chat template. The questions are made of the names of territories,
languages, currencies (the package `babel`) and modules of Python's standard library, so that nothing is downloaded. Its own
answers are what it can be expected to keep: a model that has lost nothing predicts them as before (self-distillation, as in
the retained prompts of C3PO, Stephan et al. 2024, arXiv 2402.10893). Everything follows from the seed.
"""

import argparse
import json
import random
import sys
from collections.abc import Iterator
from itertools import product
from pathlib import Path

QUESTIONS = {
    "territories": ("Where is {}?", "What is {} known for?", "What is the capital of {}?"),
    "languages": ("Where do people speak {}?", "Tell me something about the language {}."),
    "currencies": ("Which country uses the {}?",),
    "modules": ("What is the module `{}` of Python's standard library for?",),
}
"""By kind of names, what is asked about each."""
BATCH = 32
"""Questions that are answered at a time."""


def names() -> dict[str, list[str]]:
    """English names by kind, in order."""
    from babel import Locale

    english = Locale("en")
    return {
        "territories": sorted(name for code, name in english.territories.items() if code.isalpha()),
        "languages": sorted(set(english.languages.values())),
        "currencies": sorted(set(english.currencies.values())),
        "modules": sorted(name for name in sys.stdlib_module_names if not name.startswith("_")),
    }


def questions(seed: int) -> list[str]:
    """All questions, shuffled."""
    found = [
        question.format(name)
        for kind, asked in QUESTIONS.items()
        for question, name in product(asked, names()[kind])
    ]
    random.Random(seed).shuffle(found)
    return found


def answers(model_directory: Path, asked: list[str], longest: int, seed: int) -> Iterator[str]:
    """Samples a model's answers at temperature 0.7.

    Args:
        model_directory: Hugging Face directory of a causal language model with a chat template.
        asked: What the user says.
        longest: Most tokens of an answer; what is longer ends at the last whole sentence.
        seed: Of the sampling.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.manual_seed(seed)
    tokenizer = AutoTokenizer.from_pretrained(model_directory, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(model_directory, dtype=torch.float32).eval()
    for first in range(0, len(asked), BATCH):
        prompts = [
            tokenizer.apply_chat_template(
                [{"role": "user", "content": question}], add_generation_prompt=True, tokenize=False
            )
            for question in asked[first : first + BATCH]
        ]
        read = tokenizer(prompts, return_tensors="pt", padding=True, add_special_tokens=False)
        made = model.generate(
            **read, max_new_tokens=longest, do_sample=True, temperature=0.7, top_p=0.95, top_k=0
        )
        for row in made[:, read["input_ids"].shape[1] :]:
            text = tokenizer.decode(row, skip_special_tokens=True).strip()
            cut = len(row) == longest and row[-1] not in tokenizer.all_special_ids
            yield text[: text.rfind(".") + 1] if cut else text


def main(model: Path, to: Path, count: int, longest: int, seed: int) -> None:
    """Writes conversations, one JSON object with `id` and `messages` a line; questions without an answer are left out."""
    asked = questions(seed)[:count]
    to.parent.mkdir(parents=True, exist_ok=True)
    written = 0
    with to.open("w", encoding="utf-8") as file:
        for number, (question, answer) in enumerate(
            zip(asked, answers(model, asked, longest, seed), strict=True)
        ):
            if answer:
                turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
                file.write(json.dumps({"id": f"chat-{number}", "messages": turns}, ensure_ascii=False) + "\n")
                file.flush()
                written += 1
    print(f"{written} of {count} conversations -> {to}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("model", type=Path, help="Hugging Face directory with a chat template")
    parser.add_argument("--to", type=Path, required=True, help="JSONL file to write")
    parser.add_argument(
        "--count", type=int, default=800, help="questions that are asked (default: %(default)s)"
    )
    parser.add_argument(
        "--longest", type=int, default=64, help="most tokens of an answer (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=1, help="of questions and answers (default: %(default)s)")
    arguments = parser.parse_args()
    main(arguments.model, arguments.to, arguments.count, arguments.longest, arguments.seed)
