"""The recipe: everything a run depends on, typed. Every field's docstring is its reference manual.

`load_recipe` reads YAML (with `extends:` and `--set a.b=c` overrides) and reports all mistakes at once.
`perdure.pipeline.check` judges what types cannot: whether sources exist, layouts divide, budgets suffice.
"""

import difflib
import json
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from perdure.pipeline.errors import Problem, RecipeError

Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(gt=0)]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")]


class Section(BaseModel):
    """Base of every part of a recipe: immutable, and an unknown key is an error."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, protected_namespaces=()
    )


# ------------------------------------------------------------------------------------------- sources


class JsonlReader(Section):
    """JSON lines, plain, `.gz` or `.zst`, one document a line."""

    type: Literal["jsonl"]
    path: Path
    """A file, or a directory that is searched recursively for `*.jsonl`, `*.jsonl.gz` and `*.jsonl.zst`."""
    text_field: str = "text"
    """The key that holds the text."""
    id_field: str = "id"
    """The key that holds the document's id; documents without one get `<file>/<line>`."""


class ParquetReader(Section):
    """Parquet files, one document a row."""

    type: Literal["parquet"]
    path: Path
    """A file, or a directory that is searched recursively for `*.parquet`."""
    text_field: str = "text"
    """The column that holds the text."""
    id_field: str = "id"
    """The column that holds the document's id; documents without one get `<file>/<row>`."""


class TextReader(Section):
    """A folder of plain-text files, one document a file (UTF-8)."""

    type: Literal["text"]
    path: Path
    """A file or a directory."""
    glob: str = "**/*.txt"
    """Which files of the directory to read."""


class HuggingFaceReader(Section):
    """A Hugging Face dataset: a directory written by `save_to_disk`, or the name of one on the hub."""

    type: Literal["huggingface"]
    path: str
    """A local directory, or a hub name such as `HuggingFaceFW/fineweb`."""
    config: str | None = None
    """The dataset's configuration name, if it has several."""
    split: str = "train"
    """The split to read."""
    text_field: str = "text"
    """The column that holds the text."""


class PythonDocsReader(Section):
    """The docstrings of installed Python packages, as English prose: one document a module."""

    type: Literal["python_docs"]
    packages: Annotated[list[str], Field(min_length=1)]
    """Import names of installed packages; `stdlib` stands for the standard library."""


class PythonCodeReader(Section):
    """The code of installed Python packages with docstrings stripped: one document a module."""

    type: Literal["python_code"]
    packages: Annotated[list[str], Field(min_length=1)]
    """Import names of installed packages; `stdlib` stands for the standard library."""


Reader = Annotated[
    JsonlReader | ParquetReader | TextReader | HuggingFaceReader | PythonDocsReader | PythonCodeReader,
    Field(discriminator="type"),
]


class Source(Section):
    """One domain of text: where it comes from and how it is cleaned."""

    reader: Reader
    """Where the documents come from; `type` names the reader."""
    min_chars: Positive = 1
    """Documents with fewer characters after normalisation are dropped (and counted)."""
    exact_dedup: bool = True
    """Drop documents whose normalised text occurred before."""
    minhash_dedup: bool = True
    """Drop near duplicates: MinHash over word 5-grams, 14 buckets of 8 hashes (a similarity of about 0.72)."""
    heldout_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.02
    """Share of documents held out for evaluation, chosen by the hash of their text: never trained on, in any
    source or version, and stable when documents are added."""


class DataStage(Section):
    """How the data stage runs."""

    tasks: Positive = 2
    """Parts that each source is split into; every part writes one shard. It cannot change between runs."""
    workers: Positive = 2
    """Processes that work on parts at the same time."""


# ----------------------------------------------------------------------------------------- tokenizer


class HuggingFaceTokenizer(Section):
    """The tokenizer of a Hugging Face model directory."""

    type: Literal["huggingface"]
    path: Path
    """A directory with `tokenizer.json`."""
    eos_token: str | None = None
    """Document separator; default: the tokenizer's own end-of-sequence token."""


class SentencePieceTokenizer(Section):
    """A sentencepiece model file."""

    type: Literal["sentencepiece"]
    path: Path
    """The `.model` file; its end-of-sequence piece separates documents."""


class TrainedTokenizer(Section):
    """A byte-level BPE tokenizer trained on the recipe's own sources, held-out documents excluded."""

    type: Literal["train"]
    vocab_size: Annotated[int, Field(ge=300)]
    """Number of tokens, the separator `<|endoftext|>` included."""
    sources: Annotated[list[str], Field(min_length=1)]
    """Names of the sources to train on."""


Tokenizer = Annotated[
    HuggingFaceTokenizer | SentencePieceTokenizer | TrainedTokenizer, Field(discriminator="type")
]


