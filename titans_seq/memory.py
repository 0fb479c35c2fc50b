"""Neural long-term memory: projections, convolutions and gates around an operator (Titans, sections 3.1 and 4.4)."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from itertools import product
from typing import Any, ClassVar, Literal, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from titans_seq.memory_state import MemoryState
from titans_seq.miras.bias import L2, AttentionalBias, WithDelta
from titans_seq.miras.choice import Choice
from titans_seq.miras.learning import Learning, MemoryLearning, Momentum
from titans_seq.miras.presets import with_preset
from titans_seq.miras.retention import Forgetting, RetentionGate
from titans_seq.miras.structure import MLP, MemoryStructure
from titans_seq.ops.memory_scan import Backend, Gates, Operands, Read, ScanState, initial_state, memory_scan
from titans_seq.pieces import in_pieces
from titans_seq.rotary import rotate, rotation


class MemoryConfig(Choice):
    """The four choices of MIRAS for one memory, and what is around it."""

    structure: MemoryStructure = MLP()
    bias: AttentionalBias = L2()
    retention: RetentionGate = Forgetting()
    learning: MemoryLearning = Momentum()
    chunk_size: int = Field(
        default=32,
        ge=1,
        le=4096,
        description="C, tokens whose gradients are taken at one memory: part of the model. 32 or 64 on a CPU.",
    )
    conv: int = Field(default=4, ge=1, le=64, description="Kernel of the causal depthwise convolutions; 1 for none.")
    read: Read = Field(default="after", description="Read M_t, M_{t-1}, or the memory at the chunk's start.")
    gates: Gates = Field(default="token", description="chunk: one θ, α, η a chunk, their means; read must be start.")
    features: Literal["unit", "silu", "elu", "plain"] = Field(
        default="unit", description="Queries and keys: SiLU and norm 1, SiLU, 1 + ELU, or as projected."
    )
    rope: bool = Field(default=False, description="Turn queries and keys by their position (RoPE).")
    gate_rank: int | None = Field(
        default=None,
        ge=1,
        le=1024,
        description="Rank of projections that make θ (a decay, the δ of huber) of each channel; none: of a head.",
    )

    @model_validator(mode="before")
    @classmethod
    def _from_preset(cls, given: Any) -> Any:
        """``preset: NAME`` stands for the fields of that named point; what is given beside it comes over them."""
        return with_preset(given, "memory")

    @property
    def operator(self) -> str:
        """Which of `titans_seq.ops` carries it out."""
        return self.learning.operators[0]

    @model_validator(mode="after")
    def _choices_fit(self) -> "MemoryConfig":
        for field in ("structure", "bias", "retention"):
            choice = getattr(self, field)
            if self.operator not in choice.operators:
                raise ValueError(
                    f"{field}: {choice.kind} does not go with learning: {self.learning.kind}, "
                    f"which {self.operator} carries out; {choice.kind} needs {' or '.join(choice.operators)}"
                )
        normalised = getattr(self.learning, "normalised", False)
        if self.bias.kind == "huber_switch" and isinstance(self.bias.delta, str) and normalised:
            raise ValueError(
                f"bias: the normalised step cancels the delta of huber_switch, so that delta: {self.bias.delta} would "
                "never be trained; set learning.normalised to false, or take huber or huber_norm"
            )
        if self.operator == "delta_scan":
            must_fit_delta(self)
        elif self.features != "unit":
            raise ValueError(
                f"features: {self.features} do not go with learning: {self.learning.kind}, whose bound "
                "on θ holds for keys of norm 1; use unit"
            )
        return self

    @model_validator(mode="after")
    def _gates_and_reads_fit(self) -> "MemoryConfig":
        if self.gates == "chunk" and self.read != "start":
            raise ValueError("gates by chunk need read: start, since what a chunk writes is known at its end")
        if getattr(self.learning, "at_chunk_end", False) and self.read != "start":
            raise ValueError(
                f"learning: {self.learning.kind} needs read: start, since what a chunk writes is known at its end"
            )
        return self


def must_fit_delta(c: MemoryConfig) -> None:
    """Refuse what an exact rule of a matrix memory cannot be.

    Raises:
        ValueError: with the reason.
    """
    rule: Any = c.learning
    decay: Any = c.retention if c.retention.kind == "decay" else None
    hebbian, rate = c.bias.kind == "dot_product", getattr(rule, "rate", None)
    if c.read != "after" or c.gates != "token":
        raise ValueError(f"learning: {rule.kind} has no chunks: read must be after, and gates token")
    if hebbian and (rate is None or rule.keys > 1):
        raise ValueError(
            f"bias: dot_product has no error that {rule.kind} could correct; use l2, or exact with one key"
        )
    if rate == "step" and (decay is None or decay.form != "exponential" or decay.by != "head"):
        raise ValueError("rate: step is what an exponential decay by head is made of; set retention so")
    if rate == "complement" and (decay is None or decay.by != "channel" or not hebbian):
        raise ValueError("rate: complement makes keys of a decay by channel, under bias: dot_product; set them so")
    if rate == "complement" and c.rope:
        raise ValueError("rope turns queries and keys alike, and rate: complement makes its keys of the decay")
    if not hebbian and rule.kind == "exact" and (rate not in ("sigmoid", "twice") or c.features != "unit"):
        raise ValueError(
            "bias: l2 with learning: exact is stable for β below 2 alone: it needs keys of norm 1, "
            "features: unit, and rate: sigmoid or twice"
        )
    if rule.kind == "in_context" and c.gate_rank is None:
        raise ValueError("learning: in_context has a rate of each channel: give gate_rank")
    if (
        decay is not None
        and decay.by == "channel"
        and (c.gate_rank is None or decay.form not in ("sigmoid", "bounded"))
    ):
        raise ValueError(
            "a decay by channel needs gate_rank, the rank of the projection that makes it, and form: sigmoid or bounded"
        )


# sums that are added to at a time, a megabyte in float32: of 2^15 to 2^19 the fastest on a CPU, timed by hand
_PIECE = 2**18


class _Depthwise(torch.autograd.Function):
    """Depthwise convolution of rows (B, K - 1 + T, D) with a kernel (K, D), without padding: (B, T, D).

    Its own slopes, since torch's of a grouped convolution take three times as long on a CPU.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, kernel: Tensor) -> Tensor:
        ctx.save_for_backward(rows, kernel)
        # as an image of height 1 with channels last: ten times a conv1d's speed on a CPU
        image = rows.transpose(1, 2)[:, :, None].contiguous(memory_format=torch.channels_last)
        y = F.conv2d(image, kernel.t()[:, None, None], groups=kernel.shape[1])
        return y[:, :, 0].transpose(1, 2)

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, Tensor]:
        rows, kernel = ctx.saved_tensors
        K, T = kernel.shape[0], slope.shape[1]
        to_rows = _Depthwise.apply(F.pad(slope, (0, 0, K - 1, K - 1)), kernel.flip(0))
        if not slope.is_cpu:
            return to_rows, torch.stack([(slope * rows[:, k : k + T]).sum((0, 1)) for k in range(K)])
        return to_rows, _slope_of_kernel(slope, rows, K).to(slope.dtype)


