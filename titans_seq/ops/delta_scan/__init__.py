"""Delta scan: a matrix memory that decays, erases and writes at every token, exactly."""

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from titans_seq.ops.kernels import use_triton

BACKENDS = ("reference", "chunked", "triton")  # one module each, beside this file
Backend = Literal["auto", "reference", "chunked", "triton"]


class DeltaState(NamedTuple):
    """The memory between two calls. The rule is exact at every token, so there is nothing else to carry."""

    memory: Tensor  # M_t, (B, H, D, Dv)


class DeltaInputs(NamedTuple):
    """Checked tensors of one call, all in the state's dtype; n is the number of steps a token takes."""

    q: Tensor  # (B, H, T, 1, D)
    k: Tensor  # (B, H, T, n, D)
    v: Tensor  # (B, H, T, n, Dv)
    decay: Tensor | None  # w in [0, 1], (B, H, T, 1, 1 or D); None for 1
    a: Tensor | None  # (B, H, T, n, D); None where nothing is erased
    b: Tensor | None


Scan = Callable[[DeltaInputs, Tensor], tuple[Tensor, Tensor]]


def _check(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor | None,
    erase: tuple[Tensor, Tensor] | None,
    state: DeltaState | None,
) -> None:
    if q.ndim != 4:
        raise ValueError(f"q must have shape (B, H, T, D), got {tuple(q.shape)}.")
    B, H, T, D = q.shape
    rows = (B, H, T)
    if k.ndim not in (4, 5) or k.shape[:3] != rows or k.shape[-1] != D or 0 in k.shape[3:]:
        raise ValueError(
            f"k must have shape (B, H, T, D) = {(*rows, D)} to match q, or (B, H, T, n, D) for n keys a token, "
            f"got {tuple(k.shape)}."
        )
    if v.ndim != k.ndim or v.shape[:-1] != k.shape[:-1]:
        axes = "(B, H, T, n, Dv)" if k.ndim == 5 else "(B, H, T, Dv)"
        raise ValueError(f"v must have shape {axes}, one row a key of k {tuple(k.shape)}, got {tuple(v.shape)}.")
    if log_decay is not None and log_decay.shape not in (rows, (*rows, D)):
        raise ValueError(
            f"log_decay must have shape (B, H, T) = {rows} or (B, H, T, D) = {(*rows, D)} to match q, "
            f"got {tuple(log_decay.shape)}. It acts once a token, whatever the number of keys."
        )
    for name, key in zip(("a", "b"), erase or (), strict=False):
        if key.shape != k.shape:
            raise ValueError(f"{name} of erase must have the shape of k, {tuple(k.shape)}, got {tuple(key.shape)}.")
    if state is not None and state.memory.shape != (B, H, D, v.shape[-1]):
        raise ValueError(
            f"state holds memories of shape {tuple(state.memory.shape)}, "
            f"expected (B, H, D, Dv) = {(B, H, D, v.shape[-1])}."
        )


