"""Backbone: embedding → blocks → norm, with `MemoryState` in and out."""

from typing import Any

from pydantic import Field, model_validator
from torch import Tensor, nn

from titans_seq.blocks import MAC, MAG, Block, BlocksConfig, Hybrid
from titans_seq.embedding import Embedding, Nucleotides
from titans_seq.memory import MemoryConfig
from titans_seq.memory_state import MemoryState
from titans_seq.miras.choice import Choice
from titans_seq.miras.presets import with_preset
from titans_seq.pieces import in_pieces


class BackboneConfig(Choice):
    """What to build: the same object in Python, in ``configs/*.yaml`` and in a checkpoint's ``config.json``."""

    width: int = Field(default=128, ge=2, le=65_536, description="Features a token, D.")
    depth: int = Field(default=2, ge=1, le=1024, description="Blocks.")
    heads: int = Field(default=4, ge=1, le=1024, description="Heads of memory and attention.")
    ffn: float = Field(default=2.0, gt=0, le=64, description="Hidden width of the feed-forward layers over D.")
    dropout: float = Field(default=0.0, ge=0, lt=1)
    block: BlocksConfig = MAG()
    memory: MemoryConfig = MemoryConfig()
    embedding: Embedding = Nucleotides()

    @model_validator(mode="before")
    @classmethod
    def _from_preset(cls, given: Any) -> Any:
        """``preset: NAME`` stands for block and memory of that named point; what is given beside comes over them."""
        return with_preset(given, "backbone")

    @model_validator(mode="after")
    def _sizes_divide(self) -> "BackboneConfig":
        if self.width % (2 * self.heads):
            raise ValueError(
                f"width {self.width} must be a multiple of 2 x heads = {2 * self.heads}, "
                "since rotary positions turn pairs of a head's features"
            )
        if isinstance(self.block, MAC) and self.block.segment % self.memory.chunk_size:
            raise ValueError(
                f"block.segment {self.block.segment} must be a multiple of memory.chunk_size {self.memory.chunk_size}"
            )
        if isinstance(self.block, MAC) and self.memory.rope:
            raise ValueError(
                "block: mac asks a memory about rows it has not read, which have no place: set rope: false"
            )
        if isinstance(self.block, Hybrid) and self.depth < 2:
            raise ValueError(f"block: hybrid has memory and attention in turn: depth {self.depth} must be 2 or more")
        return self

    @property
    def causal(self) -> bool:
        """Whether no output depends on a later input."""
        return not (isinstance(self.block, MAC) and self.block.mode == "paper")


class Backbone(nn.Module):
    """Tokens (B, T) or patches (B, T, F) → (B, T, D)."""

    def __init__(self, config: BackboneConfig):
        super().__init__()
        self.config = config
        self.recompute: bool | None = None  # see `in_pieces`
        self.truncate: int | None = None  # likewise, while it is trained
        c = config
        self.embedding = c.embedding.build(c.width)
        self.blocks: Any = nn.ModuleList(
            Block(c.width, c.heads, max(1, round(c.ffn * c.width)), c.dropout, c.block.at(level), c.memory)
            for level in range(c.depth)
        )
        self.norm = nn.RMSNorm(c.width, eps=1e-6)

    def initial_state(self, batch: int) -> MemoryState:
        """State before the first token of ``batch`` streams."""
        return MemoryState(layers=tuple(block.mixer.initial_state(batch) for block in self.blocks))

    def forward(self, x: Tensor, state: MemoryState | None = None) -> tuple[Tensor, MemoryState]:
        """Read x after what ``state`` has read (nothing, when None); returns hidden rows and the next state."""
        state = self.initial_state(x.shape[0]) if state is None else state
        unit = getattr(self.config.block, "segment", self.config.memory.chunk_size)
        return in_pieces(self._read, self, x, state, unit, self.recompute, self.truncate)

    def _read(self, x: Tensor, state: MemoryState) -> tuple[Tensor, MemoryState]:
        hidden, layers = self.embedding(x), []
        for block, layer in zip(self.blocks, state.layers, strict=True):
            hidden, layer = block(hidden, layer)
            layers.append(layer)
        return self.norm(hidden), MemoryState(position=state.position + x.shape[1], layers=tuple(layers))
