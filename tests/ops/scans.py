"""Random scans with all their leaves, and how two of them are compared: what the tests of every backend share."""

from collections.abc import Hashable, Iterator
from itertools import combinations, pairwise
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from titans_seq.miras.bias import BIASES, HuberSwitch, LInf, Lp, WithDelta
from titans_seq.miras.choice import Choice
from titans_seq.miras.learning import LEARNING, GradientDescent, Momentum, Orthogonalised
from titans_seq.miras.retention import KL, RETENTIONS, Forgetting, Lq, Retention
from titans_seq.miras.structure import MLP, STRUCTURES, Layers, Matrix, Vector, Weights
from titans_seq.ops.memory_scan import BACKENDS, Backend, ScanState, initial_state, memory_scan

PLAIN: list[Backend] = [backend for backend in BACKENDS if backend != "triton"]  # which take every choice, and float64
EXACT = 1e-10  # float64; measured over all of this file at most 1e-12
# Slopes along a random direction, not entry by entry. Central differences of float64 allow for less than torch's 1e-3:
# of slopes that were off by 1 % in one entry these found more.
ALONG_ONE_DIRECTION: dict[str, Any] = {"fast_mode": True, "atol": 1e-8, "rtol": 1e-6}
VANISHING = 1e-2  # share of kernels' largest slope below which one is the difference of larger ones
EVERY_STRUCTURE: list[Layers] = [
    *(structure() for structure in STRUCTURES),
    *(MLP(depth=depth, norm=norm) for depth in (1, 2, 3) for norm in (False, True) if (depth, norm) != (2, False)),
    MLP(activation="silu", expansion=1.5),
    MLP(depth=3, activation="silu", norm=True, expansion=0.5),
]
EVERY_BIAS = [
    *(bias() for bias in BIASES),
    Lp(p=1.5),
    LInf(sharpness=5.0),
    HuberSwitch(continuous=True),
]
EVERY_RETENTION: list[Retention] = [
    *(retention() for retention in RETENTIONS),
    Forgetting(towards="zero"),
    Lq(q=2.5, towards="zero"),
    Lq(form="printed"),
    KL(scale=1.0, towards="zero"),
    KL(signed=True),
]
EVERY_LEARNING = [
    *(learning() for learning in LEARNING),
    *(learning(normalised=False) for learning in LEARNING),
    Orthogonalised(momentum=False, step=0.3),
]


def named(choice: Any) -> str:
    return "-".join(str(value) for value in choice.model_dump().values()) if isinstance(choice, Choice) else str(choice)


def unit(*shape: int, generator: torch.Generator, dtype: torch.dtype = torch.float64) -> Tensor:
    return F.normalize(torch.randn(*shape, generator=generator, dtype=dtype), dim=-1)


GROUPS = ("start", "weights", "momentum", "accumulator", "pending")  # of a state: a weight a layer each


