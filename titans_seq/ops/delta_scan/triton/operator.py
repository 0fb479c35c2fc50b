"""The kernels as one operator of torch, with its slopes: for autograd, torch.compile and checkpoints alike."""

from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from titans_seq.ops.delta_scan.triton import backward, forward
from titans_seq.ops.kernels import interpreted, on_its_device

C = 64  # tokens of a tile: beside D of 64 and 128 the work inside of tiles equals that between them


def _fitting(configs: list[triton.Config], named: dict[str, Any], **given: Any) -> list[triton.Config]:
    return [config for config in configs if config.kwargs["BLOCK"] <= (named | given)["DV"]]


def _tuned(kernel: Any, stages: tuple[int, ...] = (1,), warps: tuple[int, ...] = (4, 8)) -> Any:
    """``kernel`` at the fastest of some blocks of columns, warps and stages, found once for each head width."""
    configs = [
        triton.Config({"BLOCK": block}, num_warps=w, num_stages=s) for block in (32, 64) for w in warps for s in stages
    ]
    tune = triton.autotune(
        configs[:1] if interpreted() else configs,  # there is nothing to time in an interpreter
        key=["D", "DV", "REVERSE", "LAG", "ERASES"],
        prune_configs_by={"early_config_prune": _fitting},
        cache_results=True,
    )
    return tune(kernel)


_erase_pass, _output_pass = _tuned(forward.erase_pass), _tuned(forward.output_pass)
_state_pass = _tuned(forward.state_pass, stages=(1, 2), warps=(4,))
_answer_back, _value_back = _tuned(backward.answer_back), _tuned(backward.value_back)
_read_back, _write_back = _tuned(backward.read_back), _tuned(backward.write_back)


