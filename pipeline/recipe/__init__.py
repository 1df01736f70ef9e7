"""The recipe: everything a run depends on, typed. Every field's docstring is its reference manual.

`load_recipe` reads YAML (with `extends:` and `--set a.b=c` overrides) and reports all mistakes at once.
`perdure.pipeline.checks.check` judges what types cannot: whether sources exist, layouts divide, budgets suffice.
"""

from perdure.pipeline.recipe.adapters import LoRA, Projection
from perdure.pipeline.recipe.anchors import Anchor, FisherAnchor, FisherExamples, KLAnchor, L2Anchor
from perdure.pipeline.recipe.averages import Average
from perdure.pipeline.recipe.cleaning import (
    C4Quality,
    CleaningStep,
    Decontaminate,
    ExactDedup,
    FineWebQuality,
    GopherQuality,
    GopherRepetition,
    LanguageIdentification,
    Length,
    MinhashDedup,
    PersonalData,
    SentenceDedup,
)
from perdure.pipeline.recipe.code import FillInTheMiddle, Repository
from perdure.pipeline.recipe.data import (
    DataStage,
    ExtendedTokenizer,
    HuggingFaceTokenizer,
    LocalWorkers,
    RayTasks,
    SentencePieceTokenizer,
    SlurmArrays,
    Source,
    Tokenizer,
    TrainedTokenizer,
)
from perdure.pipeline.recipe.evaluation import Contamination, Evaluation, Harness
from perdure.pipeline.recipe.hooks import ElasticReset, Reptile
from perdure.pipeline.recipe.keep import KeepEvery
from perdure.pipeline.recipe.kernels import FP8, Kernels
from perdure.pipeline.recipe.labels import (
    ClassifierSubset,
    ClassifierTopics,
    ClusterTopics,
    DsirSubset,
    MetadataTopics,
    Subset,
    Topics,
)
from perdure.pipeline.recipe.load import (
    RecipeSource,
    json_schema,
    load_recipe,
    merge,
    read_tree,
    structural_problems,
    typed_command,
    with_field,
)
from perdure.pipeline.recipe.logging import Logging, WeightsAndBiases
from perdure.pipeline.recipe.mixture_sources import LowestPerplexity, MixtureSource
from perdure.pipeline.recipe.objectives import Forget, Instruct, Preference
from perdure.pipeline.recipe.readers import (
    HuggingFaceReader,
    JsonlReader,
    ParquetReader,
    PythonCodeReader,
    PythonDocsReader,
    Reader,
    RowsReader,
    TextReader,
)
from perdure.pipeline.recipe.root import Recipe
from perdure.pipeline.recipe.schedules import (
    AutoregressiveSchedule,
    ConstantSchedule,
    CosineSchedule,
    DecaySchedule,
    InfiniteSchedule,
    Schedule,
    WSDSchedule,
)
from perdure.pipeline.recipe.scoring import Scoring
from perdure.pipeline.recipe.section import DocumentIds, Fraction, Name, Positive, Section
from perdure.pipeline.recipe.selection import Selection
from perdure.pipeline.recipe.starts import Branch, Fitted, Init, Merge, Start, Update
from perdure.pipeline.recipe.training import (
    Guard,
    HuggingFaceModel,
    LlamaModel,
    Model,
    Parallel,
    StatedShape,
    Training,
)
from perdure.pipeline.recipe.versions import (
    Mixture,
    Replay,
    Reweight,
    Switch,
    Version,
)

__all__ = [
    "FP8",
    "Anchor",
    "AutoregressiveSchedule",
    "Average",
    "Branch",
    "C4Quality",
    "ClassifierSubset",
    "ClassifierTopics",
    "CleaningStep",
    "ClusterTopics",
    "ConstantSchedule",
    "Contamination",
    "CosineSchedule",
    "DataStage",
    "DecaySchedule",
    "Decontaminate",
    "DocumentIds",
    "DsirSubset",
    "ElasticReset",
    "Evaluation",
    "ExactDedup",
    "ExtendedTokenizer",
    "FillInTheMiddle",
    "FineWebQuality",
    "FisherAnchor",
    "FisherExamples",
    "Fitted",
    "Forget",
    "Fraction",
    "GopherQuality",
    "GopherRepetition",
    "Guard",
    "Harness",
    "HuggingFaceModel",
    "HuggingFaceReader",
    "HuggingFaceTokenizer",
    "InfiniteSchedule",
    "Init",
    "Instruct",
    "JsonlReader",
    "KLAnchor",
    "KeepEvery",
    "Kernels",
    "L2Anchor",
    "LanguageIdentification",
    "Length",
    "LlamaModel",
    "LoRA",
    "LocalWorkers",
    "Logging",
    "LowestPerplexity",
    "Merge",
    "MetadataTopics",
    "MinhashDedup",
    "Mixture",
    "MixtureSource",
    "Model",
    "Name",
    "Parallel",
    "ParquetReader",
    "PersonalData",
    "Positive",
    "Preference",
    "Projection",
    "PythonCodeReader",
    "PythonDocsReader",
    "RayTasks",
    "Reader",
    "Recipe",
    "RecipeSource",
    "Replay",
    "Repository",
    "Reptile",
    "Reweight",
    "RowsReader",
    "Schedule",
    "Scoring",
    "Section",
    "Selection",
    "SentenceDedup",
    "SentencePieceTokenizer",
    "SlurmArrays",
    "Source",
    "Start",
    "StatedShape",
    "Subset",
    "Switch",
    "TextReader",
    "Tokenizer",
    "Topics",
    "TrainedTokenizer",
    "Training",
    "Update",
    "Version",
    "WSDSchedule",
    "WeightsAndBiases",
    "json_schema",
    "load_recipe",
    "merge",
    "read_tree",
    "structural_problems",
    "typed_command",
    "with_field",
]
