"""What one rank works with from its start on, whether it trains or measures again."""

import logging
import socket
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist

from perdure.pipeline.core import logs
from perdure.pipeline.core.errors import PerdureError
from perdure.pipeline.core.files import write_json
from perdure.pipeline.core.hashes import hash_file
from perdure.pipeline.core.kernel_words import in_words
from perdure.pipeline.core.paths import VersionPaths
from perdure.pipeline.core.records import VersionInputs, read_inputs
from perdure.pipeline.evaluate.documents import table_name, write_tables
from perdure.pipeline.model import collectives
from perdure.pipeline.model.choices import Choices, choose
from perdure.pipeline.model.device import initialise
from perdure.pipeline.model.language_model import build_model
from perdure.pipeline.model.layout import Layout, layout_of
from perdure.pipeline.plan.domains import measured_domains
from perdure.pipeline.plan.recorded import version_recipe
from perdure.pipeline.recipe import Recipe, Version
from perdure.pipeline.train import evaluate, fence
from perdure.pipeline.train.probes import Question, encode_probes, score_probes
from perdure.pipeline.train.rows import measure_infills, measure_preferences

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Session:
    """A started rank of one version.

    Attributes:
        paths: The version's directory, or that of an evaluation.
        recipe: As the directory has it.
        inputs: What the version is made from.
        device: This rank's.
        attempt: Number of this start, see `fence`.
        choices: What the model computes with.
        model: The wrapped model; its weights are not set yet.
        questions: The recipe's probes.
    """

    paths: VersionPaths
    recipe: Recipe
    inputs: VersionInputs
    device: torch.device
    attempt: int
    choices: Choices
    model: torch.nn.Module
    questions: list[Question]

    @property
    def name(self) -> str:
        """The version's name."""
        return self.inputs["version"]

    @property
    def version(self) -> Version:
        """The version's section of the recipe."""
        return self.recipe.versions[self.name]

    @property
    def layout(self) -> Layout:
        """How ranks share model and batches."""
        return layout_of(self.recipe)

    @property
    def data(self) -> dict[str, Path]:
        """Data directory by source."""
        return {name: Path(path) for name, path in self.inputs["data"].items()}

    @property
    def tokenizer(self) -> Path:
        """Directory of the tokenizer."""
        return Path(self.inputs["tokenizer"])


def open_session(directory: Path, evaluates: bool = False) -> Session:
    """Starts this rank; all ranks call this.

    Args:
        directory: A prepared version, or the evaluation of a finished one.
        evaluates: Whether it is an evaluation, which has no plan; nor has a version that is computed. The model has no adapter
            then: that of a finished version is merged.

    Raises:
        PerdureError: If ranks see different files or can compute with different things, too many or too few were started, a
            probe cannot be asked, or the machine cannot compute with what the recipe asks for.
    """
    # Ranks meet first: on a machine that starts before the others, these files may be an earlier start's.
    device = initialise()
    paths = VersionPaths(directory)
    inputs = read_inputs(paths)
    recipe = version_recipe(directory, inputs)
    logs.set_version(inputs["version"])
    if dist.get_world_size() != layout_of(recipe).world_size:
        raise PerdureError(
            f"{dist.get_world_size()} ranks were started, but the recipe's layout needs "
            f"{layout_of(recipe).world_size} (tensor x pipeline x data parallel)"
        )
    planned = not evaluates and not recipe.versions[inputs["version"]].is_computed
    for file in ("recipe.yaml", "inputs.json", *(["plan/plan.json"] if planned else [])):
        collectives.require_same(str(directory / file), hash_file(directory / file)[:8])
    # Before anything is trained: a question that cannot be asked should not be found out at the end.
    questions = encode_probes(recipe, Path(inputs["tokenizer"]))
    attempt = fence.take_together(directory)
    adapter = recipe.versions[inputs["version"]].adapter if not evaluates else None
    choices = choose(recipe, device)
    _announce(choices)
    model = build_model(recipe, inputs["vocab_size"], device, adapter)
    return Session(paths, recipe, inputs, device, attempt, choices, model, questions)


def _announce(choices: Choices) -> None:
    """Says what this start computes with, which must be the same on all ranks."""
    told = in_words(choices.as_json())
    for rank, (other, machine) in enumerate(collectives.from_all((told, socket.gethostname()))):
        if other != told:
            raise PerdureError(
                f"{socket.gethostname()} computes with {told}; rank {rank} on {machine} with {other}"
            )
    logger.info(f"computes with: {told}")


def measure(session: Session, file: str, step: int) -> dict[str, dict]:
    """Measures the held-out loss of every domain, middles, pairs and probes, and writes them; all ranks call this.

    Args:
        session: Its model is measured.
        file: Name of the JSON file to write, beside tables of documents and probes.
        step: Steps that the model was trained for.

    Returns:
        Summary by domain, equal on all ranks.
    """
    recipe, directory = session.recipe, session.paths.directory
    domains = evaluate.evaluate(session.model, recipe, measured_domains(recipe), session.data, session.device)
    assert domains is not None
    answers = score_probes(session.model, recipe, session.questions, session.inputs["eos_id"], session.device)
    infills = measure_infills(
        session.model, recipe, session.data, session.tokenizer, session.inputs["eos_id"], session.device
    )
    pairs = measure_preferences(
        session.model, recipe, session.data, session.tokenizer, session.inputs["eos_id"], session.device
    )
    if dist.get_rank() == 0:
        content = {
            "version": session.name,
            "step": step,
            "measured": session.inputs["measured"],
            "domains": evaluate.summaries(domains),
        }
        if infills:
            content["fill_in_the_middle"] = infills
        if pairs:
            content["preferences"] = pairs
        with fence.held(directory, session.attempt):
            tables = {"documents": [domain.documents for domain in domains.values()]}
            if answers is None:
                (directory / table_name(file, "probes")).unlink(missing_ok=True)
            else:
                tables["probes"] = [answers]
            for what, rows in tables.items():
                write_tables(directory / table_name(file, what), rows)
            # Last: it says what the tables were made of.
            names = [table_name(file, what) for what in tables]
            hashes = {name: hash_file(directory / name) for name in names}
            write_json(directory / file, content | {"tables": hashes})
    return evaluate.summaries(domains)
