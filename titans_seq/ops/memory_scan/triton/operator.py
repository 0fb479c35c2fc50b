"""The kernels as one operator of torch, with its slopes: for autograd, torch.compile and checkpoints alike."""

from collections.abc import Iterator
from itertools import islice
from math import gcd
from typing import Any, NamedTuple, get_type_hints

import torch
import triton
from torch import Tensor

from titans_seq.ops.kernels import interpreted, on_its_device
from titans_seq.ops.memory_scan.triton import Spec
from titans_seq.ops.memory_scan.triton.backward import output_back, state_back
from titans_seq.ops.memory_scan.triton.forward import output_pass, state_pass
from titans_seq.ops.memory_scan.triton.gates import gates_back, gates_pass

# --- launching


def _fitting(configs: list[triton.Config], named: dict[str, Any], **given: Any) -> list[triton.Config]:
    """Those whose blocks divide what they go through."""
    hidden = (named | given)["SPEC"].HIDDEN
    return [config for config in configs if hidden % config.kwargs["BLOCK"] == 0]


def _tuned(kernel: Any, adds_to: tuple[str, ...] = ()) -> Any:
    """``kernel`` at the fastest of some blocks and warps, found once; trials leave what it ``adds_to`` as it was."""
    if interpreted():  # there is nothing to time
        return kernel
    before: dict[str, Tensor] = {}

    def keep(named: dict[str, Any], reset_only: bool = False) -> None:
        if not reset_only:
            before.update({name: named[name].clone() for name in adds_to if named[name] is not None})

    def restore(named: dict[str, Any], exception: BaseException | None) -> None:
        for name, tensor in before.items():
            named[name].copy_(tensor)
        before.clear()

    tune = triton.autotune(
        [triton.Config({"BLOCK": block}, num_warps=w, num_stages=1) for block in (16, 32, 64) for w in (4, 8)],
        key=["SPEC"],
        pre_hook=keep if adds_to else None,
        post_hook=restore if adds_to else None,
        prune_configs_by={"early_config_prune": _fitting},
        cache_results=True,
    )
    return tune(kernel)


_state_pass, _output_pass, _output_back = _tuned(state_pass), _tuned(output_pass), _tuned(output_back)
_state_back = _tuned(state_back, adds_to=("dk", "dinitials", "dmemories", "dmomenta"))


class _Given(NamedTuple):
    """What does not change from group to group; R rows of batch and head, T tokens, P numbers of a memory."""

    q: Tensor  # (R, T, D)
    k: Tensor
    v: Tensor
    theta: Tensor  # (R, T, 1 or D), and so the other gates
    alpha: Tensor | None
    eta: Tensor | None
    delta: Tensor | None
    gain: Tensor | None  # (R, D)
    initial: Tensor  # (R, P)


class _Slopes(NamedTuple):
    """Slopes by what was given."""

    q: Tensor
    k: Tensor
    v: Tensor
    theta: Tensor
    alpha: Tensor | None
    eta: Tensor | None
    delta: Tensor | None