# --------------------------------------------------------------------------------------------- model


class LlamaModel(Section):
    """A Llama-family transformer with random weights: RMSNorm, RoPE, SwiGLU, grouped-query attention."""

    type: Literal["llama"]
    num_layers: Positive
    """Number of transformer layers."""
    hidden_size: Positive
    """Width of the residual stream."""
    ffn_hidden_size: Positive
    """Width of the SwiGLU block."""
    num_attention_heads: Positive
    """Number of query heads."""
    num_query_groups: Positive
    """Number of key-value heads (grouped-query attention); equal to `num_attention_heads` for plain attention."""
    tie_embeddings: bool = True
    """Share the input embedding and the output projection."""
    rope_theta: Annotated[float, Field(gt=0)] = 10_000.0
    """Base of the rotary position embedding."""
    norm_epsilon: Annotated[float, Field(gt=0)] = 1e-5
    """Epsilon of RMSNorm."""
    init_std: Annotated[float, Field(gt=0)] = 0.02
    """Standard deviation of the initial weights; output projections are scaled by 1/sqrt(2 num_layers)."""


class HuggingFaceModel(Section):
    """An existing model of the Llama family: its shape, and its weights as the start of `init` versions."""

    type: Literal["huggingface"]
    path: Path
    """A directory with `config.json` and safetensors."""


Model = Annotated[LlamaModel | HuggingFaceModel, Field(discriminator="type")]


class Parallel(Section):
    """How training is spread over ranks; world size = tensor x pipeline x data."""

    tensor_parallel: Positive = 1
    """Ranks that share every matrix; divides heads, query groups and the FFN."""
    pipeline_parallel: Positive = 1
    """Ranks that share the layers; divides `num_layers`."""
    data_parallel: Positive = 1
    """Replicas that share the batch."""
    distributed_optimizer: bool = False
    """Shard optimizer states over the data-parallel ranks (ZeRO-1)."""

    @property
    def world_size(self) -> int:
        """Number of ranks."""
        return self.tensor_parallel * self.pipeline_parallel * self.data_parallel


class Training(Section):
    """What all versions share; a change starts a new experiment."""

    seq_length: Positive
    """Tokens per sample; documents are packed, separated by the end-of-sequence token."""
    micro_batch_size: Positive = 1
    """Samples per forward pass and rank."""
    global_batch_size: Positive
    """Samples per optimizer step, over all ranks; gradient accumulation follows from it."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Arithmetic of the forward and backward pass; bf16 keeps fp32 master weights and gradients."""
    document_mask: bool = False
    """Keep attention inside each packed document."""
    adam_beta1: Fraction = 0.9
    """AdamW's first-moment decay."""
    adam_beta2: Fraction = 0.95
    """AdamW's second-moment decay."""
    adam_eps: Annotated[float, Field(gt=0)] = 1e-8
    """AdamW's epsilon."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.1
    """Decoupled weight decay; norms and biases are exempt."""
    clip_grad: Annotated[float, Field(ge=0)] = 1.0
    """Maximum global gradient norm; 0 turns clipping off."""
    checkpoint_interval: Positive = 500
    """Steps between checkpoints."""
    log_interval: Positive = 10
    """Steps between console lines; TensorBoard gets every step."""


# ------------------------------------------------------------------------------------------ versions


class MixtureSource(Section):
    """One source's place in a mixture."""

    weight: Annotated[float, Field(gt=0)] = 1.0
    """Relative share among its siblings."""
    order: Literal["shuffled", "easy_to_hard", "given"] = "shuffled"
    """Order of documents: shuffled by seed; by rising perplexity under `perplexity_model`; or as read.
    Packed samples are reshuffled every epoch if `shuffled`, else kept in order."""


class Replay(Section):
    """Old data mixed into the new, against forgetting (Ibrahim et al. 2024)."""

    share: Annotated[float, Field(gt=0, lt=1)]
    """Share of all tokens that are replayed; they replace new tokens (compute-equivalent)."""
    sources: Annotated[dict[str, MixtureSource], Field(min_length=1)]
    """What is replayed."""


class Mixture(Section):
    """What a version trains on, in which shares and order."""

    sources: Annotated[dict[str, MixtureSource], Field(min_length=1)]
    """The new data, by source name."""
    replay: Replay | None = None
    """Old data mixed in."""
    perplexity_model: str | None = None
    """Scores documents for `easy_to_hard`: an earlier version's name, or a Hugging Face directory (with a `/`)."""
    max_repetition: Annotated[float, Field(gt=0)] = 4.0
    """Epochs over any one source beyond which the recipe is refused."""


class Init(Section):
    """Start from weights alone: `model`'s random or Hugging Face weights."""

    type: Literal["init"]


