"""Sequence mixers of the backbone: memory as context, gate or layer, memory alone, attention alone (Titans, section 4).

Each takes (B, T, D) and a `MemoryState`, and one pass equals any split. Persistent tokens are written to the
memory once, when a stream begins, as a chunk of their own: they are part of a mixer's `initial_state`. Two of a kind
read whole windows from both ends (`BothEnds`).

To add one: a config class with ``build``, a module, and its name in `BlockConfig`.
"""

from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from titans_seq.attention import Attention
from titans_seq.delta_memory import build_memory
from titans_seq.embedding import Turn
from titans_seq.memory import MemoryConfig
from titans_seq.memory_state import MemoryState
from titans_seq.miras.choice import Choice
from titans_seq.pieces import in_pieces

Direction = Literal["forward", "both"]
Persistent = Annotated[int, Field(ge=0, le=1024, description="Persistent tokens, N_p.")]
Window = Annotated[int, Field(ge=1, description="Rows that attention sees, the own one included.")]


class Mixer(nn.Module):
    """What all mixers share: persistent tokens, and where a stream begins."""

    memory: Any  # a Memory, or None
    attention: Any  # an Attention, or None

    def __init__(self, width: int, persistent: int):
        super().__init__()
        self.memory = self.attention = None
        self.persistent = nn.Parameter(0.5 * torch.randn(1, persistent, width)) if persistent else None

    def initial_state(self, batch: int) -> MemoryState:
        """State at the start of a stream, the persistent tokens written to the memory."""
        state = MemoryState()
        if self.memory is not None:
            state = self.memory.initial_state(1)
            if self.persistent is not None:
                prefix, state = self.memory.write_whole(self.persistent, state)
                state = state._replace(prefix=prefix)
            state = expand(state, batch)
        if self.attention is not None:
            state = state._replace(window=self.attention.initial_window(batch))
        return state


def expand(state: Any, batch: int) -> Any:
    """Repeat a state of one row for ``batch`` rows, without copying."""
    if isinstance(state, Tensor):
        return state.expand(batch, *state.shape[1:])
    if isinstance(state, tuple):
        parts = (expand(part, batch) for part in state)
        return type(state)(*parts) if hasattr(state, "_fields") else tuple(parts)
    return state


class Combine(nn.Module):
    r"""The gate ⊗ of two outputs, $\mathrm{norm}(y) \odot \sigma(\mathrm{norm}(m))$ (Titans, section 4.2)."""

    def __init__(self, width: int):
        super().__init__()
        self.norm_y, self.norm_m = nn.RMSNorm(width, eps=1e-6), nn.RMSNorm(width, eps=1e-6)

    def forward(self, y: Tensor, m: Tensor) -> Tensor:
        """(B, T, D) twice to (B, T, D)."""
        return self.norm_y(y) * torch.sigmoid(self.norm_m(m))


class LMMMixer(Mixer):
    """Memory alone: y = M(x)."""

    def __init__(self, width: int, heads: int, memory: MemoryConfig, config: "LMM"):
        super().__init__(width, config.persistent)
        self.memory = build_memory(width, heads, memory)

    def forward(self, x: Tensor, state: MemoryState) -> tuple[Tensor, MemoryState]:
        """(B, T, D) → (B, T, D)."""
        return self.memory(x, state)


class MAGMixer(Mixer):
    """Memory as gate: o = SW-Attn(x) ⊗ M(x) (Titans, eq. 26-28)."""

    def __init__(self, width: int, heads: int, memory: MemoryConfig, config: "MAG"):
        super().__init__(width, config.persistent)
        self.window = config.window
        self.memory, self.attention = build_memory(width, heads, memory), Attention(width, heads)
        self.combine = Combine(width)

    def forward(self, x: Tensor, state: MemoryState) -> tuple[Tensor, MemoryState]:
        """(B, T, D) → (B, T, D)."""
        y, window = self.attention.sliding(x, state.window, self.window, self.persistent)
        m, state = self.memory(x, state)
        return self.combine(y, m), state._replace(window=window)


class MALMixer(Mixer):
    """Memory as layer: o = SW-Attn(M(x)) (Titans, eq. 29-31); the prefix too is an output of the memory."""

    def __init__(self, width: int, heads: int, memory: MemoryConfig, config: "MAL"):
        super().__init__(width, config.persistent)
        self.window = config.window
        self.memory, self.attention = build_memory(width, heads, memory), Attention(width, heads)
        self.norm = nn.RMSNorm(width, eps=1e-6)

    def forward(self, x: Tensor, state: MemoryState) -> tuple[Tensor, MemoryState]:
        """(B, T, D) → (B, T, D)."""
        m, state = self.memory(x, state)
        prefix = None if state.prefix is None else self.norm(state.prefix)
        y, window = self.attention.sliding(self.norm(m), state.window, self.window, prefix)
        return y, state._replace(window=window)