class _Group:
    """A run of N chunks whose memories are held at once."""

    def __init__(self, x: _Given, first: int, N: int, spec: Spec):
        self.x, self.N, self.spec = x, N, spec
        self.R, self.P = x.initial.shape
        self.where = {"first": first, "T": x.q.shape[1], "N": N, "SPEC": spec}
        self.shape = self.where | {"P": self.P} | ({"BLOCK": gcd(32, spec.HIDDEN)} if interpreted() else {})
        C = spec.TILE
        self.scores, self.keep, self.push = self.new(N, C, C), self.new(N, C), self.new(N, C)
        if spec.READ == "start":  # queries see nothing of what their chunk writes and forgets
            self.scores.zero_(), self.keep.fill_(1), self.push.zero_()
        self.ends, self.carry = self.new(N, 2, C), self.new(N, 3)
        gates_pass[(N, self.R)](
            x.alpha, x.eta, self.scores, self.keep, self.push, self.ends, self.carry,
            **self.where, num_warps=1,
        )  # fmt: skip
        self.memories, self.errors = self.new(N + 1, self.P), self.new(N * C, spec.D)
        self.momenta = None if x.eta is None else self.new(N + 1, self.P)

    def new(self, *shape: int) -> Tensor:
        """Room for float32 numbers of every row."""
        return self.x.initial.new_empty(self.R, *shape)

    def write(self, memory: Tensor, momentum: Tensor | None) -> None:
        """Write all chunks, from a memory before the first: fills memories, momenta and errors."""
        x = self.x
        self.memories[:, 0] = memory
        if self.momenta is not None and momentum is not None:
            self.momenta[:, 0] = momentum
        _state_pass[(self.R,)](
            x.k, x.v, x.theta, x.delta, x.gain, self.ends, self.carry, x.initial, self.memories, self.momenta,
            self.errors, **self.shape,
        )  # fmt: skip

    def read(self, y: Tensor) -> None:
        """Read all chunks, into their places of y."""
        x = self.x
        _output_pass[(self.N, self.R)](
            x.q, x.k, x.gain, self.scores, self.keep, self.push, x.initial, self.memories, self.momenta, self.errors,
            y, **self.shape,
        )  # fmt: skip

    def back(
        self, dy: Tensor, dmemory: Tensor, dmomentum: Tensor | None, dstart: Tensor | None, d: _Slopes
    ) -> tuple[Tensor, Tensor | None, Tensor, Tensor | None]:
        """Slopes by memory and momentum before the group, by the initial memory and γ; the others go into ``d``.

        ``dmemory`` and ``dmomentum`` are by those behind it, ``dstart`` by the last chunk's start.
        """
        x, N, C, spec = self.x, self.N, self.spec.TILE, self.spec
        dmemories, dmomenta = self.new(N + 1, self.P), None if x.eta is None else self.new(N + 1, self.P)
        dinitials = self.new(N, self.P) if spec.RETURNS else None
        dgain = None if x.gain is None else self.new(N, 2, spec.D)
        derrors, dends, dcarry = self.new(N * C, spec.D), self.new(N, 2, C), self.new(N, 3)
        dscores, dkeep, dpush = (torch.empty_like(part) for part in (self.scores, self.keep, self.push))
        dhidden, dfirst = (self.new(N * C, spec.HIDDEN) if spec.DEPTH == 2 else None for _ in range(2))
        _output_back[(N, self.R)](
            x.q, x.k, x.gain, self.scores, self.keep, self.push, x.initial, self.memories, self.momenta, self.errors,
            dy, d.q, d.k, dgain, dscores, dkeep, dpush, dinitials, dmemories, dmomenta, derrors, dhidden, dfirst,
            **self.shape,
        )  # fmt: skip
        dmemories[:, N] = dmemory
        if dmomenta is not None and dmomentum is not None:
            dmomenta[:, N] = dmomentum
        if dstart is not None:
            dmemories[:, N - 1] += dstart
        _state_back[(self.R,)](
            x.k, x.v, x.theta, x.delta, x.gain, self.ends, self.carry, x.initial, self.memories, self.momenta,
            self.errors, d.k, d.v, d.theta, d.delta, dgain, dends, dcarry, dinitials, dmemories, dmomenta, derrors,
            dhidden, dfirst, **self.shape,
        )  # fmt: skip
        rows, numbers = self.new(N, C, 2, C), self.new(N, C, 3)
        gates_back[(N, self.R)](
            x.alpha, x.eta, dscores, dkeep, dpush, dends, dcarry, rows, numbers, d.alpha, d.eta,
            **self.where, num_warps=1,
        )  # fmt: skip
        dinitial = torch.zeros_like(x.initial) if dinitials is None else dinitials.sum(1)
        first = None if dmomenta is None else dmomenta[:, 0]
        return dmemories[:, 0], first, dinitial, None if dgain is None else dgain.sum((1, 2))


