"""Rendering of conversations with a chat template, and which characters of the result are the assistant's.

Templates run in Hugging Face's own Jinja sandbox. Where a template marks what the assistant generates (`{% generation %}`), the
marks are taken; else the turns are found by rendering the conversation up to before and behind each of them, and a template
whose renderings do not continue one another is refused.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perdure.pipeline.core.errors import PerdureError
from perdure.pipeline.core.files import read_json
from perdure.pipeline.core.shards import LABEL, LAST_LABEL, NO_LABEL

TEMPLATE = "chat_template.jinja"
"""Name of a chat template in a tokenizer's directory."""
MARK = re.compile(r"\{%[-+]?\s*generation\s*[-+]?%\}")
PROBE = [{"role": "user", "content": "What is it?"}, {"role": "assistant", "content": "A probe."}]
"""A conversation that every template should render."""


@dataclass(frozen=True)
class ChatTemplate:
    """A chat template.

    Attributes:
        name: What messages call it.
        text: The template.
        with_tools: The one for conversations with tools, if that is another.
        special: Its variables for special tokens, such as `bos_token`.
        spellings: Spellings of all special tokens of the tokenizer.
    """

    name: str
    text: str
    with_tools: str
    special: dict[str, str]
    spellings: tuple[str, ...]


@dataclass(frozen=True)
class Rendered:
    """A rendered conversation: its text, and the assistant's stretches of it, from a character to before another, in order.

    `last` is the number of the first stretch of the last turn.
    """

    text: str
    spans: tuple[tuple[int, int], ...]
    last: int


def read_template(directory: Path, own: Path | None = None) -> tuple[str, str, str] | None:
    """A chat template with its name and the one for tools; None if there is none.

    Args:
        directory: A tokenizer's directory.
        own: A file that takes the place of the tokenizer's template.

    Raises:
        PerdureError: If the file cannot be read.
    """
    file = own or directory / TEMPLATE
    if own is not None or file.is_file():
        try:
            text = file.read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise PerdureError(f"{file}: no chat template: {error}") from None
        return str(file), text, text
    config = directory / "tokenizer_config.json"
    found = json.loads(config.read_text(encoding="utf-8")).get("chat_template") if config.is_file() else None
    if isinstance(found, list):  # several, by name
        found = {entry["name"]: entry["template"] for entry in found}
        usual = found.get("default")
        return usual and (f"chat_template of {config}", usual, found.get("tool_use", usual))
    return (f"chat_template of {config}", found, found) if isinstance(found, str) else None


def special_tokens(directory: Path) -> dict[str, str]:
    """Variables of a template for special tokens, by the files of a tokenizer's directory."""
    found: dict[str, str] = {}
    for file in (directory / "special_tokens_map.json", directory / "tokenizer_config.json"):
        for key, token in (json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}).items():
            token = token.get("content") if isinstance(token, dict) else token
            if key.endswith("_token") and isinstance(token, str):
                found[key] = token
    return found


def load_template(directory: Path) -> ChatTemplate:
    """The chat template of a run's tokenizer.

    One that is missing is an empty text, which `render` refuses: pairs of strings need none.
    """
    from tokenizers import Tokenizer

    found = read_template(directory) or (str(directory), "", "")
    added = Tokenizer.from_file(str(directory / "tokenizer.json")).get_added_tokens_decoder().values()
    spellings = tuple(token.content for token in added if token.special)
    name, text, with_tools = found
    special = special_tokens(directory) | {"eos_token": read_json(directory / "manifest.json")["eos_token"]}
    return ChatTemplate(name, text, with_tools, special, spellings)


def render(template: ChatTemplate, conversation: dict[str, Any]) -> Rendered:
    """Renders a conversation and finds the assistant's turns, the mark at the end of each included.

    Args:
        template: The template.
        conversation: `messages`, and `tools` if there are some.

    Raises:
        PerdureError: If the template refuses it, or does not tell what of it is the assistant's.
    """
    if not template.text:
        raise PerdureError(
            f"{template.name}: the tokenizer has no chat template; name a file of one in `tokenizer.chat_template`"
        )
    messages, tools = conversation["messages"], conversation.get("tools")
    text = template.with_tools if tools else template.text
    answers = [place for place, message in enumerate(messages) if message["role"] == "assistant"]
    whole, marked = _render(template, text, messages, tools)
    if MARK.search(text):
        if not (spans := [span for span in marked if span[0] < span[1]]):
            raise PerdureError(
                f"{template.name}: its `{{% generation %}}` marks leave nothing of the assistant's turns; no token would be "
                f"trained on"
            )
        last = len(spans) - 1
        if len(spans) != len(answers):  # several stretches a turn
            before, _ = _render(template, text, messages[: answers[-1]], tools)
            last = next((number for number, (begin, _) in enumerate(spans) if begin >= len(before)), last)
        return Rendered(whole, tuple(spans), last)
    spans = []
    for place in answers:
        before, _ = _render(template, text, messages[:place], tools, prompt=True)
        behind, _ = _render(template, text, messages[: place + 1], tools)
        if not (behind.startswith(before) and whole.startswith(behind) and len(before) < len(behind)):
            raise PerdureError(
                f"{template.name}: has no `{{% generation %}}` marks, and renders a turn in another way once others follow, so "
                f"that "
                "nobody can tell what of it is the assistant's; put the marks around what the assistant generates, in a copy "
                "that `tokenizer.chat_template` names"
            )
        spans.append((len(before), len(before) + _turn_length(behind[len(before) :], template.spellings)))
    return Rendered(whole, tuple(spans), len(spans) - 1)


