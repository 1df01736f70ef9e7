"""Fields of the data stage: sources, where its tasks run, and the tokenizer."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator

from perdure.pipeline.recipe.cleaning import CleaningStep, ExactDedup, MinhashDedup
from perdure.pipeline.recipe.cluster import Option
from perdure.pipeline.recipe.code import FillInTheMiddle, Repository
from perdure.pipeline.recipe.labels import Subset, Topics
from perdure.pipeline.recipe.prefixes import fields_of
from perdure.pipeline.recipe.readers import Reader
from perdure.pipeline.recipe.section import Positive, Section, Size


class Source(Section):
    """One domain of text: where it comes from and how it is cleaned."""

    reader: Reader
    """Where the documents come from; `type` names the reader."""
    clean: tuple[CleaningStep, ...] = (ExactDedup(type="exact_dedup"), MinhashDedup(type="minhash_dedup"))
    """Cleaning steps, in this order; `type` names the method. Texts are normalised first. Whatever a step drops is
    counted with its reason. Default: exact, then near duplicates."""
    topics: Topics | None = None
    """How each document's topic is determined; default: documents have no topics."""
    subset: Subset | None = None
    """Which training documents are used; default: all."""
    date_field: str | None = Field(default=None, exclude_if=lambda field: field is None)
    """The metadata field that holds each document's date: a year, a month, a day or a time, as text ("2024", "2024-05",
    "2024-05-17", "2024-05-17T12:00:00+02:00"; ISO 8601, without an offset in UTC), a year also as a number. Dates give versions
    a cut-off, by which dated probes are split, and parts by date (`web[2023-01..2023-06]`). A document without the field is
    undated and counted; text in it that is no date is an error, unless the reader's `where` leaves such documents out.
    Default: documents have no dates."""
    prefix: str | None = Field(default=None, exclude_if=lambda text: text is None)
    """What stands before each document's text, of its metadata, and is read but not learnt (metadata conditioning, MeCo, Gao et
    al. 2025, arXiv 2501.01956): `"date: {date}\\n\\n"`, `"URL: {url}\\n\\n"`, `"{library}=={version}\\n"`. `{date}` is the
    `date_field`'s, `{url}` the host alone, any other name a field of the metadata; `{date:.4}` its first four characters. A
    document without one of the fields stays plain and is counted. `prefix: false` of a place in a mixture reads the same
    documents without it. Held-out loss is measured without (`web`) and with it (`web+prefix`). Default: none."""
    fim: FillInTheMiddle | None = Field(default=None, exclude_if=lambda fim: fim is None or fim.rate == 0)
    """Training documents whose middle is moved to the end, so that a model learns to fill it in; default: none."""
    repository: Repository | None = Field(default=None, exclude_if=lambda repository: repository is None)
    """Makes one document of each repository; default: every file is one."""
    heldout_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.02
    """Share of documents held out for evaluation, chosen by the hash of their text: never trained on, in any
    source or version, and stable when documents are added."""

    @field_validator("prefix")
    @classmethod
    def _of_fields(cls, prefix: str | None) -> str | None:
        if prefix is not None:
            fields_of(prefix)
        return prefix

    @property
    def has_conversations(self) -> bool:
        """Whether its documents are conversations, or pairs of them: those have label masks."""
        return getattr(self.reader, "messages_field", None) is not None or self.has_pairs

    @property
    def has_pairs(self) -> bool:
        """Whether its documents are prompts with two answers each."""
        return getattr(self.reader, "chosen_field", None) is not None

    @property
    def infilled(self) -> FillInTheMiddle | None:
        """How documents are transformed to be filled in the middle; None if none is."""
        return self.fim if self.fim is not None and self.fim.rate else None


class LocalWorkers(Section):
    """Tasks are done by processes of this machine."""

    type: Literal["local"]


class SlurmArrays(Section):
    """Tasks are jobs of Slurm arrays; `cluster` says partition, account, time limit, setup and environment."""

    type: Literal["slurm"]
    options: tuple[Option, ...] = ()
    """Further sbatch options of these jobs, such as `--mem-per-cpu=8G`, `--cpus-per-task=4` or `--time=2:00:00`; they
    stand in the place of `cluster.slurm.options`. A task gets one CPU otherwise."""
    score_gpus: Annotated[int, Field(ge=0, le=1)] = 1
    """GPUs of a task that scores documents; 0 scores on CPUs."""


