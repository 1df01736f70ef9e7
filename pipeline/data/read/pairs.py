"""Pairs of answers to a prompt: what the fields of a row should be like, and how they are kept.

A pair is kept as a conversation (`conversations.py`): `messages` are the prompt's and the chosen answer's, `rejected` those
of the other answer, and `prompt` says how many of `messages` are the prompt's. Of strings each is one message, of the roles
of `PLAIN`.
"""

from typing import Any

from perdure.pipeline.data.read.conversations import kept_messages, text_of, wrong_roles

PLAIN = "text"
"""Role of messages that are strings of a row: they stand one after another, without a chat template, the prompt with the
`blanks` at its end."""
REASONS = {
    "no_pair": "should have a prompt, a chosen and a rejected answer, all strings or all lists of messages, none of them empty",
    "equal_answers": "has the same answer twice, so that neither is preferred",
    "roles_out_of_order": "has its roles in the wrong order; the prompt should end with `user` or `tool`, and each answer "
    "begin with `assistant`",
}
"""What is wrong with a pair, by the reason under which it is dropped."""


def pair_of(prompt: Any, chosen: Any, rejected: Any) -> tuple[str, dict[str, Any]] | str:
    """A pair as it is kept, and its text; or why it cannot be used, a key of `REASONS`.

    Args:
        prompt: What stands in the field of the prompt; None: the messages with which both answers begin.
        chosen: What stands in the field of the preferred answer.
        rejected: Likewise.

    Returns:
        The text that cleaning sees: the contents of all messages; and `messages`, `rejected` and `prompt`.
    """
    if all(isinstance(text, str) and text for text in (prompt, chosen, rejected)):
        words = prompt.rstrip(" \t\n")
        blanks = {"blanks": prompt[len(words) :]} if words != prompt else {}  # which cleaning would take away
        asked: list[dict] = [{"role": PLAIN, "content": words} | blanks]
        answers = [[{"role": PLAIN, "content": text}] for text in (chosen, rejected)]
    else:
        answers = [kept_messages(chosen) or [], kept_messages(rejected) or []]
        asked = kept_messages(prompt) or []
        if prompt is None and answers[0] != answers[1]:
            same = [left == right for left, right in zip(*answers, strict=False)]
            begins = same.index(False) if False in same else len(same)
            asked, *answers = answers[0][:begins], *(messages[begins:] for messages in answers)
        if prompt is None and answers[0] == answers[1] != []:
            return "equal_answers"
        if not asked or not all(answers):
            return "no_pair"
        if any(_wrong_roles(asked, messages) for messages in answers):
            return "roles_out_of_order"
    if answers[0] == answers[1]:
        return "equal_answers"
    messages, rejected = [*asked, *answers[0]], answers[1]
    return text_of(messages + rejected), {"messages": messages, "rejected": rejected, "prompt": len(asked)}


def _wrong_roles(asked: list[dict], answer: list[dict]) -> bool:
    """Whether an answer is none of the assistant's to what was asked."""
    return (
        answer[0]["role"] != "assistant" or wrong_roles([each["role"] for each in asked + answer]) is not None
    )


def equal_answers(conversation: dict[str, Any]) -> bool:
    """Whether both answers of a pair are the same; no conversation is a pair with equal answers."""
    return conversation.get("rejected") == conversation["messages"][conversation.get("prompt", 0) :]
