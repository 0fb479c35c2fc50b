"""What the Triton kernels multiply and move, computed from shapes; nothing is measured.

Flops are those of matrix products, two for each multiplication, counted again where a kernel makes something twice.
Bytes are every tensor of a kernel, once as it is read and once as it is written: what a program reads again, or has
just written itself, comes from a cache, and what a whole row of batch and head has once counts nothing. Both are of one
chunk of one row.
"""

from collections.abc import Iterable
from typing import NamedTuple

FORWARD = ("gates_pass", "state_pass", "output_pass")


class Work(NamedTuple):
    """Flops and bytes."""

    flops: int
    bytes: int

    @property
    def intensity(self) -> float:
        """Flops for each byte that is moved."""
        return self.flops / self.bytes


class Scan(NamedTuple):
    """What the work of a memory scan depends on; the choices are those that a layer has by default."""

    C: int  # tokens of a chunk, a power of two
    D: int  # width of a head
    hidden: int  # what the last layer reads: of a matrix D
    depth: int
    momentum: bool = True
    returns: bool = True  # forgetting towards the initial memory
    norm: bool = False
    narrow: int = 2  # bytes of a number that is multiplied


def _flops(x: Scan) -> dict[str, int]:
    """Matrix products of the kernels, counted where they stand."""
    two = x.depth == 2
    layer = 2 * x.C * x.D * x.hidden  # (C, D) by (D, h), or its transposes
    between, heads = 2 * x.C * x.C * x.hidden, 2 * x.C * x.C * x.D  # (C, h) by (h, C), and (C, D) by (D, C)
    written = 1 + x.momentum  # tiles that a write makes: of memory and momentum
    met = written + x.returns  # and that a read meets: the initial memory too
    return {
        "gates_pass": 0,
        "state_pass": layer * (1 + 3 * two + written * (1 + two)),
        "output_pass": layer * (2 * two + met * (1 + two)) + between * (1 + two) + heads * 2,
        "output_back": (
            layer * (4 * two + met * (2 + x.norm + 4 * two)) + between * (3 + 4 * two) + heads * (3 + x.norm + 3 * two)
        ),
        "state_back": layer * (3 + 8 * two + written * (2 + 3 * two)),
        "gates_back": 0,
    }


# Of each kernel what it reads and what it writes: tensors that are both come once in each.
MOVED = {
    "gates_pass": ("alpha eta", "scores keep push write carry"),
    "state_pass": ("k v theta write carry", "memories momenta errors"),
    "output_pass": ("q k scores keep push memories momenta errors", "y"),
    "output_back": (
        "q k scores keep push memories momenta errors dy",
        "dq dk dgain dscores dkeep dpush dinitials dmemories dmomenta derrors dhidden dfirst",
    ),
    "state_back": (
        "k v theta write carry memories momenta errors dk dinitials dmemories dmomenta derrors dhidden dfirst",
        "dk dv dtheta dgain dwrite dcarry dinitials dmemories dmomenta",
    ),
    "gates_back": ("alpha eta dscores dkeep dpush dwrite dcarry", "rows numbers dalpha deta"),
}


def sizes(x: Scan) -> dict[str, int]:
    """Bytes of a chunk of each tensor, 0 of those that are not there; initial memory and γ, one a row, are left out."""
    two, memory = x.depth == 2, x.depth * x.D * x.hidden
    numbers = {
        "theta": x.C, "alpha": x.C, "eta": x.momentum * x.C, "scores": x.C * x.C, "keep": x.C, "push": x.C,
        "write": 2 * x.C, "carry": 3, "rows": 2 * x.C * x.C, "numbers": 3 * x.C, "errors": x.C * x.D,
        "gain": x.norm * x.D, "memories": memory, "momenta": x.momentum * memory, "initials": x.returns * memory,
        "hidden": two * x.C * x.hidden, "first": two * x.C * x.hidden,
    }  # fmt: skip
    bytes_of = {name: 4 * count for name, count in numbers.items()}
    bytes_of |= dict.fromkeys(("q", "k", "v", "y"), x.narrow * x.C * x.D)
    slopes = {f"d{name}": size for name, size in bytes_of.items()} | {"dk": 4 * x.C * x.D}  # two passes add to it
    return bytes_of | slopes


def memory_scan(x: Scan) -> dict[str, Work]:
    """Work of each kernel."""
    bytes_of, flops = sizes(x), _flops(x)
    return {name: Work(flops[name], sum(bytes_of[part] for part in " ".join(MOVED[name]).split())) for name in MOVED}


def total(works: Iterable[Work]) -> Work:
    """Their sum."""
    flops, moved = zip(*works, strict=True)
    return Work(sum(flops), sum(moved))