class Update(Section):
    """A new version of a parent: its weights; fresh optimizer, schedule and plan; lineage tokens go on."""

    type: Literal["update"]
    parent: Name
    """The version it starts from."""


Start = Annotated[Init | Update, Field(discriminator="type")]


class CosineSchedule(Section):
    """Linear warmup from 0, then cosine decay to the end of the budget (rewarm and re-decay on an update)."""

    type: Literal["cosine"]
    max_lr: Annotated[float, Field(gt=0)]
    """Peak learning rate."""
    min_lr: Annotated[float, Field(ge=0)]
    """Learning rate at the last step."""
    warmup: Fraction = 0.01
    """Share of steps that warm up; 0 starts at the maximum."""


class InfiniteSchedule(Section):
    """Warmup, cooldown to a constant that can go on forever, exponential annealing (Ibrahim et al. 2024)."""

    type: Literal["infinite"]
    max_lr: Annotated[float, Field(gt=0)]
    """Peak learning rate, reached after warmup."""
    constant_lr: Annotated[float, Field(gt=0)]
    """Learning rate of the constant phase."""
    min_lr: Annotated[float, Field(gt=0)]
    """Learning rate at the end of annealing."""
    warmup: Fraction = 0.01
    """Share of steps that warm up."""
    cooldown: Fraction = 0.60
    """Share of steps, counted after warmup, that cool down from `max_lr` to `constant_lr`."""
    constant_until: Fraction = 0.85
    """Share of steps, counted after warmup, at which annealing begins; 1 never anneals."""
    cooldown_shape: Literal["cosine", "inverse_sqrt"] = "cosine"
    """Form of the cooldown."""
    inverse_sqrt_alpha: Annotated[float, Field(gt=0)] = 10.0
    """The `a` of the inverse-sqrt cooldown h(x) = 1/sqrt(1 + a x) - 1."""


Schedule = Annotated[CosineSchedule | InfiniteSchedule, Field(discriminator="type")]


class Selection(Section):
    """Selective Language Modeling (RHO-1): train on the tokens with the highest excess loss only.

    It chooses among new data. Replayed data is trained on whole: the reference knows the new domain alone, and
    would drop the very tokens that are replayed against forgetting.
    """

    k: Annotated[float, Field(gt=0, le=1)] = 0.6
    """Share of tokens that are trained on; 1 is the plain loss."""
    reference: str
    """The reference model: an earlier version's name, or a Hugging Face directory (with a `/`)."""
    scope: Literal["sequence", "microbatch"] = "microbatch"
    """Tokens that compete with one another."""


class Version(Section):
    """One version of the model: where it starts, what it trains on, for how long and how."""

    start: Start
    """`init` or `update`; going on after an interruption is automatic."""
    tokens: Positive
    """Token budget, rounded up to whole optimizer steps."""
    mixture: Mixture
    """What it trains on."""
    schedule: Schedule
    """The learning rate over its steps."""
    selection: Selection | None = None
    """Selective-token loss; without it every token counts."""


class Evaluation(Section):
    """How versions are measured on every source's held-out documents."""

    max_tokens: Positive = 100_000
    """Held-out tokens per source, from its first documents; all versions see the same ones."""


class Recipe(Section):
    """A whole run: sources, tokenizer, model, and the versions to train, in order."""

    name: Name
    """Name of the run."""
    out: Path | None = None
    """Where everything is written; default `runs/<name>`. `--out` overrides it."""
    seed: int = 1234
    """Seed of weights, orders and splits."""
    sources: Annotated[dict[Name, Source], Field(min_length=1)]
    """The domains of text, by name. Each is also an evaluation domain."""
    data: DataStage = DataStage()
    """How the data stage runs."""
    tokenizer: Tokenizer
    """One tokenizer for all sources and versions."""
    model: Model
    """The architecture."""
    parallel: Parallel = Parallel()
    """Spread over ranks."""
    training: Training
    """Batch, precision and optimizer."""
    versions: Annotated[dict[Name, Version], Field(min_length=1)]
    """The versions, trained in this order; an update's parent stands before it."""
    evaluation: Evaluation = Evaluation()
    """Held-out measurement."""

    @property
    def directory(self) -> Path:
        """Where everything is written."""
        return self.out or Path("runs") / self.name


# ------------------------------------------------------------------------------------------- loading


def load_recipe(
    path: Path | str, overrides: list[str] | tuple[str, ...] = (), out: Path | None = None
) -> Recipe:
    """Reads a recipe.

    Args:
        path: YAML file; its `extends:` (a path relative to it) is merged in below it.
        overrides: `a.b=value` strings, the value in YAML, applied last.
        out: Replaces the recipe's `out`.

    Raises:
        RecipeError: With every mistake found, each with its path, value and remedy.
    """
    tree = read_tree(path, overrides, out)
    if found := structural_problems(tree):
        raise RecipeError(str(path), found)
    return Recipe.model_validate(tree)


