"""Checks of tokenizer, model, layout and batch."""

from collections.abc import Iterator
from pathlib import Path

from perdure.pipeline.checks.sizes import embedding_rows, vocab_size
from perdure.pipeline.core.errors import PerdureError, Problem
from perdure.pipeline.core.hashes import hash_file
from perdure.pipeline.core.hints import missing, near
from perdure.pipeline.data.tokenizer.directory import problem
from perdure.pipeline.data.tokenizer.sentencepiece import unusable
from perdure.pipeline.model.files import model_tensors
from perdure.pipeline.model.layout import layout_of
from perdure.pipeline.model.shape import (
    Shape,
    config_shape,
    config_vocab_size,
    model_shape,
    padded_vocab_size,
    tensor_sizes,
)
from perdure.pipeline.recipe import (
    ExtendedTokenizer,
    HuggingFaceModel,
    HuggingFaceTokenizer,
    LlamaModel,
    Recipe,
    SentencePieceTokenizer,
    TrainedTokenizer,
)

Problems = Iterator[Problem]
MOST_RANKS = 1_000_000


def tokenizer(recipe: Recipe) -> Problems:
    """Checks that the tokenizer's sources and files exist."""
    tokenizer = recipe.tokenizer
    if isinstance(tokenizer, TrainedTokenizer | ExtendedTokenizer):
        for number, name in enumerate(tokenizer.sources):
            if name not in recipe.sources:
                yield Problem(
                    f"tokenizer.sources.{number}", name, f"no such source{near(name, recipe.sources)}"
                )
    if isinstance(tokenizer, HuggingFaceTokenizer | ExtendedTokenizer):
        if not tokenizer.path.is_dir():
            yield missing("tokenizer.path", tokenizer.path, "directory")
        elif not (tokenizer.path / "tokenizer.json").is_file():
            yield Problem(
                "tokenizer.path", str(tokenizer.path), "should be a directory with `tokenizer.json`"
            )
        elif found := problem(tokenizer):
            yield found
    elif isinstance(tokenizer, SentencePieceTokenizer):
        if not tokenizer.path.is_file():
            yield missing("tokenizer.path", tokenizer.path, "file")
        elif reason := unusable(tokenizer.path):
            yield Problem("tokenizer.path", str(tokenizer.path), reason)


def model(recipe: Recipe) -> Problems:
    """Checks that the Hugging Face model can be converted."""
    if isinstance(recipe.model, HuggingFaceModel):
        yield from model_directory("model.path", recipe.model.path, recipe)
        yield from _own_tokenizer(recipe, recipe.model.path / "tokenizer.json")


def stated_shape(recipe: Recipe) -> Problems:
    """Checks a stated shape against the model's own, where the model is on this machine."""
    model = recipe.model
    if (
        not isinstance(model, HuggingFaceModel)
        or model.shape is None
        or (theirs := known_shape(recipe)) is None
    ):
        return
    actual = vars(theirs)
    if (model.path / "config.json").is_file():
        actual = actual | {"vocab_size": config_vocab_size(model.path)}
    for name, stated in model.shape.model_dump(exclude_none=True).items():
        if stated != actual.get(name, stated):
            yield Problem(f"model.shape.{name}", stated, f"should be {actual[name]}, as in {model.path}")


def _own_tokenizer(recipe: Recipe, theirs: Path) -> Problems:
    """Checks that the run's tokenizer is the model's own, or extends it."""
    if not isinstance(recipe.tokenizer, HuggingFaceTokenizer | ExtendedTokenizer):
        return
    ours = recipe.tokenizer.path / "tokenizer.json"
    if ours.is_file() and theirs.is_file() and (own := hash_file(ours)) != (found := hash_file(theirs)):
        remedy = f"({own[:8]}) should be the model's tokenizer, {theirs.parent} ({found[:8]})"
        yield Problem("tokenizer.path", str(recipe.tokenizer.path), remedy)


def model_directory(where: str, path: Path, recipe: Recipe) -> Problems:
    """Checks that a Hugging Face directory can be converted, and that its vocabulary has a row for every token."""
    if not path.is_dir():
        yield missing(where, path, "directory")
        return
    if not (path / "config.json").is_file():
        yield Problem(where, str(path), "should be a Hugging Face model directory; it has no `config.json`")
        return
    try:
        shape, rows = config_shape(path), config_vocab_size(path)
        if any(path.glob("*.safetensors")):
            model_tensors(path, tensor_sizes(shape, rows))
    except PerdureError as error:
        yield Problem(where, str(path), str(error).removeprefix(str(path)).lstrip("/: "))
        return
    if not any(path.glob("*.safetensors")):
        remedy = "has no weights: no `*.safetensors` in it"
        if any(path.glob("*.bin")):
            remedy += (
                "; `*.bin` is never read, because a pickle can run code: convert the model to safetensors"
            )
        yield Problem(where, str(path), remedy, absent=True)
    needed = vocab_size(recipe)
    if needed is not None and where == "model.path" and isinstance(recipe.tokenizer, ExtendedTokenizer):
        needed -= recipe.tokenizer.num_tokens  # the model gets rows for the others
    if needed is not None and rows < needed:
        yield Problem(
            where, str(path), f"its vocabulary ({rows:,} tokens) is smaller than the tokenizer's ({needed:,})"
        )