def delta_scan(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor | None = None,
    erase: tuple[Tensor, Tensor] | None = None,
    *,
    state: DeltaState | None = None,
    backend: Backend = "auto",
) -> tuple[Tensor, DeltaState]:
    r"""Run $M_t = (\mathrm{diag}(w_t) - b_t a_t^\top) M_{t-1} + k_t v_t^\top$ and read $y_t = q_t M_t$.

    The family of linear attention and of the delta rule. With $\bar w$, β and α a model's own gates:

    =====================================  ==================  ============  ========================
    model                                  w                   (a, b)        k vᵀ
    =====================================  ==================  ============  ========================
    linear attention                       1                   none          k vᵀ
    RetNet, Lightning attention, Mamba-2   of the head         none          k vᵀ; Δ B xᵀ for Mamba-2
    GLA; HGRN2                             of the channel f    none          k vᵀ; (1 - f) vᵀ
    DeltaNet; Longhorn                     1                   (k, β k)      β k vᵀ; β / (1 + β k·k) for β
    Gated DeltaNet                         α of the head       (α k, β k)    β k vᵀ
    DeltaProduct                           α of the head       (k_j, β k_j)  β_j k_j v_jᵀ, n of them
    RWKV-7                                 of the channel      (κ, α κ)      k vᵀ
    =====================================  ==================  ============  ========================

    A token of several keys takes so many steps: the decay acts with the first of them, the query reads after the last.
    The first ``a`` reads the memory of the token before, not yet decayed (Gated DeltaNet and gated DeltaProduct erase
    from the decayed one: their first ``a`` is w ⊙ k), each other one what the step before it left.

    Everything is computed in float32 (float64 for float64 inputs), under autocast too; in Triton sums and the memory
    are, and what is multiplied is rounded to the dtype of v (float32 to TF32). Exact at every token: there is no chunk
    size, and any split of a stream equals one pass. Norms are not bounded here: where a·b is beyond 0 to 2
    (with w = 1 and a along b) a repeated key makes the memory grow without end.

    Args:
        q: (B, H, T, D) what to ask the memory, after the token's write.
        k: (B, H, T, D) keys to write at, or (B, H, T, n, D) for n steps a token.
        v: (B, H, T, Dv) or (B, H, T, n, Dv) values.
        log_decay: log w ≤ 0, (B, H, T) per head or (B, H, T, D) per key channel; -inf for a decay of 0, None for 1.
        erase: the pair (a, b), each shaped like k: what the memory answers to ``a`` is taken from it along ``b``.
            None erases nothing (Hebbian).
        state: the memory before the first token; zeros when absent. A learned one is ``DeltaState`` of it.
        backend: ``triton`` are fused kernels, for one key a token and decay by head, ``chunked`` is the parallel form
            in PyTorch, ``reference`` the printed recurrence. ``auto`` takes Triton on CUDA where it can.

    Returns:
        What was read, (B, H, T, Dv) in the dtype of v, and the memory after the last token.

    Raises:
        ValueError: if shapes do not agree, or ``triton`` has no kernel for this; says which and why.
    """
    _check(q, k, v, log_decay, erase, state)
    if backend not in ("auto", *BACKENDS):
        raise ValueError(f"backend must be auto or one of {', '.join(BACKENDS)}, got {backend!r}.")
    dtype = torch.float64 if torch.float64 in (q.dtype, k.dtype, v.dtype) else torch.float32
    B, H, _, D = q.shape
    memory = q.new_zeros(B, H, D, v.shape[-1], dtype=dtype) if state is None else state.memory.to(dtype)
    if _in_triton(backend, k, v, log_decay):
        from titans_seq.ops.delta_scan.triton import delta_scan as fused

        y, memory = fused(q, k, v, log_decay, erase, memory)
        return y, DeltaState(memory)
    if log_decay is not None and log_decay.ndim == 3:
        log_decay = log_decay[..., None]
    if k.ndim == 4:
        k, v = k[..., None, :], v[..., None, :]
        erase = None if erase is None else (erase[0][..., None, :], erase[1][..., None, :])
    a, b = (None, None) if erase is None else (erase[0].to(dtype), erase[1].to(dtype))
    decay = None if log_decay is None else log_decay.to(dtype).exp()[..., None, :]
    scan = _backend(backend)
    with torch.autocast(q.device.type, enabled=False):
        y, memory = scan(DeltaInputs(q.to(dtype)[..., None, :], k.to(dtype), v.to(dtype), decay, a, b), memory)
    return y.to(v.dtype), DeltaState(memory)


def _in_triton(name: Backend, k: Tensor, v: Tensor, log_decay: Tensor | None) -> bool:
    if name != "triton" and not (name == "auto" and v.is_cuda):
        return False
    from titans_seq.ops.delta_scan import triton

    lacking = triton.lacks(k, v, log_decay)
    return use_triton("delta_scan", name, v.device.type, str(v.dtype), lacking, triton.probe)


def _backend(name: Backend) -> Scan:
    if name == "reference":
        from titans_seq.ops.delta_scan.reference import delta_scan as scan
    else:
        from titans_seq.ops.delta_scan.chunked import delta_scan as scan
    return scan
