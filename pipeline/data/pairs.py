"""Pairs of answers as they are written: a document of two halves, the prompt before each answer and a separator behind it."""

from typing import Any

from perdure.pipeline.core.errors import PerdureError
from perdure.pipeline.core.shards import REJECTED, REJECTED_LABEL
from perdure.pipeline.data.chat import ChatTemplate, Rendered, encode_chat, render, render_prompt
from perdure.pipeline.data.read.pairs import PLAIN


def render_pair(template: ChatTemplate, pair: dict[str, Any]) -> tuple[Rendered, Rendered]:
    """Renders the prompt of a pair with each of its answers, of which alone the spans are.

    Args:
        template: The chat template; strings need none.
        pair: As `read.pairs.pair_of` makes it.

    Raises:
        PerdureError: If the template refuses it, or does not tell what of it is the assistant's.
    """
    prompt, chosen = pair["messages"][: pair["prompt"]], pair["messages"][pair["prompt"] :]
    chosen, rejected = (_rendered(template, prompt, answer) for answer in (chosen, pair["rejected"]))
    return chosen, rejected


def _rendered(template: ChatTemplate, prompt: list[dict], answer: list[dict]) -> Rendered:
    if answer[0]["role"] == PLAIN:
        asked = prompt[0]["content"] + prompt[0].get("blanks", "")
        text = asked + answer[0]["content"]
        return Rendered(text, ((len(asked), len(text)),), 0)
    found = render(template, {"messages": prompt + answer})
    before = len(render_prompt(template, prompt))
    return Rendered(found.text, tuple(span for span in found.spans if span[0] >= before), 0)


def encode_pair(
    rendered: tuple[Rendered, Rendered], tokenizer: Any, eos_id: int, spellings: tuple[str, ...]
) -> tuple[list[int], list[int], list[int]]:
    """Tokens of both halves of a rendered pair and their label mask, which has `REJECTED_LABEL` and `REJECTED` in the second.

    Args:
        rendered: The prompt with the chosen answer, and with the rejected one.
        tokenizer: Of the tokenizers library, which takes the spelling of a special token for that token.
        eos_id: The separator.
        spellings: Of all special tokens.

    Raises:
        PerdureError: If an answer has no label.
    """
    (chosen, mask), (rejected, other) = (encode_chat(each, tokenizer, eos_id, spellings) for each in rendered)
    if not (any(mask) and any(other)):
        raise PerdureError("no token of one of its answers would be trained on")
    return chosen, rejected, [*mask, *(REJECTED_LABEL if value else REJECTED for value in other)]
