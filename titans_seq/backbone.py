"""Backbone: embedding → blocks → norm, with `MemoryState` in and out."""

from typing import Any

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from titans_seq.blocks import MAC, MAG, Block, BlocksConfig, Direction, Hybrid, Whole
from titans_seq.embedding import Embedding, Nucleotides, Patches, Turn, other_strand
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
    direction: Direction = Field(default="forward", description="both: each block has a second memory, from the end.")
    equivariant: bool = Field(
        default=False, description="Read both strands with the same weights: the other strand's rows are these, turned."
    )
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
        if self.equivariant and isinstance(self.embedding, Patches):
            raise ValueError("equivariant: true is of DNA's two strands, and a series has none")
        if self.equivariant and self.embedding.stride > 1:
            raise ValueError(
                f"equivariant: true needs the same words on both strands, and words of {self.embedding.stride} bases "
                "side by side are others from the other end: set embedding.overlapping to true"
            )
        return self

    @property
    def causal(self) -> bool:
        """Whether no output depends on a later token."""
        return not self.whole and self.padded

    @property
    def whole(self) -> bool:
        """Whether a sequence is read from both ends, so that it must be there as a whole: no state is carried."""
        return self.direction == "both" or self.equivariant

    @property
    def padded(self) -> bool:
        """Whether what pads a sequence leaves its rows as they are."""
        return not (isinstance(self.block, MAC) and self.block.mode == "paper")


class Backbone(nn.Module):
    """Nucleotides (B, T) or patches (B, T, F) → (B, T, D). Of words side by side each nucleotide has its word's row.

    With ``equivariant`` (B, T) → (B, T, 2 D): a row's first half is of its base, the second of the base
    opposite, read along the other strand by the same embedding and blocks. The rows of the other strand are therefore
    the same, turned around, with halves swapped (RCPS, as in Caduceus-PS, arXiv 2403.03234). Strands meet in the head.
    """

    def __init__(self, config: BackboneConfig):
        super().__init__()
        self.config = config
        self.recompute: bool | None = None  # see `in_pieces`
        self.truncate: int | None = None  # likewise, while it is trained
        c = config
        self.embedding: Any = c.embedding.build(c.width)
        self.blocks: Any = nn.ModuleList(
            Block(c.width, c.heads, max(1, round(c.ffn * c.width)), c.dropout, c.block.at(level), c.memory, c.direction)
            for level in range(c.depth)
        )
        self.norm: nn.Module = nn.RMSNorm(c.width, eps=1e-6)

    def initial_state(self, batch: int) -> MemoryState:
        """State before the first token of ``batch`` streams; empty where whole sequences are read."""
        if self.config.whole:
            return MemoryState()
        return self._start(batch)

    def _start(self, batch: int) -> MemoryState:
        return MemoryState(
            symbols=self.config.embedding.start(batch, self.embedding.weight.device),
            layers=tuple(block.mixer.initial_state(batch) for block in self.blocks),
        )

    def forward(self, x: Tensor, state: MemoryState | None = None) -> tuple[Tensor, MemoryState]:
        """Read x after what ``state`` has read (nothing, when None); returns hidden rows and the next state.

        Words of k nucleotides side by side are made of each call's own: all calls but the last of a sequence should
        give a multiple of k.

        Raises:
            ValueError: if a backbone that reads whole sequences is asked to go on.
        """
        if not self.config.whole:
            return self._stream(x, self.initial_state(x.shape[0]) if state is None else state)
        if state is not None and state.position:
            raise ValueError(
                f"A backbone that reads sequences from both ends cannot go on after {state.position} tokens: "
                "give whole sequences, or set direction to forward and equivariant to false."
            )
        return self._whole(x), MemoryState(position=x.shape[1])

    def stop_after(self, blocks: int) -> None:
        """Read with the first ``blocks`` alone from now on: rows are then what the next block would get."""
        if blocks < len(self.blocks):
            self.blocks, self.norm = self.blocks[:blocks], nn.Identity()

    @property
    def _unit(self) -> int:
        return getattr(self.config.block, "segment", self.config.memory.chunk_size)

    def _stream(self, x: Tensor, state: MemoryState) -> tuple[Tensor, MemoryState]:
        tokens, symbols = self.config.embedding.tokens(x, state.symbols)
        state = state._replace(symbols=None)
        rows, state = in_pieces(self._read, self, tokens, state, self._unit, self.recompute, self.truncate)
        return self._spread(rows, x), state._replace(symbols=symbols)

    def _spread(self, rows: Tensor, x: Tensor) -> Tensor:
        """Rows of tokens as rows (B, T, D) of the nucleotides x (B, T)."""
        stride = self.config.embedding.stride
        return rows if stride == 1 else rows.repeat_interleave(stride, 1)[:, : x.shape[1]]

    def _whole(self, x: Tensor) -> Tensor:
        """Hidden rows of whole sequences, on both strands where that is asked for."""
        if not self.config.equivariant:
            return self._from_ends(x)
        turn = Turn(x)
        own, other = self._from_ends(torch.cat([x, other_strand(x)])).chunk(2)
        return torch.cat([own, turn(other)], -1)

    def _from_ends(self, x: Tensor) -> Tensor:
        if self.config.direction == "forward":
            return self._stream(x, self._start(len(x)))[0]
        tokens, _ = self.config.embedding.tokens(x, self.config.embedding.start(len(x), x.device))
        whole = Whole(Turn(tokens), self._unit, self.recompute, self.truncate)
        hidden = self.embedding(tokens)
        for block in self.blocks:
            hidden, _ = block(hidden, whole)
        return self._spread(self.norm(hidden), x)

    def _read(self, x: Tensor, state: MemoryState) -> tuple[Tensor, MemoryState]:
        hidden, layers = self.embedding(x), []
        for block, layer in zip(self.blocks, state.layers, strict=True):
            hidden, layer = block(hidden, layer)
            layers.append(layer)
        return self.norm(hidden), MemoryState(position=state.position + x.shape[1], layers=tuple(layers))
