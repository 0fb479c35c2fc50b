"""Neural long-term memory: projections, convolutions and gates around `memory_scan` (Titans, sections 3.1 and 4.4)."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from titans_seq.memory_state import MemoryState
from titans_seq.miras.bias import L2, AttentionalBias, WithDelta
from titans_seq.miras.choice import Choice
from titans_seq.miras.learning import MemoryLearning, Momentum
from titans_seq.miras.retention import Forgetting, RetentionGate
from titans_seq.miras.structure import MLP, MemoryStructure
from titans_seq.ops.memory_scan import Backend, Gates, Read, ScanState, initial_state, memory_scan
from titans_seq.pieces import in_pieces


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

    @model_validator(mode="after")
    def _gates_and_reads_fit(self) -> "MemoryConfig":
        if self.gates == "chunk" and self.read != "start":
            raise ValueError("gates by chunk need read: start, since what a chunk writes is known at its end")
        if self.learning.at_chunk_end and self.read != "start":
            raise ValueError(
                f"learning: {self.learning.kind} needs read: start, since what a chunk writes is known at its end"
            )
        return self

    @property
    def gate_biases(self) -> list[float]:
        """At first: half the largest step, forget 2 % a token, past surprise 0.27; of the gates that there are."""
        return [0.0, *[-4.0] * self.retention.gated, *[-1.0] * self.learning.momentum]


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
        to_kernel = [(slope * rows[:, k : k + T]).sum((0, 1)) for k in range(K)]
        return to_rows, torch.stack(to_kernel)


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
    def forward(ctx: Any, x: Tensor) -> Tensor:
        scale = x.square().sum(-1, keepdim=True).clamp_(min=1e-24).rsqrt_()
        y = x * scale
        ctx.save_for_backward(y, scale)
        return y

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> Tensor:
        y, scale = ctx.saved_tensors
        along = (slope * y).sum(-1, keepdim=True)
        return torch.addcmul(slope, y, along, value=-1) * scale


@contextmanager
def recorded_surprise(model: nn.Module) -> Iterator[list[list[Tensor]]]:
    r"""Record the surprise $\lVert \partial\ell_t / \partial M \rVert$ (B, H, T) of what ``model`` reads meanwhile.

    One list a memory, in the order of the blocks, which gains a tensor a call. A surprise is taken at the memory
    that the token met, the start of its chunk; it is the Frobenius norm over all layers of a memory, a head
    (Titans, section 3.1: the momentary surprise without its weight θ).
    """
    memories = [module for module in model.modules() if isinstance(module, NeuralMemory)]
    for memory in memories:
        memory.surprise = []
    try:
        yield [memory.surprise for memory in memories if memory.surprise is not None]
    finally:
        for memory in memories:
            memory.surprise = None


class DeltaGate(nn.Module):
    r"""A bias's δ where the layer makes it, (B, T, D) → (B, H, T): $\mathrm{softplus}(b + w x)$ a head.

    ``delta: learned`` is b alone, ``delta: token`` has w. It begins at the size of a value at first, 0.25 a channel,
    so that errors lie on both sides of it and it is trained.
    """

    def __init__(self, width: int, heads: int, bias: WithDelta):
        super().__init__()
        first = 0.25 * (1 if bias.channels else math.sqrt(width // heads))
        self.bias = nn.Parameter(torch.full((heads,), math.log(math.expm1(first))))
        self.weight = nn.Parameter(torch.randn(heads, width) / width) if bias.delta == "token" else None

    def forward(self, x: Tensor) -> Tensor:
        """δ > 0 of every token."""
        logits = self.bias.expand(*x.shape[:2], -1) if self.weight is None else F.linear(x, self.weight, self.bias)
        return F.softplus(logits.float() if x.dtype != torch.float64 else logits).transpose(1, 2)


class NeuralMemory(nn.Module):
    r"""Long-term memory of ``heads`` heads that learns at test time, (B, T, D) → (B, T, D).

    q, k, v are Linear → causal convolution → SiLU, q and k then of norm 1 (Titans, section 4.4). Gates per
    head: $\eta = \sigma(\cdot)$, $\alpha = \sigma(\cdot)$ and $\theta = \kappa (1-\eta)/C\, \sigma(\cdot)$, the largest
    step under which C equal tokens cannot overshoot a linear memory (another learning rule may have its own θ); no α
    and no η where retention and learning have none; and δ where the bias leaves it to the layer, by `DeltaGate`. What
    is carried begins where its weights have the norms of an ordinary memory (`Retention.start`). What is read is
    normalised per head, gated by a linear layer of the input, and projected. One pass equals any split of it.
    """

    def __init__(self, width: int, heads: int, config: MemoryConfig):
        super().__init__()
        self.heads, self.config = heads, config
        self.recompute: bool | None = None
        self.surprise: list[Tensor] | None = None  # see `recorded_surprise`
        head_width = width // heads
        self.project = nn.Linear(width, 3 * width, bias=False)
        self.conv = CausalConv(3 * width, config.conv)
        self.gates = nn.Linear(width, len(config.gate_biases) * heads)
        self.initial = nn.ParameterList(
            nn.Parameter(torch.randn(heads, *size) / math.sqrt(size[0]))
            for size in config.structure.sizes(head_width, head_width)
        )
        if not config.structure.norm:  # else it drowns in each read what a stream has written
            self.initial[-1].data.mul_(0.1)
        for weight in self.initial:
            weight.data = config.retention.start(weight.data)
        # the read then has the norm of an ordinary value; with 1 it would be √D, which no value reaches
        self.gain = (
            nn.Parameter(torch.full((heads, head_width), 1 / math.sqrt(head_width))) if config.structure.norm else None
        )
        bias = config.bias
        made = isinstance(bias, WithDelta) and isinstance(bias.delta, str)
        self.delta = DeltaGate(width, heads, bias) if made else None  # type: ignore[arg-type]
        self.norm = nn.Parameter(torch.ones(heads, head_width))
        self.out_gate = nn.Linear(width, width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        with torch.no_grad():
            self.gates.bias.copy_(torch.tensor(config.gate_biases).repeat(heads))

    def initial_state(self, batch: int) -> MemoryState:
        """State of a memory that has read nothing: the learned initial memory."""
        dtype = torch.float64 if self.norm.dtype == torch.float64 else torch.float32
        gates = self.gates.out_features // self.heads + (self.delta is not None)
        scan = initial_state(
            tuple(self.initial),
            batch,
            dtype,
            retention=self.config.retention,
            learning=self.config.learning,
            waiting=2 * self.norm.shape[1] + gates if self.config.gates == "chunk" else None,
        )
        return MemoryState(scan=scan, tails=self.conv.initial_tail(self.norm, batch))

    def _heads(self, x: Tensor) -> Tensor:
        """(B, T, H d) to (B, H, T, d)."""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def _finish(self, read: Tensor, x: Tensor) -> Tensor:
        """Normalise a read (B, H, T, d) per head, gate it by x (B, T, D), project: (B, T, D)."""
        read = F.rms_norm(read, read.shape[-1:], eps=1e-6).transpose(1, 2) * self.norm.to(read.dtype)
        return self.out(read.flatten(2).to(x.dtype) * F.silu(self.out_gate(x)))

    def gate_values(self, x: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Gates θ, α, η of x (B, T, D), each (B, H, T), inside their bounds; None are those that there are not."""
        c = self.config
        logits = self.gates(x).float() if x.dtype != torch.float64 else self.gates(x)
        step, *rest = logits.unflatten(-1, (self.heads, -1)).permute(3, 0, 2, 1).sigmoid()
        alpha = rest.pop(0) if c.retention.gated else None
        eta = rest.pop() if c.learning.momentum else None
        return c.learning.theta(step, eta, c.chunk_size), alpha, eta

    def forward(self, x: Tensor, state: MemoryState, backend: Backend = "auto") -> tuple[Tensor, MemoryState]:
        """Write and read x (B, T, D) after what ``state`` has read."""
        read = partial(self._read, chunk_size=self.config.chunk_size, backend=backend, surprise=self.surprise)
        return in_pieces(read, self, x, state, self.config.chunk_size, self.recompute)

    def write_whole(self, x: Tensor, state: MemoryState) -> tuple[Tensor, MemoryState]:
        """Write and read x (B, T, D) before a stream, in chunks of its own: the stream's chunks begin behind it."""
        rows = []
        for piece in x.split(self.config.chunk_size, 1):
            y, state = self._read(piece, state, chunk_size=piece.shape[1])
            rows.append(y)
        return torch.cat(rows, 1), state._replace(position=0)

    def _read(
        self,
        x: Tensor,
        state: MemoryState,
        *,
        chunk_size: int,
        backend: Backend = "auto",
        surprise: list[Tensor] | None = None,
    ) -> tuple[Tensor, MemoryState]:
        projected, tails = self.conv(self.project(x), state.tails)
        mixed = F.silu(projected).unflatten(-1, (3, self.heads, -1))
        mixed, v = mixed.split([2, 1], 2)
        q, k = _Unit.apply(mixed).permute(2, 0, 3, 1, 4).unbind(0)
        v = v.squeeze(2).transpose(1, 2)
        theta, alpha, eta = self.gate_values(x)
        c = self.config
        read, scan = memory_scan(
            q,
            k,
            v,
            theta,
            alpha,
            eta,
            None if self.delta is None else self.delta(x),
            initial=tuple(self.initial),
            gain=self.gain,
            structure=c.structure,
            bias=c.bias,
            retention=c.retention,
            learning=c.learning,
            chunk_size=chunk_size,
            read=c.read,
            gates=c.gates,
            state=state.scan,
            surprise=surprise,
            backend=backend,
        )
        return self._finish(read, x), state._replace(position=state.position + x.shape[1], scan=scan, tails=tails)

    def retrieve(self, x: Tensor, scan: ScanState, tail: Tensor) -> tuple[Tensor, Tensor]:
        """Read x (B, T, D) from the memory ``scan`` without a write (Titans, eq. 15), and the queries' next tail."""
        width = x.shape[-1]
        q, tail = self.conv(F.linear(x, self.project.weight[:width]), tail, slice(width))
        q = _Unit.apply(self._heads(F.silu(q)))
        with torch.autocast(x.device.type, enabled=False):
            weights = scan.weights
            gain = None if self.gain is None else self.gain.to(weights[0].dtype)[:, None, :]
            read = self.config.structure.read(weights, q.to(weights[0].dtype), gain)
        return self._finish(read, x), tail
