"""Checks of sources of conversations: their first messages, the chat template, and what cannot be done to them."""

from collections.abc import Callable, Iterator
from pathlib import Path

from perdure.pipeline.core.errors import PerdureError, Problem
from perdure.pipeline.data.chat import PROBE, ChatTemplate, read_template, render, special_tokens
from perdure.pipeline.data.pairs import render_pair
from perdure.pipeline.data.read.conversations import REASONS, conversation_of
from perdure.pipeline.data.read.pairs import PLAIN, pair_of
from perdure.pipeline.data.read.pairs import REASONS as PAIR_REASONS
from perdure.pipeline.data.read.rows import first_values
from perdure.pipeline.data.tokenizer.directory import read_tokenizer
from perdure.pipeline.plan.domains import source_of
from perdure.pipeline.plan.mixture import members
from perdure.pipeline.plan.packing import packing_of
from perdure.pipeline.recipe import (
    C4Quality,
    ExtendedTokenizer,
    HuggingFaceTokenizer,
    Instruct,
    JsonlReader,
    MixtureSource,
    ParquetReader,
    PersonalData,
    Recipe,
    RowsReader,
    SentenceDedup,
    Source,
    Version,
)

Problems = Iterator[Problem]
REWRITES = {
    C4Quality: "drops lines",
    PersonalData: "replaces what it finds",
    SentenceDedup: "takes sentences out",
}
"""Cleaning steps that change texts, and how."""


def conversations(recipe: Recipe) -> Problems:
    """Checks sources of conversations and pairs: the first of each file, what renders them, and their cleaning steps."""
    sources = {name: source for name, source in recipe.sources.items() if source.has_conversations}
    if not sources:
        return
    template = _template(recipe)
    if isinstance(template, Problem) and template.path:
        yield template
    for name, source in sources.items():
        assert isinstance(source.reader, RowsReader)
        option = "chosen_field" if source.has_pairs else "messages_field"
        where, field = f"sources.{name}.reader.{option}", getattr(source.reader, option)
        found, wrong = _first(source)
        for number, step in enumerate(source.clean):
            if does := REWRITES.get(type(step)):
                remedy = f"{does}, and a conversation is rendered from its messages; leave it out"
                yield Problem(f"sources.{name}.clean.{number}", step.type, remedy)
        if wrong is not None:
            yield Problem(where, field, wrong)
            continue
        if isinstance(template, Problem):
            strings = source.has_pairs and all(each["messages"][0]["role"] == PLAIN for each in found)
            if not (template.path or strings):
                yield Problem(where, field, template.remedy)
            continue
        try:
            for conversation in found or [{"messages": PROBE}]:
                (render_pair if "rejected" in conversation else render)(template, conversation)
        except PerdureError as error:
            yield Problem(where, field, str(error))
        except ImportError:
            continue  # left to the machine that tokenises


def _first(source: Source) -> tuple[list[dict], str | None]:
    """Conversations, or pairs, with which a source's files begin, and what is wrong with the first of them that is none."""
    reader = source.reader
    if not isinstance(reader, JsonlReader | ParquetReader):
        return [], None
    fields: tuple[str | None, ...] = (reader.messages_field, reader.tools_field)
    made: Callable[..., tuple[str, dict] | str] = conversation_of
    reasons = REASONS
    if source.has_pairs:
        fields, made, reasons = (
            (reader.prompt_field, reader.chosen_field, reader.rejected_field),
            pair_of,
            PAIR_REASONS,
        )
    found = []
    try:
        for place, row in first_values(reader, fields):
            conversation = made(*row)
            if isinstance(conversation, str):
                return [], f"{place}: {reasons[conversation]}"
            found.append(conversation[1])
    except PerdureError:
        return [], None  # told already
    return found, None


def _template(recipe: Recipe) -> ChatTemplate | Problem:
    """The recipe's chat template, as far as it is known before there is a tokenizer; or what is wrong with it."""
    spec = recipe.tokenizer
    directory = spec.path if isinstance(spec, HuggingFaceTokenizer | ExtendedTokenizer) else None
    try:
        found = (
            read_template(directory or Path(), spec.chat_template)
            if directory or spec.chat_template
            else None
        )
    except PerdureError as error:
        return Problem("tokenizer.chat_template", str(spec.chat_template), str(error))
    if found is None:
        there = (
            f"the tokenizer in {directory} has none"
            if directory
            else f"a tokenizer of type `{spec.type}` has none"
        )
        return Problem(
            "", None, f"needs a chat template, and {there}; name a file of one in `tokenizer.chat_template`"
        )
    special: dict[str, str] = {"eos_token": "<|endoftext|>"}
    spellings: tuple[str, ...] = ("<|endoftext|>",)
    if (
        isinstance(spec, HuggingFaceTokenizer | ExtendedTokenizer)
        and (spec.path / "tokenizer.json").is_file()
    ):
        added = read_tokenizer(spec.path / "tokenizer.json").get_added_tokens_decoder().values()
        special |= special_tokens(spec.path) | ({"eos_token": spec.eos_token} if spec.eos_token else {})
        spellings = tuple(token.content for token in added if token.special)
    name, text, with_tools = found
    return ChatTemplate(name, text, with_tools, special, spellings)


def instruct(recipe: Recipe, name: str, version: Version) -> Problems:
    """Checks that what a version is instructed with are conversations; other text can be replayed beside it."""
    if not isinstance(version.objective, Instruct):
        return
    for key, (domain, _member) in members(version.mixture).items():
        source = recipe.sources.get(source_of(domain))
        if source is not None and key == domain and not source.has_conversations:
            remedy = (
                f"objective `{version.objective.type}` trains on conversations, and this source has none; give its reader a "
                "`messages_field`, or name it in `replay`"
            )
            yield Problem(f"versions.{name}.mixture.sources.{domain}", domain, remedy)


def packing(recipe: Recipe, name: str, version: Version) -> Problems:
    """Checks that packing fits the order of documents, and that what is said of long ones has a use."""
    mixture, where = version.mixture, f"versions.{name}.mixture"
    parts: list[tuple[str, dict[str, MixtureSource]]] = [(f"{where}.sources", mixture.sources)]
    parts += [
        (f"{where}.switches.{at}.sources", switch.sources) for at, switch in enumerate(mixture.switches)
    ]
    parts += [(f"{where}.replay.sources", mixture.replay.sources)] if mixture.replay else []
    for place, siblings in parts:
        for domain, member in siblings.items():
            if source_of(domain) not in recipe.sources:
                continue
            how = packing_of(recipe, domain, member)
            if how and how[0] == "best_fit" and member.order != "shuffled":
                remedy = f"packs the longest first, so that the order `{member.order}` would be lost; use `next_fit`"
                yield Problem(f"{place}.{domain}.packing", "best_fit", remedy)
            if member.overlong and how is None:
                remedy = (
                    "has no use in a stream, which cuts documents wherever a sample is full; set `packing`"
                )
                yield Problem(f"{place}.{domain}.overlong", member.overlong, remedy)
