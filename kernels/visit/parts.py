"""The parts of a visit, most valuable first: what each asks, how it is run, and how long it may take.

Limits are for what hangs. Those of the first eight fit into a visit's time together; each later part gets what is left.
"""

import sys
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
STEP = "perdure.data_recipes.bench_step"
SPEED = "perdure.kernels.visit.speed"
TINY_STEP = ("--model", "tiny", "--dtype", "fp32", "--repeats", "3")
LARGE_STEP = ("--model", "Llama-3.2-1B", "--dtype", "bf16", "--repeats", "12")


@dataclass(frozen=True)
class Part:
    """One process of the visit.

    Attributes:
        name: In the results, and for `--only`.
        question: What it answers.
        module: Run as `python -m MODULE ROWS ...`; a name with a slash is a script below the repository's root.
        seconds: It is stopped after these.
        arguments: After the file for rows.
        tiny: In place of `arguments` in a tiny visit.
    """

    name: str
    question: str
    module: str
    seconds: int
    arguments: tuple[str, ...] = ()
    tiny: tuple[str, ...] = field(default=("--tiny",))

    def command(self, rows: Path, tiny: bool) -> list[str]:
        """The command of its process."""
        start = [str(ROOT / self.module)] if "/" in self.module else ["-m", self.module]
        return [sys.executable, *start, str(rows), *(self.tiny if tiny else self.arguments)]


def _speed(name: str, question: str, seconds: int, *arguments: str) -> Part:
    return Part(name, question, SPEED, seconds, arguments, (*arguments, "--tiny"))


def _step(name: str, question: str, seconds: int, *arguments: str) -> Part:
    return Part(name, question, STEP, seconds, (*LARGE_STEP, *arguments), (*TINY_STEP, *arguments))


PARTS = (
    Part("facts", "Which device, versions and clocks; the rates of products and copies.",
         "perdure.kernels.visit.facts", 35),
    Part("exact", "Are losses, gradients, KL and entropies right, also beyond 2^31 logits, and the same twice?",
         "perdure.kernels.visit.exact", 100),
    _step("step", "Tokens/s, MFU and peak memory of a whole step of 1.2 billion parameters; where its time goes.", 90,
          "--parts", "perdure", "--profile"),
    _step("megatron", "The same by Megatron-core's own local layers, loss and AdamW.", 45, "--parts", "megatron"),
    Part("waits", "Where does the host wait for the GPU, and as often as the pretended GPU says?",
         "tests/gpu/true_waits.py", 80),
    _speed("loss", "K1 and K2 at four output layers: how near are they to their floor?", 60,
           "--methods", "triton", "cached", "chunked", "scoring, triton", "--shares", "0.6", "1.0", "--elementwise"),
    _speed("peers", "The same loss by Liger, cut cross-entropy and plain torch.", 55,
           "--methods", "liger", "cce", "cce exact", "eager"),
    Part("attention", "What does determinism cost; are cuDNN and FlashAttention-3 faster; is packed attention right?",
         "perdure.kernels.visit.attention", 40),
    Part("agree", "Do losses on the GPU equal the CPU's to rounding?", "perdure.data_recipes.bench_agree", 50),
    _step("transformers", "The same step by a plain loop around transformers.", 45, "--parts", "transformers"),
    Part("host", "Does a fork read pinned memory; how much stays pinned after a save?",
         "perdure.kernels.visit.host", 30),
    Part("counters", "DRAM traffic, L2 hits and tensor-core use of K1 and K2, by Nsight Compute.",
         "perdure.kernels.visit.counters", 60, ("counters",), ("counters", "--tiny")),
    _step("again", "Does another process find the same bits?", 45, "--parts", "perdure"),
    Part("memcheck", "Does any kernel reach outside its memory? (compute-sanitizer)",
         "perdure.kernels.visit.counters", 50, ("memcheck",), ("memcheck", "--tiny")),
    _speed("compiled", "The same loss by torch.compile, whole and in eight chunks.", 60,
           "--methods", "compiled", "compiled, 8 chunks", "--heads", "Llama-3-8B", "SmolLM2"),
)  # fmt: skip