class RayTasks(Section):
    """Tasks are tasks of a Ray cluster, whose machines share the file system."""

    type: Literal["ray"]
    address: str | None = None
    """The cluster's, as `ray.init` takes it, such as `auto`; default: `RAY_ADDRESS`, or else a Ray of this machine."""
    score_gpus: Annotated[int, Field(ge=0, le=1)] = 1
    """GPUs of a task that scores documents; 0 scores on CPUs."""


Executor = Annotated[LocalWorkers | SlurmArrays | RayTasks, Field(discriminator="type")]


class DataStage(Section):
    """How the data stage runs, and the scoring of documents."""

    tasks: Annotated[Positive, Field(le=1_000_000)] = 2
    """Parts that each source is split into; every part writes one shard. It cannot change between runs."""
    workers: Annotated[Positive, Field(le=65_536)] = 2
    """Tasks that run at the same time: processes of this machine, jobs of an array, or tasks in Ray."""
    executor: Executor = LocalWorkers(type="local")
    """Where tasks run, by `type`. What they write does not depend on it."""


class ChatTokenizer(Section):
    """Tokenizers; any of them can have a chat template."""

    chat_template: Path | None = Field(default=None, exclude_if=lambda path: path is None)
    """A file with the Jinja template by which conversations are rendered, as `chat_template.jinja` of a Hugging Face
    directory; exported models have it. Default: the tokenizer's own, if it has one."""


class HuggingFaceTokenizer(ChatTokenizer):
    """The tokenizer of a Hugging Face model directory."""

    type: Literal["huggingface"]
    path: Path
    """A directory with `tokenizer.json`."""
    eos_token: str | None = None
    """Document separator; default: the tokenizer's own end-of-sequence token."""
    parse_special_tokens: bool = False
    """Whether a special token's spelling in a text (`<s>`, `<|endoftext|>`) becomes that token. The default takes it for
    what it is, text; `true` is for chats that were rendered with the model's template. Tokens that are added but not
    special are always matched."""


class SentencePieceTokenizer(ChatTokenizer):
    """A sentencepiece model file."""

    type: Literal["sentencepiece"]
    path: Path
    """The `.model` file; its end-of-sequence piece separates documents."""


class TrainedTokenizer(ChatTokenizer):
    """A byte-level BPE tokenizer trained on the recipe's own sources, held-out documents excluded."""

    type: Literal["train"]
    vocab_size: Annotated[Size, Field(ge=300)]
    """Number of tokens, the separator `<|endoftext|>` and the sentinels of `fim` and `repository` included."""
    sources: Annotated[list[str], Field(min_length=1)]
    """Names of the sources to train on."""
    sample_words: Positive = 200_000_000
    """About how many words to learn from: where the sources have more, a share of each one's documents, those with
    the lowest hashes. Training takes some minutes for the default, on one machine, whatever the size of the corpus."""


class ExtendedTokenizer(ChatTokenizer):
    """A model's BPE tokenizer with tokens added for a new domain (vocabulary extension, as in Swallow).

    The old tokens keep their ids and merges. A model with the old tokenizer, or a version made with it, may start
    under the new one: each new token's embedding and output row begin as the mean of those of its old pieces.
    """

    type: Literal["extend"]
    path: Path
    """A directory with the `tokenizer.json` to extend: byte-level BPE, or a converted sentencepiece BPE."""
    num_tokens: Size
    """Tokens to add."""
    sources: Annotated[list[str], Field(min_length=1)]
    """Names of the sources to learn them from, held-out documents excluded."""
    sample_words: Positive = 200_000_000
    """As for `train`: about how many words to learn from, where the sources have more."""
    eos_token: str | None = None
    """Document separator; default: the tokenizer's own end-of-sequence token."""
    parse_special_tokens: bool = False
    """As for `huggingface`: whether a special token's spelling in a text becomes that token."""


Tokenizer = Annotated[
    HuggingFaceTokenizer | SentencePieceTokenizer | TrainedTokenizer | ExtendedTokenizer,
    Field(discriminator="type"),
]
