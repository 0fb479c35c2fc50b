"""What the Triton kernels multiply and move, computed from shapes; nothing is measured.

Flops are those of matrix products, two for each multiplication, counted again where a kernel makes something twice.
Bytes are every tensor of a kernel, once as it is read and once as it is written: what a program reads again, or has
just written itself, comes from a cache, and what a whole row of batch and head has once counts nothing. Both are of one
chunk of one row.
"""

from collections.abc import Iterable
from typing import NamedTuple

FORWARD = ("gates_pass", "state_pass", "output_pass")
BACKWARD = (
    "gates_pass",
    "output_back",
    "state_back",
    "gates_back",
)  # where all memories are held, else `state_pass` too
DELTA_FORWARD = ("erase_pass", "state_pass", "output_pass")


Moved = dict[str, tuple[str, ...]]  # of each kernel the tensors that it reads, and that it writes


class Work(NamedTuple):
    """Flops and bytes."""

    flops: int
    bytes: int

    @property
    def intensity(self) -> float:
        """Flops for each byte that is moved."""
        return self.flops / self.bytes

    def times(self, count: int) -> "Work":
        """Work of so many chunks."""
        return Work(self.flops * count, self.bytes * count)


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
MOVED: Moved = {
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
    return _work(_flops(x), MOVED, sizes(x))


class Delta(NamedTuple):
    """What the work of a delta scan depends on."""

    D: int  # width of queries and keys
    DV: int  # and of values
    erases: bool = True
    C: int = 64  # tokens of a tile
    block: int = 64  # columns of the values that a program takes where not all
    narrow: int = 2  # bytes of a number, but for the decays'


def _delta_flops(x: Delta) -> dict[str, int]:
    """Matrix products of the kernels, counted where they stand."""
    e, columns = int(x.erases), x.DV // x.block
    keys, values, square = 2 * x.C * x.C * x.D, 2 * x.C * x.C * x.DV, 2 * x.C**3
    memory = 2 * x.C * x.D * x.DV
    joins = x.C.bit_length() - 2  # of the inverse's blocks, from 2 on
    return {
        "erase_pass": e * (3 * keys + (2 * joins + 1) * square + values),
        "state_pass": memory * (1 + 2 * e),
        "output_pass": (1 + e) * (columns * keys + values) + memory,
        "answer_back": e * (columns * keys + values),
        "state_back": memory * (1 + 2 * e),
        "value_back": (1 + e) * columns * keys + (1 + 2 * e) * values + memory,
        "read_back": (1 + e) * (memory + (1 + e) * (values + 2 * keys)),
        "write_back": (1 + e) * (memory + (1 + e) * (values + keys)),
    }


# Without erasing there is no first and no `answer_back`, and no tensor that only they make.
DELTA_MOVED: Moved = {
    "erase_pass": ("a b k v log", "inverse of_memory u"),
    "state_pass": ("of_memory k b v u log", "memories u"),
    "output_pass": ("q k b v u log memories", "y"),
    "answer_back": ("q b dy log", "du"),
    "state_back": ("b q of_memory dy du log", "dmemories du"),
    "value_back": ("q k a dy du inverse log dmemories", "x dv"),
    "read_back": ("q dy k b v u log memories dmemories", "dq dlog"),
    "write_back": ("k v q a dy x log dmemories", "dk dlog"),
}
DELTA_AGAIN: Moved = {  # erasing keys read too, and b writes
    "read_back": ("a x k b v u log memories dmemories", "da dlog"),
    "write_back": ("b u q a dy x log dmemories", "db dlog"),
}


def delta_scan(x: Delta) -> dict[str, Work]:
    """Work of each kernel."""
    key, value = x.narrow * x.C * x.D, x.narrow * x.C * x.DV
    bytes_of = dict.fromkeys(("q", "k"), key) | dict.fromkeys(("v", "y"), value) | {"log": 4 * x.C}
    bytes_of |= {"memories": x.narrow * x.D * x.DV}
    erasing = dict.fromkeys(("a", "b", "of_memory"), key) | dict.fromkeys(("u", "x"), value)
    erasing |= {"inverse": x.narrow * x.C * x.C}
    bytes_of |= erasing if x.erases else dict.fromkeys(erasing, 0)
    bytes_of |= {f"d{name}": size for name, size in bytes_of.items()}
    moved = DELTA_MOVED
    if x.erases:
        again = {name: tuple(map(" ".join, zip(both, moved[name], strict=True))) for name, both in DELTA_AGAIN.items()}
        moved = moved | again
    else:
        moved = {name: parts for name, parts in moved.items() if name not in ("erase_pass", "answer_back")}
    return _work(_delta_flops(x), moved, bytes_of)


def _work(flops: dict[str, int], moved: Moved, bytes_of: dict[str, int]) -> dict[str, Work]:
    return {name: Work(flops[name], sum(bytes_of[part] for part in " ".join(moved[name]).split())) for name in moved}


def total(works: Iterable[Work]) -> Work:
    """Their sum."""
    flops, moved = zip(*works, strict=True)
    return Work(sum(flops), sum(moved))
