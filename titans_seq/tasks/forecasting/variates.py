"""What channels that are read apart tell each other."""

import math

from torch import Tensor, nn

from titans_seq.attention import Attention

HEADS = 4  # or as many as divide the width


class VariateAttention(nn.Module):
    """Attention over variates: each channel's hidden row sees those of all channels at its own place in time.

    Crossformer's cross-dimension stage (Zhang and Yan, ICLR 2023), and iTransformer's attention over variates (arXiv
    2310.06625), behind a backbone that reads each channel apart. Channels have no position, so that their order does
    not matter, and are told apart by what was read of them; how many there are shapes no weight.

    A channel of which nothing was observed at a place takes part there like any other: its row holds what was read of
    it before, as of a sensor that reports once a day, and the marks of observation in its patch have told the backbone
    how old that is.
    """

    def __init__(self, width: int, channels: int):
        super().__init__()
        self.channels = channels
        self.norm = nn.RMSNorm(width, eps=1e-6)
        self.attention = Attention(width, math.gcd(width, HEADS))

    def forward(self, hidden: Tensor) -> Tensor:
        """Rows (B C, N, D) to rows of the same shape."""
        together = self.norm(hidden).unflatten(0, (-1, self.channels)).transpose(1, 2)  # (B, N, C, D)
        heard = self.attention.among(together.flatten(0, 1)).view_as(together)
        return hidden + heard.transpose(1, 2).flatten(0, 1)