def heads(recipe: Recipe) -> Problems:
    """Checks that the number of query groups divides the number of heads."""
    if isinstance(model := recipe.model, LlamaModel) and model.num_attention_heads % model.num_query_groups:
        yield Problem(
            "model.num_query_groups",
            model.num_query_groups,
            f"should divide num_attention_heads ({model.num_attention_heads})",
        )


def head_width(recipe: Recipe) -> Problems:
    """Checks that heads have an even width."""
    model = recipe.model
    if isinstance(model, LlamaModel) and model.hidden_size % (2 * model.num_attention_heads):
        yield Problem(
            "model.hidden_size",
            model.hidden_size,
            f"should be an even multiple of num_attention_heads ({model.num_attention_heads}): rotary "
            "embeddings turn pairs of a head's dimensions",
        )


def tensor_parallel(recipe: Recipe) -> Problems:
    """Checks that tensor parallelism divides heads, query groups and FFN."""
    layout, model = layout_of(recipe), recipe.model
    shape = known_shape(recipe)
    if layout.tensor == 1 or shape is None:
        return
    for name, value in layout.undivided(shape).items():
        field = name if isinstance(model, LlamaModel) else f"{name} of {model.path}"
        yield Problem("parallel.tensor_parallel", layout.tensor, f"should divide model.{field} ({value})")


def sequence_parallel(recipe: Recipe) -> Problems:
    """Checks that sequence parallelism has several ranks and divides the sequence."""
    layout, length = layout_of(recipe), recipe.training.seq_length
    if not layout.sequence_parallel:
        return
    if layout.tensor == 1:
        remedy = "has no use: parallel.tensor_parallel should be above 1, or leave this out"
        yield Problem("parallel.sequence_parallel", True, remedy)
    elif length % layout.sequence:
        yield Problem(
            "training.seq_length",
            length,
            f"should be a multiple of tensor_parallel ({layout.tensor}), for sequence_parallel",
        )


def vocabulary(recipe: Recipe) -> Problems:
    """Checks that tensor parallelism divides the padded vocabulary."""
    size = layout_of(recipe).tensor
    rows = embedding_rows(recipe) if known_shape(recipe) else None
    if rows is not None and (padded := padded_vocab_size(rows)) % size:
        yield Problem("parallel.tensor_parallel", size, f"should divide the padded vocabulary ({padded:,})")


def pipeline(recipe: Recipe) -> Problems:
    """Checks that pipeline parallelism divides the layers."""
    size, shape = layout_of(recipe).pipeline, known_shape(recipe)
    if shape is not None and shape.num_layers % size:
        yield Problem(
            "parallel.pipeline_parallel", size, f"should divide the number of layers ({shape.num_layers})"
        )


def known_shape(recipe: Recipe) -> Shape | None:
    """The model's shape; None where it cannot be told."""
    try:
        return model_shape(recipe)
    except PerdureError:
        return None  # `model` says why


def sliding_window(recipe: Recipe) -> Problems:
    """Checks that samples fit into the sliding window, so that it has no effect."""
    shape, length = known_shape(recipe), recipe.training.seq_length
    if shape is not None and shape.sliding_window is not None and length > shape.sliding_window:
        remedy = (
            f"should be at most the model's sliding window ({shape.sliding_window}): its attention over more is not "
            "supported"
        )
        yield Problem("training.seq_length", length, remedy)


def ranks(recipe: Recipe) -> Problems:
    """Checks that the number of ranks is at most `MOST_RANKS`."""
    if (size := layout_of(recipe).world_size) > MOST_RANKS:
        yield Problem("parallel", size, f"should be at most {MOST_RANKS:,} ranks (tensor x pipeline x data)")


def overlap(recipe: Recipe) -> Problems:
    """Checks that what overlaps is there: weights are gathered by the distributed optimizer, after gradients in the same
    buckets."""
    parallel = recipe.parallel
    for name in ("distributed_optimizer", "overlap_grad_reduce"):
        if parallel.overlap_param_gather and not getattr(parallel, name):
            yield Problem("parallel.overlap_param_gather", True, f"needs parallel.{name}: true")


def batch(recipe: Recipe) -> Problems:
    """Checks that the batch is a whole number of micro-batches on every replica."""
    layout, micro, batch = (
        layout_of(recipe),
        recipe.training.micro_batch_size,
        recipe.training.global_batch_size,
    )
    if batch % (samples := layout.samples_at_a_time(micro)):
        yield Problem(
            "training.global_batch_size",
            batch,
            f"should be a multiple of micro_batch_size x data_parallel ({micro} x {layout.data} = {samples})",
        )


def adam(recipe: Recipe) -> Problems:
    """Checks that Adam's betas are below 1."""
    for name in ("adam_beta1", "adam_beta2"):
        if (beta := getattr(recipe.training, name)) >= 1:
            yield Problem(f"training.{name}", beta, "should be below 1")


CHECKS = (
    tokenizer,
    model,
    stated_shape,
    heads,
    head_width,
    tensor_parallel,
    sequence_parallel,
    vocabulary,
    pipeline,
    sliding_window,
    ranks,
    overlap,
    batch,
    adam,
)