class Problem(NamedTuple):
    """Leaves of one scan, in float64, and its settings."""

    q: Tensor
    k: Tensor
    v: Tensor
    theta: Tensor
    alpha: Tensor | None
    eta: Tensor | None
    initial: Weights
    gain: Tensor | None
    state: ScanState | None
    settings: dict[str, Any]
    delta: Tensor | None = None

    def leaves(self) -> dict[str, Tensor]:
        """Everything a gradient belongs to, by name."""
        parts = self._asdict() | {f"initial.{i}": w for i, w in enumerate(self.initial)}
        if self.state is not None:
            for group in GROUPS:
                if group != "momentum" or self.eta is not None:
                    parts |= {f"state.{group}.{i}": w for i, w in enumerate(getattr(self.state, group) or ())}
        return {name: part for name, part in parts.items() if isinstance(part, Tensor)}

    def to(self, device: str, narrow: torch.dtype, wide: torch.dtype) -> "Problem":
        """The same numbers elsewhere, rounded: q, k and v narrow, the others wide."""

        def moved(part: Any, dtype: torch.dtype) -> Any:
            if isinstance(part, Tensor):
                return part.detach().to(device, dtype).requires_grad_()
            if isinstance(part, tuple):
                parts = [moved(each, dtype) for each in part]
                return type(part)(*parts) if hasattr(part, "_fields") else tuple(parts)
            return part

        parts = self._asdict().items()
        return Problem(**{name: moved(part, narrow if name in ("q", "k", "v") else wide) for name, part in parts})

    def run(self, cuts: tuple[int, ...] = (), backends: tuple[Backend, ...] = ("chunked",)) -> dict[str, Tensor]:
        """Outputs and final state by name; the stream cut at ``cuts``, the backends taking turns."""
        edges, state, rows = [0, *cuts, self.q.shape[2]], self.state, []
        for turn, (left, right) in enumerate(pairwise(edges)):
            gates = (self.q, self.k, self.v, self.theta, self.alpha, self.eta, self.delta)
            part = (None if gate is None else gate[:, :, left:right] for gate in gates)
            y, state = memory_scan(
                *part,  # type: ignore[arg-type]
                initial=self.initial,
                gain=self.gain,
                state=state,
                backend=backends[turn % len(backends)],
                **self.settings,
            )
            rows.append(y)
        assert state is not None
        found = {"y": torch.cat(rows, 2), "offset": torch.tensor(float(state.offset))}
        for group in GROUPS:
            found |= {f"{group}.{i}": w for i, w in enumerate(getattr(state, group) or ())}
        return found if state.waiting is None else found | {"waiting": state.waiting}

    def gradients(self, found: dict[str, Tensor]) -> dict[str, Tensor]:
        """Gradients of all results at once, by random cotangents: a plain sum would hide errors of opposite sign."""
        g = torch.Generator().manual_seed(7)
        loss = sum(
            (part * torch.randn(part.shape, generator=g, dtype=torch.float64).to(part.device)).sum()
            for part in found.values()
        )
        leaves = self.leaves()
        grads = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True, materialize_grads=True)  # type: ignore[arg-type]
        return {f"d{name}": grad for name, grad in zip(leaves, grads, strict=True)}


def problem(
    structure: Layers,
    *,
    length: int,
    chunk_size: int,
    momentum: bool = True,
    theta: str = "head",
    delta: str = "fixed",
    begin: str = "fresh",
    size: tuple[int, int, int, int] = (2, 2, 4, 3),
    seed: int | None = None,
    **settings: Any,
) -> Problem:
    """A random scan, of its length's seed or another.

    Keys have norms from 0.5 to 1.5: on both sides of the kink of the normalised step, never on it.
    """
    retention = settings.setdefault("retention", Forgetting())
    learning = settings.setdefault("learning", Momentum() if momentum else GradientDescent())
    if learning.at_chunk_end:
        settings["read"] = "start"
    B, H, D, Dv = size
    Dv = D if structure.norm or isinstance(structure, Vector) else Dv
    g = torch.Generator().manual_seed(length if seed is None else seed)

    def rand(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=g, dtype=torch.float64)

    def randn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    rows, sizes = (B, H, length), structure.sizes(D, Dv)
    eta = rand(*rows)
    step = rand(*rows, Dv) * (1 - eta)[..., None] if theta == "channel" else rand(*rows) * (1 - eta)
    if not learning.normalised and not isinstance(structure, Matrix | Vector):
        step = (
            step / 8
        )  # κ = 1/8: at larger ones, without the normalised step, rounding alone grows to 1e-7 in 200 tokens
    initial = tuple(retention.start(randn(H, *s) / s[0] ** 0.5) for s in sizes)

    def near_initial(spread: float) -> Weights:
        return tuple(w + spread * randn(B, *w.shape) for w in initial)

    def update(spread: float) -> Weights:
        return tuple(spread * randn(B, *w.shape) for w in initial)

    state, open_ = None, begin == "open" and chunk_size > 1
    if begin != "fresh":
        fresh = initial_state(initial, B, torch.float64, retention=retention, learning=learning)
        carried = near_initial(0.3)
        link = [retention.link(w, w0).detach() for w, w0 in zip(near_initial(0.3), initial, strict=True)]
        now = [w + 0.1 * randn(*w.shape) for w in link] if open_ else link
        state = ScanState(
            tuple(link),
            tuple(now) if open_ else tuple(link),
            update(0.1 if learning.momentum else 0.0),
            min(5, chunk_size - 1) if open_ else 0,
            None,
            None if fresh.accumulator is None else carried,
            None if fresh.pending is None else update(0.1 if open_ else 0.0),
        )
    found = Problem(
        unit(*rows, D, generator=g),
        unit(*rows, D, generator=g) * (0.5 + rand(*rows, 1)),
        randn(*rows, Dv),
        step / chunk_size,
        # under a norm the layers must not fade: its slope is large where its input is small
        0.02 * rand(*rows) if retention.gated else None,
        eta if learning.momentum else None,
        initial,
        0.5 + rand(H, Dv) if structure.norm else None,
        state,
        {"structure": structure, "chunk_size": chunk_size, **settings},
    )
    bias = settings.get("bias")
    if delta != "fixed" and isinstance(bias, WithDelta):
        wide = delta == "channel" and bias.channels
        found = found._replace(delta=0.5 + rand(*rows, Dv) if wide else 0.5 + 2 * rand(*rows))
    for leaf in found.leaves().values():
        leaf.requires_grad_()
    return found


