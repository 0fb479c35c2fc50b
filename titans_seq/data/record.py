"""What every reader yields, nucleotides as numbers, and what becomes of bad input."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NoReturn

import numpy as np

from titans_seq.errors import InputError, inform, warn

ALPHABET = "ACGTN"
IUPAC = "RYSWKMBDHV"
LOWER = 8  # added to the code of a base in lower case, where a reader is asked to keep the case

_SYMBOLS = ALPHABET + "U" + IUPAC  # sixteen: a symbol's place fits in four bits, the fifth tells lower case
_LOWER, _NONE = 16, 255
assert _LOWER == 2 * LOWER  # so that a shift makes one of the other
_READ_AS = np.array([0, 1, 2, 3, 4, 3] + [4] * len(IUPAC), np.uint8)  # place → code: U is T, IUPAC is N
_LETTERS = np.frombuffer(ALPHABET.encode(), np.uint8)


def _places() -> bytes:
    table = bytearray([_NONE]) * 256
    for place, symbol in enumerate(_SYMBOLS):
        table[ord(symbol)], table[ord(symbol.lower())] = place, place | _LOWER
    return bytes(table)


_PLACES = _places()


@dataclass(frozen=True, eq=False)
class Record:
    """One sequence: ``codes`` (T,) uint8 with A C G T N = 0 1 2 3 4, and its label where it has one.

    ``around`` (J + T + J,) is the window that ``codes`` is the middle of, where training moves it by up to J bases.
    ``label`` is text as a table has it; of several columns or a list column with ``;`` between the values, and with
    ``|`` between several lists. A reader of numbers gives them as ``values`` instead: (K,), or (bins, K) along the
    sequence.
    """

    id: str
    codes: np.ndarray
    label: str | None = None
    around: np.ndarray | None = None
    values: np.ndarray | None = None
    chrom: str | None = None  # chromosome it is from, where that is known; for one cut out of a genome also
    start: int | None = None  # its first base on the forward strand, counted from 0, and
    strand: str = "."  # which strand it is
    row: int | None = None  # of its table, or line of its file of intervals, counted from 1; of a feature the first
    # Where its first base on the chromosome is, and the end of its last: of joined pieces, or as a table says beside it
    span: tuple[int, int] | None = None

    def __len__(self) -> int:
        return len(self.codes)


@dataclass(frozen=True, eq=False)
class Series:
    """One series: T rows, and F rows behind them of which only what is known beforehand is told.

    Missing values are NaN. ``target`` keeps double precision, so that a meter that stands at 123,456,789.1 still tells
    its steps; covariates are in single precision, and text among them is one-hot. `Covariates` has their names, which
    all series of a table share.
    """

    id: str  # "" for a wide table's only series
    times: np.ndarray  # (T + F,) datetime64[us], ascending and unique
    target: np.ndarray  # (T, C) float64: what is read
    columns: tuple[str, ...]  # the C names
    frequency: str = ""  # step of the timestamps, or where they are irregular the commonest: "15m", "1h", "1mo"
    observed: np.ndarray = None  # type: ignore[assignment]  # (T, C) bool: what was measured and may be scored;
    # a gap that was filled is in target and not in here. Where target is finite, if not given
    known_future: np.ndarray = None  # type: ignore[assignment]  # (T + F, K) float32
    past_only: np.ndarray = None  # type: ignore[assignment]  # (T, P) float32
    static: np.ndarray = None  # type: ignore[assignment]  # (S,) float32

    def __post_init__(self) -> None:
        none = {
            "observed": np.isfinite(self.target),
            "known_future": np.zeros((len(self.times), 0), np.float32),
            "past_only": np.zeros((len(self.target), 0), np.float32),
            "static": np.zeros(0, np.float32),
        }
        for name, value in none.items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)

    def __len__(self) -> int:
        return len(self.target)


@dataclass(frozen=True)
class Covariates:
    """Names of the K, P and S covariates of series, and of each column of text the values that training knew.

    A column of text "sky" with the values "clear" and "rain" is three: "sky=clear", "sky=rain", "sky=(other)".
    """

    known_future: tuple[str, ...] = ()
    past_only: tuple[str, ...] = ()
    static: tuple[str, ...] = ()
    vocabularies: dict[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all three kinds."""
        return (*self.known_future, *self.past_only, *self.static)


@dataclass(frozen=True)
class Judge:
    """What a reader does with what it finds. An audit writes it down and reads on; `STRICT` refuses and warns."""

    refuse: Callable[[str], None]
    doubt: Callable[[str], None]
    tell: Callable[[str], None] = lambda message: None  # what was taken for what; no fault


def _refuse(message: str) -> NoReturn:
    raise InputError(message)


STRICT = Judge(_refuse, warn, inform)


@dataclass
class Tally:
    """What `encode` replaced, by symbol, and how many bases were in lower case."""

    symbols: Counter[str] = field(default_factory=Counter)
    lower: int = 0

    def tell(self, name: str, doubt: Callable[[str], None]) -> None:
        """Say once per file what was read as something else."""
        codes = ", ".join(f"{symbol} {count:,}" for symbol, count in sorted(self.symbols.items()) if symbol != "U")
        if codes:
            doubt(f"{name}: IUPAC codes were read as N: {codes}.")
        if self.symbols["U"]:
            doubt(f"{name}: U was read as T, {self.symbols['U']:,} times.")


def encode(
    text: str | bytes,
    *,
    where: str = "the sequence",
    start: int = 0,
    tally: Tally | None = None,
    keep_case: bool = False,
) -> np.ndarray:
    """Return the codes (T,) uint8 of nucleotides in either case; U is T, IUPAC codes are N.

    Args:
        text: the symbols, without line ends.
        where: "FILE: record 'ID'", for messages.
        start: bases of the same record that came before, for the position in messages.
        tally: counts what was replaced, and lower case.
        keep_case: add `LOWER` to the codes of bases in lower case.

    Raises:
        InputError: on any other symbol, with its 1-based position.
    """
    raw = text.encode("ascii", "replace") if isinstance(text, str) else text
    places = np.frombuffer(raw.translate(_PLACES), np.uint8)
    highest = places.max(initial=0)
    if highest == _NONE:
        at = int(places.argmax())
        symbol = text[at] if isinstance(text, str) else chr(text[at])
        raise InputError(
            f"{where} has {symbol!r} at position {start + at + 1:,} (1-based), which is no nucleotide. "
            "Is this a protein or an alignment? Titans-seq reads A C G T U N and IUPAC codes."
        )
    if tally is not None and highest >= _LOWER:
        tally.lower += int(np.count_nonzero(places & _LOWER))
    codes: np.ndarray = places & (_LOWER - 1)
    case = (places & _LOWER) >> 1 if keep_case and highest >= _LOWER else None
    if codes.max(initial=0) >= len(ALPHABET):
        if tally is not None:
            counts = np.bincount(codes, minlength=len(_SYMBOLS)).tolist()
            tally.symbols.update({s: n for s, n in zip(_SYMBOLS, counts, strict=True) if n and s not in ALPHABET})
        codes = _READ_AS[codes]
    return codes if case is None else codes | case


def decode(codes: np.ndarray) -> str:
    """Return the nucleotides of codes (T,): the inverse of `encode` on ACGTN."""
    return str(_LETTERS[codes].tobytes(), "ascii")


def printable(text: str) -> str:
    """Return text whose characters that are not printable are written out: ids may hold any."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def quoted(name: str) -> str:
    """Return an id as messages show it: control characters escaped, no longer than a line."""
    return repr(name if len(name) <= 60 else name[:57] + "...")
