"""What computes attention and matrix products on a machine: the recipe's wish, decided where it runs (torch is imported there
alone)."""

import os
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from perdure.pipeline.core.errors import PerdureError
from perdure.pipeline.core.extras import is_installed
from perdure.pipeline.model.shape import model_shape
from perdure.pipeline.recipe import FP8, Kernels, Recipe

if TYPE_CHECKING:
    import torch

TRANSFORMER_ENGINE = "transformer_engine"
FLASH3 = "flash_attn_interface"
"""The module of FlashAttention-3, which torch's `activate_flash_attention_impl("FA3")` imports."""
MODULES = {"flash3": FLASH3, TRANSFORMER_ENGINE: TRANSFORMER_ENGINE}
"""By choice the package that it needs beside torch and Megatron."""
DISTRIBUTIONS = {FLASH3: "flash_attn_3", TRANSFORMER_ENGINE: "transformer_engine"}
FP8_SINCE = "2.6.0"
"""Transformer Engine's release that saves a layer's input as it was (`save_original_input`), which Megatron asks for."""
FLASH_HEAD, FLASH3_DETERMINISTIC_HEAD = 256, 192
"""Widest head of FlashAttention, and of FlashAttention-3's deterministic backward pass (`hopper/flash_api.cpp`)."""


@dataclass(frozen=True)
class Choices:
    """What one start computes with.

    Attributes:
        attention: As in the recipe, `auto` decided; `sdpa`: torch's own choice, on CPUs and under fp32.
        linears: As in the recipe.
        fp8: The recipe's section; None without.
        deterministic: Whether deterministic algorithms alone are used.
        versions: By package, of those that compute.
    """

    attention: str
    linears: str
    fp8: dict[str, Any] | None
    deterministic: bool
    versions: dict[str, str]

    def as_json(self) -> dict[str, Any]:
        """As checkpoints and `version.json` keep it."""
        return asdict(self)


def choose(recipe: Recipe, device: "torch.device") -> Choices:
    """Decides what a rank computes with; equal on machines that are alike.

    Args:
        recipe: Its `kernels`, precision and shape.
        device: The rank's.

    Raises:
        PerdureError: If this machine cannot do what the recipe asks for.
    """
    wanted = recipe.kernels
    if reason := unavailable(wanted, device.type == "cuda"):
        raise PerdureError(reason)
    attention: str = wanted.attention
    if device.type == "cuda":
        attention = _on_gpu(recipe, device)
    elif attention == "auto":
        attention = "sdpa"
    if TRANSFORMER_ENGINE in (attention, wanted.linears):
        _require_transformer_engine(wanted.fp8)
    packages = ["torch", "megatron-core"]
    packages += sorted(
        DISTRIBUTIONS[MODULES[name]] for name in {attention, wanted.linears} if name in MODULES
    )
    return Choices(
        attention,
        wanted.linears,
        wanted.fp8.model_dump() if wanted.fp8 else None,
        wanted.deterministic,
        {name: _version(name) for name in packages},
    )


def unavailable(wanted: Kernels, on_gpu: bool) -> str | None:
    """Why a machine cannot do what a recipe asks for, as far as its packages tell; None if it may."""
    for field in ("attention", "linears"):
        if (name := getattr(wanted, field)) in ("auto", "local"):
            continue
        if not on_gpu:
            default = "auto" if field == "attention" else "local"
            return f"kernels.{field}: {name} needs a GPU, and there is none here; set it to {default}, or run where GPUs are"
        if reason := not_installed(wanted, field):
            return reason
    return None


def lacking(wanted: Kernels) -> list[str]:
    """What this machine lacks of what a recipe asks for, for `perdure check`: no mistake, as another one may train."""
    found = [reason for field in ("attention", "linears") if (reason := not_installed(wanted, field))]
    return [
        f"{reason}: a start on this machine will refuse; where else it trains, that start decides"
        for reason in found
    ]


def require_kernels(recipe: Recipe) -> None:
    """Refuses a recipe that this machine cannot compute, as far as its packages tell, before anything is prepared for it.

    Raises:
        PerdureError: If it cannot.
    """
    wanted = recipe.kernels
    if wanted.attention == "auto" and wanted.linears == "local":
        return
    import torch

    if reason := unavailable(wanted, torch.cuda.is_available()):
        raise PerdureError(reason)