def largest_error(ours: dict[str, Tensor], theirs: dict[str, Tensor], least: float = 1e-5) -> tuple[float, str]:
    """Largest error relative to the largest entry of its tensor, and where.

    What vanishes but for rounding, as the slope of α where nothing was learned yet, is compared to the rest: of a
    floor of 1e-5, or ``least``, of its largest entry, `EXACT` is five roundings of that entry.
    """
    assert ours.keys() == theirs.keys()
    largest = {name: float(part.detach().abs().max()) for name, part in theirs.items() if part.numel()}
    floor = least * max(largest.values())
    return max(
        (float((ours[name] - theirs[name]).detach().abs().max()) / max(scale, floor), name)
        for name, scale in largest.items()
    )


def same(ours: Problem, ours_found: dict[str, Tensor], theirs: Problem, theirs_found: dict[str, Tensor]) -> None:
    """Outputs, final state and all gradients are finite, and the same to `EXACT`."""
    for a, b in (
        (ours_found, theirs_found),
        (ours.gradients(ours_found), theirs.gradients(theirs_found)),
    ):
        assert all(part.isfinite().all() for part in (*a.values(), *b.values()))
        error, name = largest_error(a, b)
        assert error < EXACT, f"{name} is off by {error:.1e}"


def compare(
    ours: Problem, theirs: Problem, tolerance: tuple[float, float], backend: Backend = "reference", **how: Any
) -> None:
    """Kernels' outputs and final state, and all gradients, are another backend's, each to its tolerance."""
    found, expected = ours.run(backends=("triton",), **how), theirs.run(backends=(backend,))
    pairs = (found, expected), (ours.gradients(found), theirs.gradients(expected))
    for (a, b), most in zip(pairs, tolerance, strict=True):
        assert all(part.isfinite().all() for part in a.values())
        error, name = largest_error({key: part.double() for key, part in a.items()}, b, VANISHING)
        assert error < most, f"{name} is off by {error:.1e}"


def covering(axes: dict[str, list[Any]]) -> Iterator[dict[str, Any]]:
    """Rows in which any two values of two axes meet: most of what a full product finds, at a hundredth of its cost."""
    Pair = frozenset[tuple[str, Hashable]]
    left: set[Pair] = {
        frozenset({(one, i), (two, j)})
        for one, two in combinations(axes, 2)
        for i in range(len(axes[one]))
        for j in range(len(axes[two]))
    }
    while left:
        row: dict[str, int] = dict(sorted(min(left, key=sorted)))  # type: ignore[arg-type]
        for name, values in axes.items():
            if name not in row:
                row[name] = max(
                    range(len(values)), key=lambda i: sum(frozenset({(name, i), at}) in left for at in row.items())
                )
        left -= {frozenset(pair) for pair in combinations(row.items(), 2)}
        yield {name: axes[name][row[name]] for name in axes}