class _Sizes(NamedTuple):
    """R rows of batch and head, T tokens, N tiles a row."""

    R: int
    T: int
    N: int
    D: int
    DV: int

    def kernel(self, **options: Any) -> dict[str, Any]:
        """What every kernel is told."""
        return {"T": self.T, "N": self.N, "D": self.D, "DV": self.DV, "C": C, **options}

    def tiles(self, meta: dict[str, Any]) -> tuple[int, ...]:
        """A program a tile."""
        return (self.R * self.N,)

    def columns(self, meta: dict[str, Any]) -> tuple[int, ...]:
        """A program for some columns of a tile."""
        return (self.R * self.N, self.DV // meta["BLOCK"])

    def carried(self, meta: dict[str, Any]) -> tuple[int, ...]:
        """A program for some columns of a row's memory."""
        return (self.R, self.DV // meta["BLOCK"])


def _sizes(k: Tensor, v: Tensor) -> _Sizes:
    R, T, D = k.shape
    return _Sizes(R, T, triton.cdiv(T, C), D, v.shape[2])


class _Kept(NamedTuple):
    """What the forward pass keeps for the other."""

    memories: Tensor  # (R, N, D, DV) before each tile
    inverse: Tensor  # (R, N, C, C), and so on: none of this where nothing is erased
    of_memory: Tensor  # (R, T, D)
    u: Tensor  # (R, T, DV)


def _room(k: Tensor, v: Tensor, erases: bool) -> _Kept:
    R, T, N, D, DV = _sizes(k, v)
    shapes = [(R, N, C, C), (R, T, D), (R, T, DV)] if erases else [(0,)] * 3
    return _Kept(*(k.new_empty(shape) for shape in [(R, N, D, DV), *shapes]))


@torch.library.custom_op("titans_seq::delta_scan", mutates_args=())
@on_its_device
def _scan(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, a: Tensor | None, b: Tensor | None, memory: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """What is read (R, T, DV), the memory after it (R, D, DV), and what is kept."""
    sizes, erases = _sizes(k, v), a is not None
    y, last, kept = torch.empty_like(v), torch.empty_like(memory), _room(k, v, erases)
    u_0 = torch.empty_like(kept.u)
    if erases:
        _erase_pass[sizes.tiles](a, b, k, v, log_decay, kept.inverse, kept.of_memory, u_0, **sizes.kernel())
    _state_pass[sizes.carried](
        kept.of_memory, k, b, v, u_0, log_decay, memory, kept.memories, kept.u, last,
        **sizes.kernel(REVERSE=False, ERASES=erases),
    )  # fmt: skip
    _output_pass[sizes.columns](q, k, b, v, kept.u, log_decay, kept.memories, y, **sizes.kernel(ERASES=erases))
    return y, last, *kept


@_scan.register_fake
def _(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, a: Tensor | None, b: Tensor | None, memory: Tensor
) -> tuple[Tensor, ...]:
    return torch.empty_like(v), torch.empty_like(memory), *_room(k, v, a is not None)


@torch.library.custom_op("titans_seq::delta_scan_backward", mutates_args=())
@on_its_device
def _scan_back(
    dy: Tensor, dlast: Tensor, q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, a: Tensor | None, b: Tensor | None,
    memories: Tensor, inverse: Tensor, of_memory: Tensor, u: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Slopes by q, k, v, log_decay, a, b and the memory before."""
    sizes, erases = _sizes(k, v), a is not None
    dq, dk, dv, dmemory = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v), torch.empty_like(dlast)
    da, db = torch.empty_like(of_memory), torch.empty_like(of_memory)
    du_0, du, x = torch.empty_like(u), torch.empty_like(u), torch.empty_like(u)
    dmemories, dlog = torch.empty_like(memories), log_decay.new_empty(4 if erases else 2, *log_decay.shape)
    if erases:
        _answer_back[sizes.columns](q, b, dy, log_decay, du_0, **sizes.kernel())
    _state_pass[sizes.carried](
        b, q, of_memory, dy, du_0, log_decay, dlast, dmemories, du, dmemory,
        **sizes.kernel(REVERSE=True, ERASES=erases),
    )  # fmt: skip
    _value_back[sizes.columns](q, k, a, dy, du, inverse, log_decay, dmemories, x, dv, **sizes.kernel(ERASES=erases))
    reads, writes = [(q, dy, dq)], [(k, v, dk)]
    if erases:
        reads, writes = [*reads, (a, x, da)], [*writes, (b, u, db)]  # type: ignore[list-item]
    for i, (r, g, dr) in enumerate(reads):
        _read_back[sizes.tiles](
            r, g, k, b, v, u, log_decay, memories, dmemories, dr, dlog[2 * i],
            **sizes.kernel(LAG=i, ERASES=erases),
        )  # fmt: skip
    for i, (w, value, dw) in enumerate(writes):
        _write_back[sizes.tiles](
            w, value, q, a, dy, x, log_decay, dmemories, dw, dlog[2 * i + 1],
            **sizes.kernel(SIGN=1 - 2 * i, ERASES=erases),
        )  # fmt: skip
    return dq, dk, dv, dlog.sum(0), da, db, dmemory


@_scan_back.register_fake
def _(
    dy: Tensor, dlast: Tensor, q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, a: Tensor | None, b: Tensor | None,
    memories: Tensor, inverse: Tensor, of_memory: Tensor, u: Tensor,
) -> tuple[Tensor, ...]:  # fmt: skip
    return tuple(torch.empty_like(part) for part in (q, k, v, log_decay, of_memory, of_memory, dlast))


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.set_materialize_grads(False)  # what is kept has no slope
    ctx.save_for_backward(*inputs[:6], *output)


def _backward(ctx: Any, dy: Tensor | None, dlast: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
    *inputs, y, last, memories, inverse, of_memory, u = ctx.saved_tensors
    dy = torch.zeros_like(y) if dy is None else dy.contiguous()
    dlast = torch.zeros_like(last) if dlast is None else dlast.contiguous()
    slopes = _scan_back(dy, dlast, *inputs, memories, inverse, of_memory, u)
    return tuple(slope if needed else None for slope, needed in zip(slopes, ctx.needs_input_grad, strict=True))


_scan.register_autograd(_backward, setup_context=_keep)


def scan(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, a: Tensor | None, b: Tensor | None, memory: Tensor
) -> tuple[Tensor, Tensor]:
    """What is read (R, T, DV) and the memory after it (R, D, DV); contiguous tensors, of R rows of batch and head."""
    y, last, *_ = _scan(q, k, v, log_decay, a, b, memory)
    return y, last
