"""What tests of kernels ask of a rank on a pretended GPU: `python kernel_ranks.py FUNCTION JSON_ARGUMENTS ANSWER`."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from gpu import machine
from gpu.answering import answer
from gpu.ledger import LEDGER
from triton.runtime.interpreter import InterpreterBuilder

from perdure.kernels import linear_nll, rotary, selective_linear_cross_entropy, swiglu, tiles, triton_loss
from perdure.kernels.inputs import LossInputs, WeightGradient
from perdure.pipeline.model.device import initialise


def launches() -> list:
    """What the product launches for models whose sizes divide as large ones' do: by capability, kernel, arguments and
    purpose."""
    machine.install(computed="none")
    initialise()
    found: list[dict] = []
    for capability in ((8, 0), (9, 0), (10, 0), (12, 0)):
        torch.cuda.get_device_capability = lambda *_, own=capability: own  # type: ignore[assignment]
        bf16, hopper = torch.bfloat16, capability == (9, 0)
        for name, dtype in (("bf16", bf16), ("fp32", torch.float32)) if hopper else (("bf16", bf16),):
            with launched(found, f"train {name}"):
                lose(dtype)
            with launched(found, f"train {name}, teacher"):
                lose(dtype, teacher=True)
            if capability == (12, 0):  # whether its shared memory suffices
                continue
            with launched(found, f"train {name}, kept"):
                lose(dtype, cache=1 << 20)
            with launched(found, f"score {name}"):
                linear_nll(*head(dtype), vocab_size=4096, entropy=True)
            if hopper:
                launched_more(found, name, dtype)
            with launched(found, f"layer {name}"):
                x = torch.zeros(128, 2, 32, 128, dtype=dtype, device="cuda", requires_grad=True)
                angle = torch.zeros(128, 1, 1, 64, dtype=dtype, device="cuda")
                rotary(x, angle, angle).sum().backward()
                x = torch.zeros(128, 2, 2048, dtype=dtype, device="cuda", requires_grad=True)
                swiglu(x).sum().backward()
    return found


def launched_more(found: list[dict], name: str, dtype: torch.dtype) -> None:
    """Adds variants that differ little, for one capability."""
    with launched(found, f"train {name}, z_loss"):
        lose(dtype, z_loss=1e-4)
    with launched(found, f"train {name}, odd vocabulary"):
        lose(dtype, vocab_size=4093)
    if dtype == torch.bfloat16:  # float32 has no descriptors anyway
        with launched(found, f"train {name}, odd width"):
            lose(dtype, width=516)
    with launched(found, f"score {name}, softcap"):
        linear_nll(*head(dtype), vocab_size=4096, softcap=30.0, entropy=True)


def large_launches(group: int | None) -> list:
    """What is launched for 8,192 tokens and the output layer of Llama-3-8B; dense products are left out.

    Args:
        group: Blocks of rows that share columns; None: as many as the product has.
    """
    machine.install(computed="none")
    initialise()
    tiles.GROUP = group or tiles.GROUP
    both_kernels(torch.empty, 8192, 128256, 4096)
    return LEDGER.launches


def loaded_tiles() -> list:
    """Launches over 5 blocks of rows, 2 of which share columns, and where each of their tiles begins: row and column."""
    machine.install()
    initialise()
    tiles.GROUP, triton_loss.PROGRAMS = 2, 10
    loads: list[tuple[int, int]] = []
    load = InterpreterBuilder.create_descriptor_load

    def noted(self, descriptor, indices, *others):
        row, depth = (int(index.data.item()) for index in indices)
        if depth == 0:
            loads.append(row)
        return load(self, descriptor, indices, *others)

    InterpreterBuilder.create_descriptor_load = noted
    both_kernels(torch.zeros, 600, 1300, 128)
    return [LEDGER.launches, list(zip(loads[::2], loads[1::2], strict=True))]


def both_kernels(make: Callable[..., torch.Tensor], tokens: int, vocab_size: int, width: int) -> None:
    """K1 over some tokens, and K2, without the products that cuBLAS makes."""
    triton_loss.add_matmul = lambda *_: None
    rows, weight = (make(x, width, dtype=torch.bfloat16, device="cuda") for x in (tokens, vocab_size))
    labels = torch.zeros(tokens, dtype=torch.int64, device="cuda")
    inputs, numbers = LossInputs(rows, weight, labels, vocab_size, None), torch.zeros(tokens, device="cuda")
    triton_loss.statistics(inputs)
    triton_loss.gradients(inputs, numbers, numbers, numbers, None, WeightGradient(None, False))


def head(dtype: torch.dtype, width: int = 512) -> tuple[torch.Tensor, ...]:
    """Hidden states, an output weight and labels."""
    hidden = torch.zeros(2, 256, width, dtype=dtype, device="cuda", requires_grad=True)
    weight = torch.zeros(4096, width, dtype=dtype, device="cuda", requires_grad=True)
    return hidden, weight, torch.zeros(2, 256, dtype=torch.int64, device="cuda")


def lose(dtype: torch.dtype, width: int = 512, teacher: bool = False, **options) -> None:
    """The loss of 300 selected tokens, forward and backward, perhaps with the KL of all tokens to a frozen teacher."""
    places = torch.arange(512, device="cuda").view(2, 256)
    chosen = {"valid": places >= 0, "selected": places < 300}
    if teacher:
        hidden, weight, _ = head(dtype)
        chosen |= {"teacher_hidden": hidden.detach(), "teacher_weight": weight.detach()}
        chosen["kl_weight"] = torch.ones(2, 256, device="cuda")
    result = selective_linear_cross_entropy(*head(dtype, width), **{"vocab_size": 4096} | chosen | options)
    (result.loss * result.selected).sum().backward()


@contextmanager
def launched(found: list[dict], purpose: str) -> Iterator[None]:
    """Adds what is launched inside to what was found, unless the same was launched before."""
    LEDGER.clear()
    yield
    major, minor = torch.cuda.get_device_capability()
    capability = 10 * major + minor
    same = [other for other in found if other["capability"] == capability]
    for launch in LEDGER.launches:
        if all(launch != {key: other[key] for key in launch} for other in same):
            found.append(launch | {"purpose": purpose, "capability": capability})


def main() -> None:
    """Calls the function that the command line names."""
    answer(globals())


if __name__ == "__main__":
    main()
