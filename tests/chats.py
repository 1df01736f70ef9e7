"""Small tokenizers with chat templates, and conversations."""

import json
from pathlib import Path

SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|begin_of_text|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
)
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' }}"
    "{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}"
    "{% else %}{{ message['content'] + '<|im_end|>' }}{% endif %}{{ '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
"""ChatML with marks around what the assistant generates."""
UNMARKED = CHATML.replace("{% generation %}", "").replace("{% endgeneration %}", "")


def say(*contents: str, system: str | None = None) -> list[dict]:
    """A conversation in which user and assistant speak in turn."""
    roles = ("user", "assistant")
    found = [{"role": roles[place % 2], "content": content} for place, content in enumerate(contents)]
    return [*([{"role": "system", "content": system}] if system else []), *found]


def chat_tokenizer(directory: Path, template: str | None = CHATML) -> Path:
    """A Hugging Face directory: a token a byte, special tokens, and a chat template."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    directory.mkdir(parents=True, exist_ok=True)
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: number for number, letter in enumerate(letters)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    tokenizer.save(str(directory / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<|endoftext|>",
        "bos_token": "<|begin_of_text|>",
        "pad_token": "<|endoftext|>",
    }
    (directory / "tokenizer_config.json").write_text(json.dumps(config))
    if template is not None:
        (directory / "chat_template.jinja").write_text(template)
    return directory


def write_chats(path: Path, conversations: list, **more) -> Path:
    """JSON lines of conversations; `more` are fields of every one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = (
        {"id": f"chat {number}", "messages": messages} | more for number, messages in enumerate(conversations)
    )
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