class AttentionMixer(Mixer):
    """Attention alone, the mixer of Transformer++."""

    def __init__(self, width: int, heads: int, memory: MemoryConfig, config: "AttentionOnly"):
        super().__init__(width, config.persistent)
        self.window = config.window
        self.attention = Attention(width, heads)

    def forward(self, x: Tensor, state: MemoryState) -> tuple[Tensor, MemoryState]:
        """(B, T, D) → (B, T, D)."""
        y, window = self.attention.sliding(x, state.window, self.window, self.persistent)
        return y, state._replace(position=state.position + x.shape[1], window=window)


class MACMixer(Mixer):
    r"""Memory as context (Titans, eq. 21-25), segment by segment.

    $h = M^*_{t-1}(q)$ is read before the segment is written; $y = S + \mathrm{Attn}([P \,\|\, h \,\|\, S])$, of which
    the segment's own rows are kept and written; $o = y \otimes M^*(y)$. The sum is one of the residual connections of
    section 4.4; eq. 23 is without it, as ``residual=False`` is: then what is written is at first a mean of many rows,
    keys are all alike, and a memory hardly learns from it.

    ``causal``: row i sees no $h_j$ with j > i, and o reads the memory token by token.
    ``paper``: as printed, all of h is visible and o reads the memory after the whole segment, so inside a
    segment the future reaches the past. For tasks without a causal order only.
    """

    def __init__(self, width: int, heads: int, memory: MemoryConfig, config: "MAC"):
        super().__init__(width, config.persistent)
        self.length, self.causal, self.residual = config.segment, config.mode == "causal", config.residual
        self.memory, self.attention = build_memory(width, heads, memory), Attention(width, heads)
        self.combine = Combine(width)

    def initial_state(self, batch: int) -> MemoryState:
        """State at the start of a stream; persistent tokens are attention's alone here."""
        state = self.memory.initial_state(batch)
        empty = self.attention.initial_window(batch)
        tail = state.tails[..., : self.memory.out.in_features]
        return state._replace(window=(*empty, *empty), segment=state.scan, segment_tail=tail)

    def _segment(self, x: Tensor, state: MemoryState) -> tuple[Tensor, MemoryState]:
        """Rows x (B, n, D) that lie in one segment."""
        h, tail = self.memory.retrieve(x, state.segment, state.segment_tail)
        prefix = self.persistent if self.persistent is not None else x.new_zeros(1, 0, x.shape[-1])
        y, window = self.attention.segment(x, h, state.window, self.length, prefix, self.causal)
        y = x + y if self.residual else y
        m, after = self.memory(y, state)
        if not self.causal:
            m, _ = self.memory.retrieve(y, after.scan, state.tails[..., : x.shape[-1]])
        after = after._replace(window=window, segment_tail=tail)
        if after.position % self.length == 0:  # the segment is closed
            after = after._replace(window=tuple(w[:, :, :0] for w in window), segment=after.scan)
        return self.combine(y, m), after

    def forward(self, x: Tensor, state: MemoryState) -> tuple[Tensor, MemoryState]:
        """(B, T, D) → (B, T, D).

        Raises:
            ValueError: if the ``paper`` form is asked to go on inside a segment, which it has seen to the end.
        """
        opened = state.position % self.length
        if opened and not self.causal:
            raise ValueError(
                f"MAC as printed cannot go on inside a segment: {opened} rows of {self.length} were read. "
                "Cut the stream at whole segments, or use mode='causal'."
            )
        first = min(self.length - opened, x.shape[1])
        rows = []
        for part in (x[:, :first], *x[:, first:].split(self.length, 1)):
            if part.shape[1]:
                y, state = self._segment(part, state)
                rows.append(y)
        return torch.cat(rows, 1) if rows else x, state


class Whole(NamedTuple):
    """How a whole window is read from both ends: what a block is given in place of a `MemoryState`."""

    turn: Turn
    unit: int  # and the rest: see `in_pieces`
    recompute: bool | None = None
    truncate: int | None = None


TIED = ("memory.project", "memory.out_gate", "attention.project")


class BothEnds(nn.Module):
    r"""Two mixers of a kind, one from each end: $y = f(x) + \mathrm{turn}(g(\mathrm{turn}(x)))$, (B, T, D) → (B, T, D).

    Each has a memory of its own: initial weights, gates, convolutions, persistent tokens. What they make queries, keys,
    values and the output's gate with is one (as Caduceus, arXiv 2403.03234, ties the projections of a BiMamba);
    the projection of what was read is not, or attention could not tell its left from its right.
    """

    def __init__(self, ahead: Mixer, back: Mixer):
        super().__init__()
        self.ahead, self.back = ahead, back
        for name in (name for name, _ in ahead.named_modules() if name in TIED):
            part, _, layer = name.partition(".")
            setattr(back.get_submodule(part), layer, ahead.get_submodule(name))
        self.register_state_dict_post_hook(_leave_tied)
        self.register_load_state_dict_pre_hook(_fill_tied)

    def forward(self, x: Tensor, whole: Whole) -> tuple[Tensor, Whole]:
        """(B, T, D) → (B, T, D); padding reaches no row before it."""
        ahead, back = self._one(self.ahead, x, whole), self._one(self.back, whole.turn(x), whole)
        return ahead + whole.turn(back), whole

    def _one(self, mixer: Mixer, x: Tensor, whole: Whole) -> Tensor:
        state = mixer.initial_state(len(x))
        return in_pieces(mixer, mixer, x, state, whole.unit, whole.recompute, whole.truncate)[0]


