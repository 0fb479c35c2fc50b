"""What the Triton kernels of all operators share: whether they can run here, and what is said when they do not."""

from collections.abc import Callable
from functools import cache, wraps
from typing import Any

import torch

from titans_seq.errors import ConfigError, log


class NoKernel(ConfigError, ValueError):
    """Kernels were asked for what there is none for."""


@cache
def missing() -> str | None:
    """Why there is no Triton here; None if there is."""
    try:
        import triton  # noqa: F401
    except Exception as error:  # a broken one raises anything
        return f"triton cannot be imported ({error})"
    return None


def interpreted() -> bool:
    """Whether kernels run on tensors of a CPU: TRITON_INTERPRET=1 was set before they were imported."""
    if missing():
        return False
    import triton

    return bool(triton.knobs.runtime.interpret)


def on_its_device(launch: Callable[..., Any]) -> Callable[..., Any]:
    """Launch kernels on the GPU of the first tensor; Triton takes the current one, which may be another."""

    @wraps(launch)
    def guarded(first: torch.Tensor, *others: Any) -> Any:
        with torch.cuda.device_of(first):
            return launch(first, *others)

    return guarded


def use_triton(
    operator: str, backend: str, device: str, dtype: str, lacking: str, probe: Callable[[str], None]
) -> bool:
    """Whether Triton carries a call out.

    Args:
        operator: its name, for people.
        backend: "triton", or "auto" which takes it on CUDA, and says once where it does not.
        device: type of the tensors' device.
        dtype: of what is multiplied. Kernels multiply float32 as TF32, which "auto" takes where torch may.
        lacking: what the kernels need that this call has not; empty if nothing.
        probe: runs the kernels once on a device; what it raises says that they fail there.

    Raises:
        NoKernel: if ``backend`` is "triton" and kernels cannot carry it out; says why.
    """
    if backend == "triton":
        elsewhere = "" if device == "cuda" or interpreted() else f"kernels run on CUDA, not on {device}"
        if reason := missing() or elsewhere or (lacking and f"kernels need {lacking}"):
            raise NoKernel(f"{operator} has no Triton kernel for this: {reason}. Use backend auto or chunked.")
        return True
    if backend != "auto" or device != "cuda":
        return False
    if not lacking and dtype == "torch.float32" and torch.get_float32_matmul_precision() == "highest":
        lacking = "bfloat16, or torch.set_float32_matmul_precision('high') for float32"
    if reason := missing() or (lacking and f"kernels need {lacking}") or _failing(probe, device):
        _say(f"{operator} runs in PyTorch (chunked), not in Triton: {reason}.")
    return not reason


# What torch.compiler.assume_constant_result does, without its import of the compiler: a second for every command
use_triton._dynamo_marked_constant = True  # type: ignore[attr-defined]


@cache
def _failing(probe: Callable[[str], None], device: str) -> str:
    """What ``probe`` raises on a device; empty if nothing. It goes forward and back, whatever its caller does."""
    try:
        with torch.inference_mode(False), torch.enable_grad(), torch.autocast(device, enabled=False):
            probe(device)
    except Exception as error:  # whatever a compiler or driver raises
        return f"its kernels fail on this machine ({type(error).__name__}: {error})"
    return ""


@cache
def _say(message: str) -> None:
    """Log a line, once a process."""
    log.warning(message)
