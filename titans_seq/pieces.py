"""Long input a piece at a time: memory use is that of one piece, and the result that of one pass."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import get_device_states, set_device_states

from titans_seq.memory_state import MemoryState, detached, fill_state, state_tensors

PIECE = 2048  # tokens that are read at once, where there are more
RECOMPUTE_ABOVE = 4096  # tokens of a call above which a backward pass reads again what it needs

Reader = Callable[[Tensor, MemoryState], tuple[Tensor, MemoryState]]


class _ReadAgain(torch.autograd.Function):
    """Read a piece and keep its inputs alone; the backward pass reads it once more.

    In place of torch's checkpoint, whose bookkeeping of every saved tensor takes half as long as the reading, and
    which keeps the graph's nodes.
    """

    @staticmethod
    def forward(ctx: Any, read: Callable[..., list[Tensor]], weights: list[Tensor], *given: Tensor) -> tuple[Any, ...]:
        inputs = given[: len(given) - len(weights)]  # the weights are given for their slopes; ``read`` holds them
        ctx.read, ctx.weights, ctx.kind = read, weights, inputs[0].device.type
        ctx.cast = torch.get_autocast_dtype(ctx.kind), torch.is_autocast_enabled(ctx.kind)
        ctx.random = torch.get_rng_state(), *get_device_states(*inputs)
        ctx.save_for_backward(*inputs)
        return tuple(read(*inputs))

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Any, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError("A backward pass that reads again has no slopes of its own: set recompute to False.")
        random, devices, states = ctx.random
        inputs = [t.detach().requires_grad_(t.requires_grad) for t in ctx.saved_tensors]
        with torch.enable_grad(), torch.random.fork_rng(devices), torch.autocast(ctx.kind, *ctx.cast):
            torch.set_rng_state(random)
            set_device_states(devices, states)
            found = ctx.read(*inputs)
        outputs, slopes = zip(*((y, s) for y, s in zip(found, slopes, strict=True) if y.requires_grad), strict=True)
        wanted = [t for t in (*inputs, *ctx.weights) if t.requires_grad]
        found = torch.autograd.grad(outputs, wanted, slopes, allow_unused=True)
        if ctx.weights and all(grad is None for grad in found[-len(ctx.weights) :]):
            raise RuntimeError(
                "The backward pass reads again with other parameters than the forward pass had, as under "
                "torch.func.functional_call: set recompute to False."
            )
        grads = iter(found)
        return None, None, *(next(grads) if t.requires_grad else None for t in (*inputs, *ctx.weights))


def in_pieces(
    read: Reader,
    module: nn.Module,
    x: Tensor,
    state: MemoryState,
    unit: int,
    recompute: bool | None,
    truncate: int | None = None,
) -> tuple[Tensor, MemoryState]:
    """Read x (B, T, ...) piece by piece; where gradients are kept, each once more in the backward pass.

    Exact, since one pass equals any split of it, and memory use is that of one piece.

    Args:
        read: reads a piece with the weights of ``module``.
        module: see ``read``.
        x: (B, T, ...).
        state: where the stream stands.
        unit: tokens of a chunk or segment; a piece is a number of them.
        recompute: whether to read again; None for "where T is above 4,096".
        truncate: tokens over which slopes go back through the state (truncated back-propagation); None for all.
    """
    graph = torch.is_grad_enabled()
    again = graph and (x.shape[1] > RECOMPUTE_ABOVE if recompute is None else recompute)
    length = max(1, PIECE // unit) * unit if again or not graph else x.shape[1]
    span = truncate if graph and truncate else x.shape[1]
    if x.shape[1] <= min(length, span):
        return read(x, state)
    rows: list[Tensor] = []
    for start in range(0, x.shape[1], span):
        if start:
            state = detached(state)
        for piece in x[:, start : start + span].split(length, 1):
            y, state = _again(read, module, piece, state) if again else read(piece, state)
            rows.append(y)
    return torch.cat(rows, 1), state


def _again(read: Reader, module: nn.Module, x: Tensor, state: MemoryState) -> tuple[Tensor, MemoryState]:
    """Read one piece through `_ReadAgain`, which takes and gives tensors alone."""
    before = state_tensors(state)

    def flat(x: Tensor, *tensors: Tensor) -> list[Tensor]:
        y, after = read(x, fill_state(state, dict(zip(before, tensors, strict=True))))
        return [y, *state_tensors(after).values()]

    weights = [p for p in module.parameters() if p.requires_grad]
    y, *after = _ReadAgain.apply(flat, weights, x, *before.values(), *weights)
    return y, fill_state(state, dict(zip(before, after, strict=True)))
