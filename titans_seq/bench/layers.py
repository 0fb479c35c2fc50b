"""Layers to measure, each with the norm that stands before it in a block: rows (1, T, D) to (1, T, D)."""

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from titans_seq.memory import MemoryConfig, NeuralMemory


class Memory(nn.Module):
    """Our memory, from the start of a stream."""

    def __init__(self, width: int, heads: int, config: MemoryConfig):
        super().__init__()
        self.norm, self.memory = nn.RMSNorm(width), NeuralMemory(width, heads, config)

    def forward(self, x: Tensor) -> Tensor:
        """(1, T, D) → (1, T, D)."""
        return self.memory(self.norm(x), self.memory.initial_state(x.shape[0]))[0]


class Attention(nn.Module):
    """Causal attention to everything before, by torch's fused kernel and without positions: its fastest form."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads, self.norm = heads, nn.RMSNorm(width)
        self.project, self.out = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(1, T, D) → (1, T, D)."""
        q, k, v = self.project(self.norm(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return self.out(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))


def memory(job: dict[str, Any]) -> nn.Module:
    """The memory layer with the job's choices; ``recompute`` is how it is trained, the others what it is."""
    choices = {"chunk_size": job["chunk_size"], **job["memory"]}
    recompute = choices.pop("recompute", None)
    layer = Memory(job["width"], job["heads"], MemoryConfig.model_validate(choices))
    layer.memory.recompute = recompute
    return layer


def attention(job: dict[str, Any]) -> nn.Module:
    """The attention layer of the job's shape."""
    return Attention(job["width"], job["heads"])
