"""The recipe: everything a run depends on, typed. Every field's docstring is its reference manual.

`load_recipe` reads YAML (with `extends:` and `--set a.b=c` overrides) and reports all mistakes at once.
`perdure.pipeline.check` judges what types cannot: whether sources exist, layouts divide, budgets suffice.
"""

from perdure.pipeline.recipe.data import (
    DataStage,
    ExtendedTokenizer,
    HuggingFaceReader,
    HuggingFaceTokenizer,
    JsonlReader,
    ParquetReader,
    PythonCodeReader,
    PythonDocsReader,
    Reader,
    SentencePieceTokenizer,
    Source,
    TextReader,
    Tokenizer,
    TrainedTokenizer,
)
from perdure.pipeline.recipe.load import json_schema, load_recipe, read_tree, structural_problems
from perdure.pipeline.recipe.root import Recipe
from perdure.pipeline.recipe.scoring import Scoring
from perdure.pipeline.recipe.section import Fraction, Name, Positive, Section
from perdure.pipeline.recipe.training import (
    Evaluation,
    Guard,
    HuggingFaceModel,
    LlamaModel,
    Model,
    Parallel,
    Training,
)
from perdure.pipeline.recipe.versions import (
    CosineSchedule,
    InfiniteSchedule,
    Init,
    Mixture,
    MixtureSource,
    Replay,
    Schedule,
    Selection,
    Start,
    Update,
    Version,
)

__all__ = [
    "CosineSchedule",
    "DataStage",
    "Evaluation",
    "ExtendedTokenizer",
    "Fraction",
    "Guard",
    "HuggingFaceModel",
    "HuggingFaceReader",
    "HuggingFaceTokenizer",
    "InfiniteSchedule",
    "Init",
    "JsonlReader",
    "LlamaModel",
    "Mixture",
    "MixtureSource",
    "Model",
    "Name",
    "Parallel",
    "ParquetReader",
    "Positive",
    "PythonCodeReader",
    "PythonDocsReader",
    "Reader",
    "Recipe",
    "Replay",
    "Schedule",
    "Scoring",
    "Section",
    "Selection",
    "SentencePieceTokenizer",
    "Source",
    "Start",
    "TextReader",
    "Tokenizer",
    "TrainedTokenizer",
    "Training",
    "Update",
    "Version",
    "json_schema",
    "load_recipe",
    "read_tree",
    "structural_problems",
]