def render_prompt(template: ChatTemplate, messages: list[dict]) -> str:
    """Messages as they stand before an answer of the assistant's, without the header of its turn."""
    return _render(template, template.text, messages, None)[0]


def strings_of(template: ChatTemplate, conversation: dict[str, Any]) -> list[str]:
    """What a template may write of a conversation beside contents and calls: its tools, and fields that it names, as JSON."""
    found = [conversation.get("tools")]
    for message in conversation["messages"]:
        fields = [key for key in message if key not in ("role", "content", "tool_calls")]
        found += [message[key] for key in fields if key in template.text or key in template.with_tools]
    return [json.dumps(value, ensure_ascii=False, default=str) for value in found if value is not None]


def _turn_length(turn: str, spellings: tuple[str, ...]) -> int:
    """Characters of a turn up to its end mark: blanks behind a special token belong to the template."""
    return len(turn.rstrip()) if _has_end(turn, spellings) else len(turn)


def _has_end(text: str, spellings: tuple[str, ...]) -> bool:
    """Whether a text ends in a special token, blanks behind it aside."""
    return bool(spellings) and text.rstrip().endswith(spellings)


def _render(
    template: ChatTemplate, text: str, messages: list[dict], tools: list | None, prompt: bool = False
) -> tuple[str, list[tuple[int, int]]]:
    """A rendered conversation, and what the template marks as generated."""
    from transformers.utils.chat_template_utils import render_jinja_template

    marks = bool(MARK.search(text))
    try:
        (rendered,), indices = render_jinja_template(
            [messages],
            tools=tools,
            chat_template=text,
            return_assistant_tokens_mask=marks,
            add_generation_prompt=prompt,
            **template.special,
        )
    except Exception as error:  # templates raise what they like
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise PerdureError(f"{template.name}: cannot render a conversation: {reason}") from None
    return rendered, indices[0] if marks else []


def encode_chat(rendered: Rendered, tokenizer: Any, eos_id: int, spellings: tuple[str, ...]) -> tuple:
    """Tokens and label mask of a rendered conversation, ended by the separator.

    A token counts if the first character of a stretch, the last one, or one between is in it, as in transformers'
    `return_assistant_tokens_mask`. The separator is added where the text does not end in it, and then counts only if the last
    turn reaches up to it without an end mark of its own.

    Args:
        rendered: The conversation.
        tokenizer: Of the tokenizers library, which takes the spelling of a special token for that token.
        eos_id: The separator.
        spellings: Of all special tokens.

    Returns:
        Lists of token ids, and of `NO_LABEL`, `LABEL`, `LAST_LABEL`.
    """
    encoding = tokenizer.encode(rendered.text, add_special_tokens=False)
    tokens, mask = encoding.ids, [NO_LABEL] * len(encoding.ids)
    for number, (begin, end) in enumerate(rendered.spans):
        first, last = encoding.char_to_token(begin), encoding.char_to_token(end - 1)
        if first is None or last is None:  # a normaliser took the character away
            continue
        kind = LAST_LABEL if number >= rendered.last else LABEL
        mask[first : last + 1] = [kind] * (last + 1 - first)
    if not tokens or tokens[-1] != eos_id:
        open_end = bool(mask) and not _has_end(rendered.text, spellings)
        tokens, mask = [*tokens, eos_id], [*mask, mask[-1] if open_end else NO_LABEL]
    return tokens, mask


def text_of_labels(rendered: Rendered, spellings: tuple[str, ...]) -> str:
    """What the assistant wrote: its stretches without special tokens."""
    text = "".join(rendered.text[begin:end] for begin, end in rendered.spans)
    return re.sub("|".join(map(re.escape, spellings)), "", text) if spellings else text
