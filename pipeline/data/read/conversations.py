"""Conversations of a source: what a list of messages should be like, and the text that cleaning sees of them.

A conversation is kept in its document's metadata under `CONVERSATION`; `cleaning/normalise.py` normalises its contents as
texts, and it is rendered with a chat template when tokens are written (`data/chat.py`).
"""

import json
from typing import Any

CONVERSATION = "perdure:conversation"
"""Key of a document's metadata that holds `messages`, and `tools` if there are some."""
SYSTEM = ("system", "developer")
BEFORE = {
    "user": (None, "assistant", *SYSTEM),
    "assistant": ("user", "tool"),
    "tool": ("assistant", "tool"),
} | dict.fromkeys(SYSTEM, (None,))
"""Roles, and those that the message before may have; None: there is none."""
REASONS = {
    "no_messages": "should be a list of messages, each with a `role` and a `content` that is a string and not empty",
    "no_assistant_turn": "has no turn of the assistant's, so that nothing of it would be trained on",
    "roles_out_of_order": "has its roles in the wrong order; should be an optional `system`, then `user` and `assistant` in "
    "turn, `tool` behind an `assistant`",
}
"""What is wrong with a conversation, by the reason under which it is dropped."""


def conversation_of(messages: Any, tools: Any = None) -> tuple[str, dict[str, Any]] | str:
    """A conversation as it is kept, and its text; or why it cannot be used, a key of `REASONS`.

    Args:
        messages: What stands in the field: a list, or JSON of one.
        tools: What stands in the field of tools, if there is one: likewise.

    Returns:
        The text that cleaning sees (`text_of`); and `messages`, and `tools` if there are some.
    """
    tools = _parsed(tools)
    kept = kept_messages(messages)
    if kept is None or not (tools is None or isinstance(tools, list)):
        return "no_messages"
    if reason := wrong_roles([message["role"] for message in kept]):
        return reason
    return text_of(kept), {"messages": kept} | ({"tools": tools} if tools else {})


def kept_messages(messages: Any) -> list[dict] | None:
    """The messages of a list, or of JSON of one, without fields that are null; None if they are none or one is empty."""
    messages = _parsed(messages)
    if not isinstance(messages, list) or not messages:
        return None
    kept: list[dict] = []
    for message in messages:
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            return None
        found = {key: value for key, value in message.items() if value is not None}
        content = found.setdefault("content", "")
        if not isinstance(content, str) or not (content or found.get("tool_calls")):
            return None
        kept.append(found)
    return kept


def text_of(messages: list[dict]) -> str:
    """The contents of all messages, and calls of tools, a blank line between."""
    return "\n\n".join(text for message in messages for text in (message["content"], _calls(message)) if text)


def wrong_roles(roles: list[str]) -> str | None:
    """Why roles in this order are no conversation to learn from, a key of `REASONS`; None if they are one."""
    for before, role in zip((None, *roles), roles):
        if before not in BEFORE.get(role, ()):
            return "roles_out_of_order"
    return None if "assistant" in roles else "no_assistant_turn"


def _parsed(value: Any) -> Any:
    """A value that may be JSON in a string, as tables of other tools hold nested lists."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return None


def _calls(message: dict) -> str:
    """Calls of tools, as text."""
    calls = message.get("tool_calls")
    return json.dumps(calls, ensure_ascii=False, sort_keys=True, default=str) if calls else ""