def _groups(x: _Given, held: int, spec: Spec) -> list[tuple[int, int]]:
    """First chunk and number of chunks of every group whose memories fit into ``held`` bytes."""
    chunks = -(-x.q.shape[1] // spec.C)
    most = max(1, held // (x.initial.nbytes * (1 if x.eta is None else 2)))
    return [(first, min(most, chunks - first)) for first in range(0, chunks, most)]


# --- the operator


class _Begin(NamedTuple):
    """Where a call begins, and how many bytes of memories it holds at once."""

    memory: Tensor  # (R, P)
    momentum: Tensor | None
    held: int


class _End(NamedTuple):
    """What the forward pass kept, and slopes by what it returned."""

    kept: list[Tensor]
    dy: Tensor
    dmemory: Tensor
    dmomentum: Tensor | None
    dstart: Tensor | None
    held: int


_KINDS: dict[Any, str] = {Tensor: "Tensor", Tensor | None: "Tensor?", list[Tensor]: "Tensor[]"}
_KINDS |= {int: "int", float: "float", bool: "bool", str: "str"}


def _schema(*parts: type) -> str:
    """Arguments of an operator of torch: the fields of ``parts``, one after the other."""
    return ", ".join(f"{_KINDS[kind]} {name}" for part in parts for name, kind in get_type_hints(part).items())


def _taken(arguments: tuple[Any, ...], *parts: Any) -> Iterator[Any]:
    """And back, to ``parts``."""
    rest = iter(arguments)
    return (part(*islice(rest, len(part._fields))) for part in parts)


@torch.library.custom_op(
    "titans_seq::memory_scan",
    mutates_args=(),
    schema=f"({_schema(_Given, _Begin, Spec)}) -> (Tensor, Tensor, Tensor, Tensor, Tensor[])",
)
@on_its_device
def _forward(*arguments: Any) -> tuple[Tensor, Tensor, Tensor, Tensor, list[Tensor]]:
    """y, memory, momentum (empty without) and the last chunk's start; kept are memories, errors and momenta.

    Of several groups what each began with is kept alone.
    """
    x, begin, spec = _taken(arguments, _Given, _Begin, Spec)
    y, memory, momentum = torch.empty_like(x.v), begin.memory, begin.momentum
    groups, begun = _groups(x, begin.held, spec), []
    for first, N in groups:
        group = _Group(x, first, N, spec)
        begun.append(memory if momentum is None else torch.stack([memory, momentum]))
        group.write(memory, momentum)
        group.read(y)
        memory, start = group.memories[:, N].clone(), group.memories[:, N - 1].clone()
        momentum = None if group.momenta is None else group.momenta[:, N].clone()
    one = [part for part in (group.memories, group.errors, group.momenta) if part is not None]
    kept = one if len(groups) == 1 else [torch.stack(begun)]
    return y, memory, x.initial.new_empty(0) if momentum is None else momentum, start, kept


@_forward.register_fake
def _(*arguments: Any) -> tuple[Tensor, Tensor, Tensor, Tensor, list[Tensor]]:
    x, begin, spec = _taken(arguments, _Given, _Begin, Spec)
    new, groups = x.initial.new_empty, _groups(x, begin.held, spec)
    (R, P), pair = x.initial.shape, begin.momentum is not None
    N = groups[0][1]
    one = [new(R, N + 1, P), new(R, N * spec.TILE, spec.D), *[new(R, N + 1, P)] * pair]
    kept = one if len(groups) == 1 else [new(len(groups), *[2] * pair, R, P)]
    return torch.empty_like(x.v), new(R, P), new(R, P) if pair else new(0), new(R, P), kept


@torch.library.custom_op(
    "titans_seq::memory_scan_backward",
    mutates_args=(),
    schema=f"({_schema(_Given, _End, Spec)}) -> Tensor[]",
)
@on_its_device
def _backward(*arguments: Any) -> list[Tensor]:
    """Slopes by what was given, and by memory and momentum before it: those that there are, in their order."""
    x, end, spec = _taken(arguments, _Given, _End, Spec)
    d = _Slopes(*(None if part is None else torch.empty_like(part) for part in x[: len(_Slopes._fields)]))  # type: ignore[arg-type]
    d = d._replace(k=torch.empty_like(x.k, dtype=torch.float32))  # two passes add to it
    dinitial, dgain = torch.zeros_like(x.initial), None if x.gain is None else torch.zeros_like(x.gain)
    dmemory, dmomentum, dstart = end.dmemory, end.dmomentum, end.dstart
    groups = _groups(x, end.held, spec)
    for place, (first, N) in reversed(list(enumerate(groups))):
        group = _Group(x, first, N, spec)
        if len(groups) == 1:
            group.memories, group.errors, *momenta = end.kept
            group.momenta = momenta[0] if momenta else None
        elif x.eta is None:
            group.write(end.kept[0][place], None)
        else:
            group.write(*end.kept[0][place])
        dmemory, dmomentum, by_initial, by_gain = group.back(end.dy, dmemory, dmomentum, dstart, d)
        dstart = None
        dinitial += by_initial
        if dgain is not None and by_gain is not None:
            dgain += by_gain
    found = (*d._replace(k=d.k.to(x.k.dtype)), dgain, dinitial, dmemory.contiguous(), dmomentum)
    return [part.contiguous() for part in found if part is not None]


@_backward.register_fake
def _(*arguments: Any) -> list[Tensor]:
    x, _, _ = _taken(arguments, _Given, _End, Spec)
    return [
        torch.empty_like(part) for part in (*x, x.initial, x.eta if x.eta is None else x.initial) if part is not None
    ]


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Any, ...]) -> None:
    x, begin, ctx.spec = _taken(inputs, _Given, _Begin, Spec)
    ctx.held = begin.held
    ctx.save_for_backward(*x, *output[-1])


def _slopes(ctx: Any, dy: Tensor, dmemory: Tensor, dmomentum: Tensor, dstart: Tensor, _: Any) -> tuple[Any, ...]:
    (x,), kept = _taken(ctx.saved_tensors, _Given), list(ctx.saved_tensors[len(_Given._fields) :])
    momentum = None if x.eta is None else dmomentum
    start = dstart if x.q.shape[1] % ctx.spec.C else None  # else it is no chunk's that is open
    found = iter(_backward(*x, *_End(kept, dy.contiguous(), dmemory, momentum, start, ctx.held), *ctx.spec))
    slopes = [None if part is None else next(found) for part in (*x, x.initial, x.eta)]
    return (*slopes, None, *[None] * len(ctx.spec))


_forward.register_autograd(_slopes, setup_context=_keep)


def scan(*arguments: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Scan what `_Given` names, from a memory and a momentum (R, P) on, with bytes to hold and a `Spec`.

    Returns:
        y (R, T, D); memory and momentum (R, P) behind the last token, the second empty where there is none; and the
        memory at the start of the last chunk.
    """
    *given, spec = arguments
    y, memory, momentum, start, _ = _forward(*given, *spec)
    return y, memory, momentum, start