def _slope_of_kernel(slope: Tensor, rows: Tensor, K: int) -> Tensor:
    """Sums over the batch and time of slopes (B, T, D) times rows (B, K - 1 + T, D) from each offset on: (K, D).

    All offsets at once, in pieces that stay in a core's cache: one after another they would read everything K times.
    """
    B, T, D = slope.shape
    steps = min(T, max(1, _PIECE // (K * D)))
    batch = max(1, min(B, _PIECE // (K * D * steps)))
    total = slope.new_zeros(K, batch, steps, D, dtype=torch.promote_types(slope.dtype, torch.float32))
    for b, t in product(range(0, B, batch), range(0, T, steps)):
        slopes = slope[b : b + batch, t : t + steps].to(total.dtype)
        offsets = rows[b : b + batch, t : t + steps + K - 1].to(total.dtype).unfold(1, K, 1).movedim(-1, 0)
        total[:, : slopes.shape[0], : slopes.shape[1]].addcmul_(slopes, offsets)
    return total.sum((1, 2))


class CausalConv(nn.Module):
    """Depthwise causal convolution, (B, T, D) → (B, T, D), that continues where a stream stopped."""

    def __init__(self, width: int, kernel: int):
        super().__init__()
        self.width = width
        self.weight = None
        if kernel > 1:
            self.weight = nn.Parameter(torch.empty(kernel, width))
            nn.init.uniform_(self.weight, -1 / math.sqrt(kernel), 1 / math.sqrt(kernel))
            with torch.no_grad():
                self.weight[-1] += 0.5  # at first mostly the token itself

    def initial_tail(self, like: Tensor, batch: int) -> Tensor:
        """Zeros (B, kernel - 1, D): nothing came before."""
        return like.new_zeros(batch, 0 if self.weight is None else len(self.weight) - 1, self.width)

    def forward(self, x: Tensor, tail: Tensor, channels: slice = slice(None)) -> tuple[Tensor, Tensor]:
        """Convolve x after ``tail``, the inputs before it; returns the next tail too."""
        if self.weight is None or not x.shape[1]:
            return x, tail
        rows = torch.cat([tail.to(x.dtype), x], 1)
        return _Depthwise.apply(rows, self.weight[:, channels].to(x.dtype)), rows[:, x.shape[1] :]


class _Unit(torch.autograd.Function):
    """Rows of norm 1, as `torch.nn.functional.normalize`; its own slopes need half of the passes."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        # in float32 at least, since squares of float16 leave its range; one over the least norm does not
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.promote_types(x.dtype, torch.float32))
        scale = norm.clamp_(min=max(1e-12, torch.finfo(x.dtype).tiny)).reciprocal_().to(x.dtype)
        y = x * scale
        ctx.save_for_backward(y, scale)
        ctx.set_materialize_grads(False)
        return y, scale  # given back for the slope's own slope, which goes through both

    @staticmethod
    def backward(ctx: Any, slope: Tensor | None, to_scale: Tensor | None) -> Tensor:
        y, scale = ctx.saved_tensors
        slope = torch.zeros_like(y) if slope is None else slope
        along = (slope * y).sum(-1, keepdim=True)
        found = torch.addcmul(slope, y, along, value=-1) * scale
        return found if to_scale is None else found - y * (to_scale * scale.square())


def surprised(model: nn.Module) -> "list[NeuralMemory]":
    """The memories whose surprise is known for each token as it is read.

    Not those with gates by chunk, which read only whole chunks, nor of models that read from both ends those that read
    back, for which the last token is the first.
    """
    return [
        module
        for name, module in model.named_modules()
        if isinstance(module, NeuralMemory) and module.config.gates == "token" and ".back." not in f".{name}"
    ]


@contextmanager
def recorded_surprise(model: nn.Module) -> Iterator[list[list[Tensor]]]:
    r"""Record the surprise $\lVert \partial\ell_t / \partial M \rVert$ (B, H, T) of what ``model`` reads meanwhile.

    One list a memory, in the order of the blocks, which gains a tensor a call. A surprise is taken at the memory
    that the token met, the start of its chunk; it is the Frobenius norm over all layers of a memory, a head
    (Titans, section 3.1: the momentary surprise without its weight θ); of the memories of `surprised`. A backward pass
    that reads again inside this context is recorded too.
    """
    memories = surprised(model)
    for memory in memories:
        memory.surprise = []
    try:
        yield [memory.surprise for memory in memories if memory.surprise is not None]
    finally:
        for memory in memories:
            memory.surprise = None


def taken_surprise(seen: list[list[Tensor]]) -> Tensor:
    """Take from `recorded_surprise` that of what was read since the last call: (B, T), mean over heads and blocks."""
    surprise = torch.stack([torch.cat(calls, -1).mean(1) for calls in seen]).mean(0)
    for calls in seen:
        calls.clear()
    return surprise


def in_full(logits: Tensor) -> Tensor:
    """Logits of gates in float32, or float64, under autocast too."""
    return logits if logits.dtype == torch.float64 else logits.float()


class LowRank(nn.Sequential):
    """Linear map of low rank, (..., D) → (..., d): what MIRAS, GLA and RWKV-7 make gates by channel with."""

    def __init__(self, width: int, rank: int, out: int, bias: float):
        super().__init__(nn.Linear(width, rank, bias=False), nn.Linear(rank, out))
        nn.init.constant_(self[1].bias, bias)  # type: ignore[arg-type]


class DeltaGate(nn.Module):
    r"""A bias's δ where the layer makes it, (B, T, D) → (B, H, T): $\mathrm{softplus}(b + w x)$ a head.

    ``delta: learned`` is b alone, ``delta: token`` has w; with ``rank`` the δ of a bias by coordinate is one a channel,
    (B, H, T, d). It begins at the size of a value at first, 0.25 a channel, so that errors lie on both sides of it and
    it is trained.
    """

    def __init__(self, width: int, heads: int, bias: WithDelta, rank: int | None):
        super().__init__()
        self.heads = heads
        first = 0.25 * (1 if bias.channels else math.sqrt(width // heads))
        begin = math.log(math.expm1(first))
        self.by_channel = None
        if bias.channels and bias.delta == "token" and rank is not None:
            self.by_channel = LowRank(width, rank, width, begin)
            return
        self.bias = nn.Parameter(torch.full((heads,), begin))
        self.weight = nn.Parameter(torch.randn(heads, width) / width) if bias.delta == "token" else None

    def forward(self, x: Tensor) -> Tensor:
        """δ > 0 of every token."""
        if self.by_channel is not None:
            return F.softplus(in_full(self.by_channel(x))).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        logits = self.bias.expand(*x.shape[:2], -1) if self.weight is None else F.linear(x, self.weight, self.bias)
        return F.softplus(in_full(logits)).transpose(1, 2)


class How(NamedTuple):
    """How one call scans."""

    chunk_size: int
    backend: Backend = "auto"
    surprise: list[Tensor] | None = None  # gains what `recorded_surprise` asks for


class Memory(nn.Module):
    r"""What is around a memory of ``heads`` heads, (B, T, D) → (B, T, D); a subclass writes and reads it.

    q, k, v are Linear → causal convolution → SiLU, q and k then of norm 1 (Titans, section 4.4), or what ``features``
    says. What is read is normalised per head, gated by a linear layer of the input, and projected. One pass equals
    any split of it.
    """

    eps: ClassVar[float] = 1e-6  # of the mean square of what is read
    values_as_projected = False  # where queries and keys have their SiLU

    def __init__(self, width: int, heads: int, config: MemoryConfig, keys: int = 1):
        super().__init__()
        self.heads, self.config, self.keys = heads, config, keys
        self.recompute: bool | None = None
        self.backend: Backend = "auto"  # of what is read in chunks
        self.surprise: list[Tensor] | None = None  # see `recorded_surprise`
        projected = (1 + 2 * keys) * width
        self.project = nn.Linear(width, projected, bias=False)
        self.conv = CausalConv(projected, config.conv)
        self.make(width, config)
        self.norm = nn.Parameter(torch.ones(heads, width // heads))
        self.out_gate = nn.Linear(width, width, bias=False)
        self.out = nn.Linear(width, width, bias=False)

    def make(self, width: int, config: MemoryConfig) -> None:
        """Make the gates and what the memory is at first."""
        raise NotImplementedError

    @property
    def dtype(self) -> torch.dtype:
        """Of the state: float32, or float64 of a float64 layer."""
        return torch.float64 if self.norm.dtype == torch.float64 else torch.float32

    def initial_state(self, batch: int) -> MemoryState:
        """State of a memory that has read nothing."""
        return MemoryState(scan=self.initial_scan(batch), tails=self.conv.initial_tail(self.norm, batch))

    def initial_scan(self, batch: int) -> Any:
        """State of the operator that has read nothing."""
        raise NotImplementedError

    def scan(self, x: Tensor, q: Tensor, k: Tensor, v: Tensor, state: Any, how: How) -> tuple[Tensor, Any]:
        """Write k, v (B, H, T, n, d) of x (B, T, D) and read with q (B, H, T, d); n keys a token."""
        raise NotImplementedError

    def read(self, q: Tensor, scan: Any) -> Tensor:
        """Read with q (B, H, T, d) what ``scan`` holds."""
        raise NotImplementedError

    def _heads(self, x: Tensor) -> Tensor:
        """(B, T, H d) to (B, H, T, d)."""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def _features(self, projected: Tensor, first: int, position: int) -> tuple[Tensor, Tensor]:
        """Of what was projected, (B, T, n, H, d): the ``first`` queries and keys as the memory meets them; the rest."""
        kind = self.config.features
        activated = kind in ("unit", "silu")
        if activated and not self.values_as_projected:
            projected = F.silu(projected)
        mixed, rest = projected.split([first, projected.shape[2] - first], 2)
        if activated and self.values_as_projected:
            mixed = F.silu(mixed)
        if kind == "unit":
            mixed, _ = _Unit.apply(mixed)
        elif kind == "elu":
            mixed = 1 + F.elu(mixed)
        if self.config.rope:
            places = torch.arange(position, position + mixed.shape[1], device=mixed.device)
            mixed = rotate(mixed, rotation(places, mixed.shape[-1])[:, :, None, None])
        return mixed, rest

    def _finish(self, read: Tensor, x: Tensor) -> Tensor:
        """Normalise a read (B, H, T, d) per head, gate it by x (B, T, D), project: (B, T, D)."""
        read = F.rms_norm(read, read.shape[-1:], eps=self.eps).transpose(1, 2) * self.norm.to(read.dtype)
        return self.out(read.flatten(2).to(x.dtype) * F.silu(self.out_gate(x)))

    def forward(self, x: Tensor, state: MemoryState) -> tuple[Tensor, MemoryState]:
        """Write and read x (B, T, D) after what ``state`` has read."""
        read = partial(self._read, how=How(self.config.chunk_size, self.backend, self.surprise))
        return in_pieces(read, self, x, state, self.config.chunk_size, self.recompute)

    def write_whole(self, x: Tensor, state: MemoryState) -> tuple[Tensor, MemoryState]:
        """Write and read x (B, T, D) before a stream, in chunks of its own: the stream's chunks begin behind it."""
        rows = []
        for piece in x.split(self.config.chunk_size, 1):
            y, state = self._read(piece, state, How(piece.shape[1]))
            rows.append(y)
        return torch.cat(rows, 1), state._replace(position=0)

    def inputs(self, x: Tensor, state: MemoryState) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """q (B, H, T, d), k and v (B, H, T, n, d) of x (B, T, D), and the convolutions' next tail."""
        n = self.keys
        projected, tails = self.conv(self.project(x), state.tails)
        mixed, v = self._features(projected.unflatten(-1, (1 + 2 * n, self.heads, -1)), 1 + n, state.position)
        q, k = mixed.permute(0, 3, 1, 2, 4).split([1, n], 3)
        return q.squeeze(3), k, v.permute(0, 3, 1, 2, 4), tails

    def _read(self, x: Tensor, state: MemoryState, how: How) -> tuple[Tensor, MemoryState]:
        q, k, v, tails = self.inputs(x, state)
        read, scan = self.scan(x, q, k, v, state.scan, how)
        return self._finish(read, x), state._replace(position=state.position + x.shape[1], scan=scan, tails=tails)

    def retrieve(self, x: Tensor, scan: Any, tail: Tensor) -> tuple[Tensor, Tensor]:
        """Read x (B, T, D) from the memory ``scan`` without a write (Titans, eq. 15), and the queries' next tail."""
        width = x.shape[-1]
        q, tail = self.conv(F.linear(x, self.project.weight[:width]), tail, slice(width))
        q = self._features(q.unflatten(-1, (1, self.heads, -1)), 1, 0)[0].squeeze(2).transpose(1, 2)
        with torch.autocast(x.device.type, enabled=False):
            read = self.read(q.to(self.dtype), scan)
        return self._finish(read, x), tail


class NeuralMemory(Memory):
    r"""Long-term memory that learns at test time by `memory_scan`, (B, T, D) → (B, T, D).

    Gates per head: $\eta = \sigma(\cdot)$, $\alpha = \sigma(\cdot)$ and
    $\theta = \kappa (1-\eta)/C\, \sigma(\cdot)$, the largest step under which C equal tokens cannot overshoot a linear
    memory (another learning rule may have its own θ), with ``gate_rank`` of each channel; no α and no η where
    retention and learning have none; and δ where the bias leaves it to the layer, by `DeltaGate`. What is carried
    begins where its weights have the norms of an ordinary memory (`Retention.start`).
    """

    learning: Learning
    operands: Operands = "float32"  # see `memory_scan`

    def make(self, width: int, config: MemoryConfig) -> None:
        """Gates, learned initial memory, γ of a structure with norm, and δ where the layer makes it."""
        self.learning = config.learning  # type: ignore[assignment]
        heads, head_width = self.heads, width // self.heads
        per_head = [*[-4.0] * config.retention.gated, *[-1.0] * self.learning.momentum]
        self.by_channel: Any = None if config.gate_rank is None else LowRank(width, config.gate_rank, width, 0.0)
        if self.by_channel is None:
            per_head.insert(0, 0.0)
        # at first: half the largest step, forget 2 % a token, past surprise 0.27; of the gates that there are
        self.gates = nn.Linear(width, len(per_head) * heads) if per_head else None
        self.initial = nn.ParameterList(
            nn.Parameter(torch.randn(heads, *size) / math.sqrt(size[0]))
            for size in config.structure.sizes(head_width, head_width)
        )
        # else it drowns in each read what a stream has written; but where its norm is held it would stay so small
        if not (config.structure.norm or config.retention.holds_norms):
            self.initial[-1].data.mul_(0.1)
        for weight in self.initial:
            weight.data = config.retention.start(weight.data)
        # the read then has the norm of an ordinary value; with 1 it would be √D, which no value reaches
        self.gain = (
            nn.Parameter(torch.full((heads, head_width), 1 / math.sqrt(head_width))) if config.structure.norm else None
        )
        bias = config.bias
        made = isinstance(bias, WithDelta) and isinstance(bias.delta, str)
        self.delta = DeltaGate(width, heads, bias, config.gate_rank) if made else None  # type: ignore[arg-type]
        if self.gates is not None:
            with torch.no_grad():
                self.gates.bias.copy_(torch.tensor(per_head * heads))

    def initial_scan(self, batch: int) -> ScanState:
        """The learned initial memory."""
        d, c = self.norm.shape[1], self.config
        gates = (d if self.by_channel else 1) + c.retention.gated + self.learning.momentum
        if self.delta is not None:
            gates += d if self.delta.by_channel else 1
        return initial_state(
            tuple(self.initial),
            batch,
            self.dtype,
            retention=c.retention,
            learning=self.learning,
            waiting=2 * d + gates if c.gates == "chunk" else None,
        )

    def gate_values(self, x: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Gates θ, α, η of x (B, T, D), each (B, H, T), inside their bounds; None are those that there are not.

        With ``gate_rank`` θ is (B, H, T, d).
        """
        c, found = self.config, []
        if self.gates is not None:
            logits = in_full(self.gates(x))
            found = list(logits.unflatten(-1, (self.heads, -1)).permute(3, 0, 2, 1).sigmoid())
        step = found.pop(0) if self.by_channel is None else None
        alpha = found.pop(0) if c.retention.gated else None
        eta = found.pop() if self.learning.momentum else None
        if step is not None:
            return self.learning.theta(step, eta, c.chunk_size), alpha, eta
        step = self._heads(in_full(self.by_channel(x))).sigmoid()
        return self.learning.theta(step, None if eta is None else eta[..., None], c.chunk_size), alpha, eta

    def scan(self, x: Tensor, q: Tensor, k: Tensor, v: Tensor, state: ScanState, how: How) -> tuple[Tensor, ScanState]:
        """By `memory_scan`."""
        c = self.config
        return memory_scan(
            q,
            k.squeeze(3),
            v.squeeze(3),
            *self.gate_values(x),
            None if self.delta is None else self.delta(x),
            initial=tuple(self.initial),
            gain=self.gain,
            structure=c.structure,
            bias=c.bias,
            retention=c.retention,
            learning=self.learning,
            chunk_size=how.chunk_size,
            read=c.read,
            gates=c.gates,
            state=state,
            surprise=how.surprise,
            operands=self.operands,
            backend=how.backend,
        )

    def read(self, q: Tensor, scan: ScanState) -> Tensor:
        """M(q)."""
        gain = None if self.gain is None else self.gain.to(q.dtype)[:, None, :]
        return self.config.structure.read(scan.weights, q, gain)