def _leave_tied(module: BothEnds, state: dict[str, Any], prefix: str, _: Any) -> None:
    """Save what is tied once."""
    for name in TIED:
        state.pop(f"{prefix}back.{name}.weight", None)


def _fill_tied(module: BothEnds, state: dict[str, Any], prefix: str, *_: Any) -> None:
    for name in TIED:
        if f"{prefix}ahead.{name}.weight" in state:
            state[f"{prefix}back.{name}.weight"] = state[f"{prefix}ahead.{name}.weight"]


class BlockChoice(Choice):
    """What every kind of block has; a subclass adds ``kind`` and ``mixer``."""

    mixer: ClassVar[Any]

    def at(self, level: int) -> "BlockChoice":
        """The kind of the block at ``level``, counted from 0."""
        return self


class LMM(BlockChoice):
    """Neural memory alone."""

    kind: Literal["lmm"] = "lmm"
    persistent: Persistent = 4
    mixer: ClassVar[Any] = LMMMixer


class MAC(BlockChoice):
    """Memory as context."""

    kind: Literal["mac"] = "mac"
    persistent: Persistent = 4
    segment: int = Field(default=64, ge=1, description="Rows a segment, a multiple of the memory's chunk_size.")
    mode: Literal["causal", "paper"] = "causal"
    residual: bool = Field(default=True, description="Add to what attention says of a segment's rows these themselves.")
    mixer: ClassVar[Any] = MACMixer


class MAG(BlockChoice):
    """Memory as gate."""

    kind: Literal["mag"] = "mag"
    persistent: Persistent = 4
    window: Window = 64
    mixer: ClassVar[Any] = MAGMixer


class MAL(BlockChoice):
    """Memory as layer."""

    kind: Literal["mal"] = "mal"
    persistent: Persistent = 4
    window: Window = 64
    mixer: ClassVar[Any] = MALMixer


class AttentionOnly(BlockChoice):
    """Attention without memory (Transformer++)."""

    kind: Literal["attention"] = "attention"
    persistent: Persistent = 0
    window: Window | None = Field(default=None, description="Rows that attention sees; null for all of them.")
    mixer: ClassVar[Any] = AttentionMixer


BlockConfig = Annotated[LMM | MAC | MAG | MAL | AttentionOnly, Field(discriminator="kind")]


class Hybrid(Choice):
    """Memory alone and sliding-window attention alone, block by block in turn (Samba; the -H models of MIRAS)."""

    kind: Literal["hybrid"] = "hybrid"
    persistent: Persistent = 0
    window: Window = 64

    def at(self, level: int) -> BlockChoice:
        """Memory at even levels, attention at odd ones."""
        return AttentionOnly(window=self.window) if level % 2 else LMM(persistent=self.persistent)


BlocksConfig = Annotated[LMM | MAC | MAG | MAL | AttentionOnly | Hybrid, Field(discriminator="kind")]


class SwiGLU(nn.Module):
    """Gated feed-forward layer, (B, T, D) → (B, T, D)."""

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.up, self.down = nn.Linear(width, 2 * hidden, bias=False), nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """W_down (SiLU(W_gate x) ⊙ W_up x)."""
        gate, value = self.up(x).chunk(2, -1)
        return self.down(F.silu(gate) * value)


class Block(nn.Module):
    """x + mixer(norm(x)), then x + SwiGLU(norm(x)) (Llama's form)."""

    def __init__(
        self,
        width: int,
        heads: int,
        ffn: int,
        dropout: float,
        block: BlockChoice,
        memory: MemoryConfig,
        direction: Direction = "forward",
    ):
        super().__init__()
        self.norm_mixer, self.norm_ffn = nn.RMSNorm(width, eps=1e-6), nn.RMSNorm(width, eps=1e-6)
        self.mixer = block.mixer(width, heads, memory, block)
        if direction == "both":
            self.mixer = BothEnds(self.mixer, block.mixer(width, heads, memory, block))
        self.ffn = SwiGLU(width, ffn)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        """(B, T, D) → (B, T, D), with a `MemoryState`, or from both ends with a `Whole`."""
        y, state = self.mixer(self.norm_mixer(x), state)
        x = x + self.dropout(y)
        return x + self.dropout(self.ffn(self.norm_ffn(x))), state