def read_tree(path: Path | str, overrides: list[str] | tuple[str, ...] = (), out: Path | None = None) -> dict:
    """Reads what `load_recipe` would validate: the YAML with `extends:` and overrides merged in.

    Raises:
        RecipeError: If there is no tree to speak of.
    """
    tree = _read_tree(Path(path), ())
    for override in overrides:
        tree = _apply_override(tree, override, str(path))
    return tree if out is None else tree | {"out": str(out)}


def structural_problems(tree: dict) -> list[Problem]:
    """All mistakes that types can tell: unknown and missing fields, wrong types, values out of range."""
    try:
        Recipe.model_validate(tree)
    except ValidationError as error:
        return [_problem(detail, tree) for detail in error.errors()]
    return []


def json_schema() -> str:
    """JSON schema of a recipe, with which editors complete and check it."""
    schema = Recipe.model_json_schema()
    schema["properties"]["extends"] = {
        "type": "string",
        "description": "Another recipe that this one builds on.",
    }
    return json.dumps(schema, indent=1)


def _read_tree(path: Path, seen: tuple[Path, ...]) -> dict:
    if path.resolve() in seen:
        raise RecipeError(str(path), [Problem("extends", str(path), "a recipe cannot extend itself")])
    try:
        tree = yaml.load(path.read_text(encoding="utf-8"), _UniqueKeyLoader)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise RecipeError(str(path), [Problem("recipe", str(path), f"cannot be read: {reason}")]) from None
    except yaml.YAMLError as error:
        raise RecipeError(
            str(path), [Problem("recipe", str(path), f"not YAML: {' '.join(str(error).split())}")]
        ) from None
    if not isinstance(tree, dict):
        raise RecipeError(
            str(path), [Problem("recipe", tree, "should be a mapping; see `perdure recipe new`")]
        )
    if (base := tree.pop("extends", None)) is None:
        return tree
    if not isinstance(base, str):
        raise RecipeError(str(path), [Problem("extends", base, "should be the path of another recipe")])
    return _merge(_read_tree(path.parent / base, (*seen, path.resolve())), tree)


class _UniqueKeyLoader(yaml.SafeLoader):
    """YAML would let the second of two equal keys win silently."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {key!r} stands twice", node.start_mark
                )
        return super().construct_mapping(node, deep)


def _merge(base: Any, over: Any) -> Any:
    """Mappings merge key by key; a mapping with another `type` and everything else replaces."""
    if not (isinstance(base, dict) and isinstance(over, dict)):
        return over
    if "type" in over and over["type"] != base.get("type"):
        return over
    return base | {key: _merge(base[key], value) if key in base else value for key, value in over.items()}


def _apply_override(tree: dict, override: str, source: str) -> dict:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise RecipeError(source, [Problem("--set", override, "should read path.to.field=value")])
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        raise RecipeError(source, [Problem(key, text, "should be a YAML value")]) from None
    for name in reversed(key.split(".")):
        value = {name: value}
    return _merge(tree, value)


def _problem(detail: Any, tree: dict) -> Problem:
    """Turns one of pydantic's error entries into a Problem that names the remedy."""
    location = [part for part in detail["loc"] if part != "[key]"]
    value: Any = tree
    path = []
    for position, part in enumerate(location):
        if isinstance(value, dict) and part not in value and position < len(location) - 1:
            continue  # the tag of a discriminated union, which is no key of the recipe
        path.append(str(part))
        value = (
            value.get(part) if isinstance(value, dict) else value[part] if isinstance(value, list) else None
        )
    name, kind = ".".join(path), detail["type"]
    if "[key]" in detail["loc"]:
        value = path[-1]
    if kind == "missing":
        return Problem(name, None, "required, but missing")
    if kind == "extra_forbidden":
        near = difflib.get_close_matches(path[-1], _field_names(), n=1)
        return Problem(name, value, f"unknown field{f'; did you mean `{near[0]}`?' if near else ''}")
    if kind == "union_tag_invalid":
        return Problem(
            f"{name}.type", value.get("type"), f"should be one of {detail['ctx']['expected_tags']}"
        )
    if kind == "union_tag_not_found":
        return Problem(f"{name}.type", None, "required: names the kind of this section")
    if kind == "string_pattern_mismatch":
        return Problem(name, value, "should be lower-case letters, digits, `_` and `-`")
    if kind == "too_short":
        return Problem(name, value, "should not be empty")
    message = detail["msg"].replace("Input should be", "should be")
    return Problem(name, value, message[0].lower() + message[1:])


def _field_names() -> list[str]:
    sections = [Section]
    for section in sections:
        sections.extend(section.__subclasses__())
    return sorted({name for section in sections for name in section.model_fields})
