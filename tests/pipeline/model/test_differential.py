"""Hundreds of model directories: the logits that transformers gives, and its export's, or one line that refuses."""

import warnings
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from model_directories import Variant
from model_variants import LENGTH, cases, make
from safetensors.torch import load_file
from support import on_rank

pytestmark = pytest.mark.slow
TOGETHER = 60
TOKENS = [[(7 * position) % 299 + 1 for position in range(LENGTH)]]
SURELY = 250
"""Directories that must have been tried."""


@dataclass
class Case:
    """A directory and what became of it.

    Attributes:
        name: Family and changes.
        variants: The changes.
        theirs: Logits under transformers; None if it refuses, or makes up numbers.
        ours: Logits in the trainer; None if refused.
        exported: Those of our export under transformers.
        reason: Why ours is refused.
    """

    name: str
    variants: tuple[Variant, ...]
    theirs: torch.Tensor | None
    ours: torch.Tensor | None = None
    exported: torch.Tensor | None = None
    reason: str = ""


def logits(directory: Path) -> torch.Tensor | None:
    """What transformers makes of a directory."""
    from transformers import AutoModelForCausalLM

    try:
        model, info = AutoModelForCausalLM.from_pretrained(
            directory, dtype=torch.float32, output_loading_info=True
        )
        if info["missing_keys"] or info["mismatched_keys"]:
            return None
        with torch.no_grad():
            return model.eval()(torch.tensor(TOKENS)).logits
    except Exception:
        return None


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> list[Case]:
    import transformers

    transformers.logging.set_verbosity(transformers.logging.CRITICAL)
    transformers.logging.disable_progress_bar()
    warnings.simplefilter("ignore")
    root = tmp_path_factory.mktemp("models")
    made: list[Case] = []
    jobs = []
    (root / "tokenizer").mkdir()
    (root / "tokenizer/tokenizer.json").write_text('{"added_tokens": []}')
    for number, (family, variants) in enumerate(cases(TOGETHER, thinned=True)):
        source = make(family, variants, root / f"{number}-in")
        if source is not None:
            name = f"{family}: {' + '.join(variant.name for variant in variants)}"
            made.append(Case(name, variants, logits(source)))
            to = root / f"{number}-out"
            to.mkdir()
            (to / "tokenizer").symlink_to(root / "tokenizer")
            jobs.append([str(source), str(to)])
    for case, (_, to), problems in zip(
        made, jobs, on_rank("read_all", jobs, TOKENS, script="convert_ranks.py")
    ):
        case.reason = "; ".join(problems)
        if not problems:
            case.ours = load_file(Path(to) / "logits.safetensors")["logits"]
            case.exported = logits(Path(to) / "hf")
    return made


def wrong(case: Case) -> str | None:
    """What is wrong with a case; None if nothing is."""
    if "FAILED" in case.reason:
        return case.reason
    if case.ours is None:
        if "\n" in case.reason or not case.reason.startswith(("model.path = ", "training.seq_length = ")):
            return f"refused, but not in a line: {case.reason}"
        allowed = case.theirs is None or any(v.refused and v.refused in case.reason for v in case.variants)
        return None if allowed else f"refused, but transformers loads it: {case.reason}"
    if case.theirs is None:
        return "taken, but transformers does not load it"
    if case.exported is None:
        return "its export does not load"
    if not case.theirs.isfinite().all():
        return "not finite"
    differences = [(case.theirs - logits).abs().max().item() for logits in (case.ours, case.exported)]
    return None if max(differences) < 1e-4 else f"logits differ by {differences}"


def test_a_directory_is_the_model_that_transformers_makes_of_it_or_refused(found):
    mistakes = [f"{case.name}: {what}" for case in found if (what := wrong(case))]
    refused = sum(case.ours is None for case in found)
    print(f"{len(found)} tried, {len(found) - refused} taken, {refused} refused, {len(mistakes)} wrong")
    assert not mistakes, "\n".join(mistakes)
    assert len(found) >= SURELY
    assert len(found) - refused >= SURELY // 2


def test_the_changes_change_something(found):
    """Logits of a changed directory are mostly others than those of the plain one, else nothing above would show."""
    plain = {case.name.split(":")[0]: case.theirs for case in found if case.name.endswith(": plain")}
    others = [case for case in found if case.theirs is not None and case.theirs.shape == plain["llama"].shape]
    changed = [
        case for case in others if not torch.allclose(case.theirs, plain[case.name.split(":")[0]], atol=1e-3)
    ]
    assert len(changed) > len(others) / 4
    assert all(logits is not None and logits.abs().max() > 1 for logits in plain.values())
