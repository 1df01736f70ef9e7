"""Knowledge probes through the model and layout that train: how likely each choice is."""

from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import torch
from tokenizers import Tokenizer

from perdure.pipeline.core.errors import PerdureError
from perdure.pipeline.core.tokenizers import load_tokenizer
from perdure.pipeline.evaluate.infill import Row
from perdure.pipeline.evaluate.probe_scores import ANSWERS
from perdure.pipeline.evaluate.probes import Probe, probe_files
from perdure.pipeline.recipe import Recipe
from perdure.pipeline.train.rows import row_losses


@dataclass(frozen=True)
class Question:
    """A probe of a file with a row for each of its choices."""

    file: str
    probe: Probe
    rows: list[Row]


def encode_probes(recipe: Recipe, tokenizer: Path) -> list[Question]:
    """The recipe's probes as tokens.

    A token counts for the choice if any of its characters does; text before the choice is cut on the left where a row
    would be longer than `training.seq_length`.

    Raises:
        PerdureError: If a file is missing or broken, or a choice does not fit into a sample.
    """
    if not recipe.evaluation.probes:
        return []
    vocabulary = load_tokenizer(tokenizer).tokenizer
    longest = recipe.training.seq_length
    found = []
    for file in probe_files(recipe.evaluation.probes):
        for probe in file.probes:
            rows = [_row(vocabulary, *probe.filled(choice)) for choice in probe.choices]
            if (most := max(row.scored for row in rows)) > longest:
                raise PerdureError(
                    f"{file.name}: item {probe.id!r} has a choice of {most:,} tokens; at most "
                    f"training.seq_length = {longest:,} fit"
                )
            found.append(Question(file.name, probe, rows))
    return found


def _row(vocabulary: Tokenizer, before: str, choice: str) -> Row:
    encoding = vocabulary.encode(before + choice, add_special_tokens=False)
    # A blank before the choice is usually a part of its first token.
    start = len(before.rstrip())
    scored = sum(end > start for _, end in encoding.offsets)
    return Row(encoding.ids, scored, len(choice.encode()))


def score_probes(
    model: torch.nn.Module, recipe: Recipe, questions: list[Question], eos_id: int, device: torch.device
) -> pa.Table | None:
    """Log-likelihood per byte of every choice; all ranks call this.

    Args:
        model: The wrapped model.
        recipe: Batch sizes and layout.
        questions: From `encode_probes`.
        eos_id: Stands before every row.
        device: This rank's device.

    Returns:
        Columns as in `ANSWERS`; None without questions.
    """
    if not questions:
        return None
    rows = [row for question in questions for row in question.rows]
    return _answers(questions, (-row_losses(model, recipe, rows, eos_id, device)).tolist())


def _answers(questions: list[Question], likelihoods: list[float]) -> pa.Table:
    found, place = [], 0
    for question in questions:
        probe = question.probe
        scores = [
            total / row.num_bytes for total, row in zip(likelihoods[place:], question.rows, strict=False)
        ]
        place += len(question.rows)
        found.append(
            {
                "file": question.file,
                "id": probe.id,
                "kind": probe.kind,
                "date": probe.date,
                "answer": probe.choices.index(probe.answer),
                "old_answer": None if probe.old_answer is None else probe.choices.index(probe.old_answer),
                "scores": scores,
            }
        )
    return pa.Table.from_pylist(found, ANSWERS)
