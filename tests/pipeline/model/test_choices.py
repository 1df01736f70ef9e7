"""What a machine decides to compute with, and what it refuses."""

import sys
from types import SimpleNamespace

import pytest
import torch
from tiny import tiny_recipe

from perdure.pipeline.core.errors import PerdureError
from perdure.pipeline.core.kernel_words import in_words
from perdure.pipeline.model import choices

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
BF16 = {"training__precision": "bf16"}
INTERFACE = """
import torch
kept = torch.library.Library("flash_attn_3", "DEF")
kept.define("fwd(Tensor q) -> Tensor")
kept.define("bwd(Tensor q) -> Tensor")
"""
"""What torch asks of FlashAttention-3's module."""


@pytest.fixture
def hopper(monkeypatch, tmp_path):
    """A GPU of compute capability 9.0; its attributes change that, and what is installed."""
    machine = SimpleNamespace(capability=(9, 0), flash3=False)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: machine.capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a GPU")
    found = choices.is_installed
    monkeypatch.setattr(
        choices, "is_installed", lambda name: machine.flash3 if name == choices.FLASH3 else found(name)
    )
    return machine


def wide(width: int) -> dict:
    return {"model__hidden_size": 4 * width}


@pytest.mark.parametrize(
    ("capability", "flash3", "changes", "attention"),
    [
        ((9, 0), True, BF16, "flash3"),
        ((9, 0), False, BF16, "flash2"),
        ((8, 0), True, BF16, "flash2"),
        ((10, 0), True, BF16, "flash2"),
        ((9, 0), True, {}, "sdpa"),
        ((9, 0), True, BF16 | wide(192), "flash3"),
        ((9, 0), True, BF16 | wide(256), "flash2"),
        ((9, 0), True, BF16 | wide(256) | {"kernels__deterministic": False}, "flash3"),
        ((9, 0), True, BF16 | wide(320), "sdpa"),
        ((9, 0), True, BF16 | {"kernels__attention": "flash2"}, "flash2"),
        ((9, 0), False, BF16 | {"kernels__attention": "cudnn", "kernels__deterministic": False}, "cudnn"),
    ],
)
def test_auto_is_the_best_that_is_there_and_deterministic(hopper, capability, flash3, changes, attention):
    hopper.capability, hopper.flash3 = capability, flash3
    made = choices.choose(tiny_recipe("unused", **changes), GPU)
    assert (made.attention, made.linears, made.fp8) == (attention, "local", None)
    assert ("flash_attn_3" in made.versions) == (attention == "flash3")


def test_a_cpu_computes_as_torch_chooses():
    made = choices.choose(tiny_recipe("unused"), CPU)
    assert (
        made.attention == "sdpa" and made.deterministic and set(made.versions) == {"torch", "megatron-core"}
    )
    assert in_words(made.as_json()) == (
        f"attention sdpa; linears local; fp8 none; deterministic yes; torch {torch.__version__}; "
        f"megatron-core {made.versions['megatron-core']}"
    )


@pytest.mark.parametrize(
    ("device", "changes", "line"),
    [
        (
            CPU,
            {"attention": "flash2"},
            "kernels.attention: flash2 needs a GPU, and there is none here; set it to auto",
        ),
        (CPU, {"linears": "transformer_engine"}, "kernels.linears: transformer_engine needs a GPU"),
        (
            GPU,
            {"attention": "flash3"},
            "flash3 needs the package flash_attn_interface, which is not installed here",
        ),
        (GPU, {"linears": "transformer_engine"}, "kernels.linears: transformer_engine needs the package"),
        (GPU, {"attention": "transformer_engine"}, "kernels.attention: transformer_engine needs the package"),
    ],
)
def test_what_a_machine_cannot_do_is_refused_in_one_line(hopper, device, changes, line):
    recipe = tiny_recipe("unused", **BF16, kernels=changes)
    with pytest.raises(PerdureError) as refused:
        choices.choose(recipe, device)
    assert line in str(refused.value) and len(str(refused.value).splitlines()) == 1
    if device == CPU:
        with pytest.raises(PerdureError) as refused:
            choices.require_kernels(recipe)
        assert line in str(refused.value)


def test_flash3_is_refused_on_another_gpu(hopper):
    hopper.capability, hopper.flash3 = (10, 0), True
    recipe = tiny_recipe("unused", **BF16, kernels__attention="flash3")
    with pytest.raises(PerdureError, match=r"flash3 needs a GPU of compute capability 9\.0, not a GPU"):
        choices.choose(recipe, GPU)


def test_a_transformer_engine_that_cannot_be_imported_says_why(hopper, tmp_path, monkeypatch):
    package = tmp_path / "transformer_engine"
    package.mkdir()
    (package / "__init__.py").write_text(
        "raise OSError('libcublas.so.13:\\n cannot open shared object file')"
    )
    monkeypatch.syspath_prepend(tmp_path)
    recipe = tiny_recipe("unused", **BF16, kernels__linears="transformer_engine")
    with pytest.raises(PerdureError) as refused:
        choices.choose(recipe, GPU)
    assert "cannot be imported here: OSError: libcublas.so.13: cannot open shared object file" in str(
        refused.value
    )
    sys.modules.pop("transformer_engine", None)


@pytest.fixture
def switched(monkeypatch):
    """What `install` switches, in order."""
    found: dict = {}
    for name in ("flash", "cudnn", "mem_efficient", "math"):
        monkeypatch.setattr(
            torch.backends.cuda, f"enable_{name}_sdp", lambda on, name=name: found.update({name: on})
        )
    monkeypatch.setattr(torch, "use_deterministic_algorithms", lambda on: found.update({"deterministic": on}))
    monkeypatch.setenv("NVTE_ALLOW_NONDETERMINISTIC_ALGO", "1")
    return found


def of(attention: str, deterministic: bool = True) -> choices.Choices:
    return choices.Choices(attention, "local", None, deterministic, {})


@pytest.mark.parametrize("attention", ["flash2", "cudnn"])
def test_only_the_chosen_attention_is_left_on(switched, attention):
    choices.install(of(attention, deterministic=False), GPU)
    on = {"flash2": "flash", "cudnn": "cudnn"}[attention]
    kernels = {name: name == on for name in ("flash", "cudnn", "mem_efficient", "math")}
    assert switched == kernels | {"deterministic": False}


@pytest.mark.parametrize("attention", ["sdpa", "transformer_engine"])
def test_others_leave_torch_as_it_is(switched, attention, monkeypatch):
    choices.install(of(attention), GPU)
    assert switched == {"deterministic": True}
    assert choices.os.environ["NVTE_ALLOW_NONDETERMINISTIC_ALGO"] == "0"


def test_flash3_is_activated_by_the_names_that_torch_knows(switched, tmp_path, monkeypatch):
    (tmp_path / f"{choices.FLASH3}.py").write_text(INTERFACE)
    monkeypatch.syspath_prepend(tmp_path)
    try:
        choices.install(of("flash3"), GPU)
        assert torch.nn.attention.current_flash_attention_impl() == "FA3"
        assert switched["flash"] and not switched["math"]
    finally:
        torch.nn.attention.restore_flash_attention_impl()
        sys.modules.pop(choices.FLASH3, None)