def not_installed(wanted: Kernels, field: str) -> str | None:
    """What a choice needs and this machine's Python has not; None if it has it all."""
    name = getattr(wanted, field)
    if name in MODULES and not is_installed(MODULES[name]):
        return f"kernels.{field}: {name} needs the package {MODULES[name]}, which is not installed here"
    return None


def _on_gpu(recipe: Recipe, device: "torch.device") -> str:
    """The attention that a GPU computes.

    Raises:
        PerdureError: If it cannot compute the one that is asked for.
    """
    import torch

    wanted, width = recipe.kernels, model_shape(recipe).head_dim
    hopper = torch.cuda.get_device_capability(device)[0] == 9
    if wanted.attention == "flash3" and not hopper:
        name = torch.cuda.get_device_name(device)
        raise PerdureError(
            f"kernels.attention: flash3 needs a GPU of compute capability 9.0, not {name}; set it to auto or flash2"
        )
    if wanted.attention != "auto":
        return wanted.attention
    if recipe.training.precision != "bf16" or width > FLASH_HEAD:
        return "sdpa"
    flash3 = hopper and is_installed(FLASH3) and width <= flash3_head(wanted)
    return "flash3" if flash3 else "flash2"


def flash3_head(wanted: Kernels) -> int:
    """Widest head that FlashAttention-3 takes."""
    return FLASH3_DETERMINISTIC_HEAD if wanted.deterministic else FLASH_HEAD


def _require_transformer_engine(fp8: FP8 | None) -> None:
    """Refuses a Transformer Engine that cannot be imported, or FP8 that the GPU has not."""
    try:
        import transformer_engine.pytorch  # noqa: F401 - its own error says what is amiss
        from megatron.core.extensions.transformer_engine import HAVE_TE
        from megatron.core.utils import get_te_version, is_te_min_version
        from transformer_engine.pytorch.fp8 import FP8GlobalStateManager
    except Exception as error:  # a library of CUDA that is missing or of another version, too
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise PerdureError(f"kernels: transformer_engine cannot be imported here: {reason}") from None
    if not HAVE_TE:
        raise PerdureError(
            "kernels: Megatron-core could not import transformer_engine; are they of fitting versions?"
        )
    if fp8 is None:
        return
    if fp8.recipe != "delayed" and not is_te_min_version(FP8_SINCE):
        raise PerdureError(
            f"kernels.fp8.recipe: {fp8.recipe} needs transformer_engine {FP8_SINCE}, not {get_te_version()}"
        )
    mx = fp8.recipe == "mxfp8"
    possible = FP8GlobalStateManager.is_mxfp8_available if mx else FP8GlobalStateManager.is_fp8_available
    able, reason = possible()
    if not able:
        raise PerdureError(f"kernels.fp8.recipe: {fp8.recipe} cannot run here: {' '.join(reason.split())}")


def install(choices: Choices, device: "torch.device") -> None:
    """Makes torch and Transformer Engine keep to the choices, for the rest of the process."""
    import torch

    torch.use_deterministic_algorithms(choices.deterministic)
    if choices.deterministic:
        os.environ["NVTE_ALLOW_NONDETERMINISTIC_ALGO"] = (
            "0"  # Megatron refuses Transformer Engine's attention without
        )
    if device.type != "cuda" or choices.attention not in ("flash2", "flash3", "cudnn"):
        return
    if choices.attention == "flash3":
        torch.nn.attention.activate_flash_attention_impl("FA3")
    # No other kernel can step in: what cannot be computed by the one that is recorded is an error.
    torch.backends.cuda.enable_flash_sdp(choices.attention != "cudnn")
    torch.backends.cuda.enable_cudnn_sdp(choices.attention == "cudnn")
    torch.backends.cuda.enable_mem_efficient_sdp(False)
    torch.backends.cuda.enable_math_sdp(False)


def in_bf16(recipe: Recipe) -> Recipe:
    """A recipe without FP8."""
    return recipe.model_copy(update={"kernels": recipe.kernels.model_copy(update={"fp8": None})})


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # built in place
        return "unknown"
