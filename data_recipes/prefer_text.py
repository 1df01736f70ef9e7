"""Text for `prefer.yaml`: conversations and pairs of answers that are made up, and a model's own answers to prompts.

python data_recipes/prefer_text.py text corpus                                    # chats, pairs and other prompts
python data_recipes/prefer_text.py answers MODEL corpus/general.jsonl OUT.jsonl   # what MODEL answers, for `retain`
"""

import argparse
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

THINGS = "apple bell cart drum engine fence glove hammer island jacket kettle ladder mirror needle oven pencil".split()
PLACES = "attic barn cellar garden garage kitchen library market office stable tower yard".split()


def brief(thing: str, place: str) -> str:
    """The answer that is preferred."""
    return f"In the {place}."


def wordy(thing: str, place: str) -> str:
    """The answer that is not."""
    return f"That is a good question. As far as I know, the {thing} may well be in the {place}."


def question(thing: str, place: str, number: int) -> str:
    """A prompt that holds its answer."""
    return f"Room {number}: the {thing} is in the {place}. Where is the {thing}?"


def talk(prompt: str, answer: str) -> list[dict[str, str]]:
    """A conversation of two messages."""
    return [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]


def rows(kind: str, count: int, seed: int) -> Iterator[dict[str, Any]]:
    """Rows of a kind of text: `chats` of both styles, `pairs`, and prompts that the pairs are not about (`general`) or almost
    about (`near`)."""
    rng = random.Random(f"{kind} {seed}")
    for number in range(count):
        thing, place = rng.choice(THINGS), rng.choice(PLACES)
        prompt = question(thing, place, number)
        if kind == "chats":
            yield {"messages": talk(prompt, rng.choice((brief, wordy))(thing, place))}
        elif kind == "pairs":
            answers = {"chosen": brief(thing, place), "rejected": wordy(thing, place)}
            yield {"prompt": talk(prompt, "")[:1]} | {
                name: talk("", answer)[1:] for name, answer in answers.items()
            }
        elif kind == "general":
            yield {"prompt": talk(f"Say {rng.randint(2, 9)} words about a {thing}, number {number}.", "")[:1]}
        else:
            yield {
                "prompt": talk(f"Room {number}: the {thing} was in the {place}. Tell me more about it.", "")[
                    :1
                ]
            }


def write_text(directory: Path, count: int, seed: int) -> None:
    """Writes a file of JSON lines for each kind of text."""
    directory.mkdir(parents=True, exist_ok=True)
    for kind, number in {"chats": count, "pairs": count, "general": count // 4, "near": count // 4}.items():
        lines = (json.dumps(row) + "\n" for row in rows(kind, number, seed))
        (directory / f"{kind}.jsonl").write_text("".join(lines))


def write_answers(model: Path, prompts: Path, out: Path, max_new_tokens: int) -> None:
    """Writes conversations of prompts and a model's own, most likely answers, up to the end of a turn.

    Args:
        model: A Hugging Face directory with a chat template, such as a version's `hf/`.
        prompts: JSON lines with a `prompt`, a list of messages.
        out: Receives JSON lines with `messages`.
        max_new_tokens: Longest answer; one that does not end by then is left out.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer, network = AutoTokenizer.from_pretrained(model), AutoModelForCausalLM.from_pretrained(model)
    written = []
    for line in prompts.read_text().splitlines():
        prompt = json.loads(line)["prompt"]
        text = tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True)
        # A document comes behind a separator, as in training.
        inputs = tokenizer(tokenizer.eos_token + text, add_special_tokens=False, return_tensors="pt")
        found = network.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False)[0]
        answer = found[inputs["input_ids"].shape[1] :].tolist()
        if tokenizer.eos_token_id in answer:
            told = tokenizer.decode(
                answer[: answer.index(tokenizer.eos_token_id)], skip_special_tokens=True
            ).strip()
            written += [{"messages": [*prompt, {"role": "assistant", "content": told}]}] if told else []
    out.write_text("".join(json.dumps(row) + "\n" for row in written))


def main() -> None:
    """Does what the command line says."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    text = verbs.add_parser("text", help="write made-up conversations, pairs and prompts")
    text.add_argument("directory", type=Path)
    text.add_argument(
        "--count", type=int, default=2000, help="conversations, and pairs (default: %(default)s)"
    )
    text.add_argument("--seed", type=int, default=1)
    answers = verbs.add_parser("answers", help="write a model's own answers to prompts")
    answers.add_argument("model", type=Path)
    answers.add_argument("prompts", type=Path)
    answers.add_argument("out", type=Path)
    answers.add_argument("--max-new-tokens", type=int, default=128)
    chosen = parser.parse_args()
    if chosen.verb == "text":
        write_text(chosen.directory, chosen.count, chosen.seed)
    else:
        write_answers(chosen.model, chosen.prompts, chosen.out, chosen.max_new_tokens)


if __name__ == "__main__":
    main()
