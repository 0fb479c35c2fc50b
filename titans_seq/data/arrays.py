"""Files of many numbers: tracks, a value a base, and embeddings, a vector a record or token.

In the part file a row is a line of JSON and, behind it, its numbers as they are in memory: text would be slower than
the model.
"""

import json
import os
import shutil
import sys
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import polars as pl

from titans_seq.data.record import quoted
from titans_seq.data.write import PartFile, Row, shown_controls
from titans_seq.errors import EnvironmentFault, InputError, NumericFault

AT_ONCE = 1 << 18  # numbers that become a piece of a Parquet file together
MOST_IN_BIGWIG = (1 << 16) - 1  # records: its format counts them in 16 bits, and the library does not look


class ArrayFile(PartFile):
    """Rows of which one entry, ``numbers``, is an array of ``dtype``."""

    numbers: ClassVar[str]
    dtype = "<f4"

    def encode(self, rows: list[Row]) -> bytes:
        """For each row a line of JSON, with the array's shape in its place, and then the array."""
        parts = []
        for row in rows:
            array = np.ascontiguousarray(row[self.numbers], self.dtype)
            parts += [json.dumps({**row, self.numbers: array.shape}).encode(), b"\n", array.tobytes()]
        return b"".join(parts)

    def rows(self, *, arrays: bool = True) -> Iterator[Row]:
        """Rows of the part file in order; without ``arrays`` their shapes in their place."""
        with self.part.open("rb") as file:
            for line in file:
                row = json.loads(line)
                shape = row[self.numbers]
                size = np.dtype(self.dtype).itemsize * int(np.prod(shape))
                if arrays:
                    row[self.numbers] = np.frombuffer(file.read(size), self.dtype).reshape(shape)
                else:
                    file.seek(size, 1)
                yield row

    def convert(self, draft: Path) -> int:
        """A file in the form of the suffix."""
        return int(getattr(self, f"_{self.out.suffix[1:]}")(draft))

    def frame(self, row: Row) -> pl.DataFrame:
        """One row as a piece of the Parquet file."""
        raise NotImplementedError

    def _parquet(self, draft: Path) -> int:
        from polars.io.plugins import register_io_source

        count, first = 0, next(self.rows(), None)

        def frames(*_: Any) -> Iterator[pl.DataFrame]:
            nonlocal count
            held: list[pl.DataFrame] = []
            size = 0
            for row in self.rows():
                held.append(self.frame(row))
                count += len(held[-1])
                size += row[self.numbers].size
                if size >= AT_ONCE:
                    yield pl.concat(held)
                    held, size = [], 0
            if held:
                yield pl.concat(held)

        schema = {} if first is None else dict(self.frame(first).schema)
        register_io_source(frames, schema=schema).sink_parquet(draft)
        return count


class TrackFile(ArrayFile):
    """Values a base along records: rows with ``chrom``, ``start``, ``tracks`` (K names) and ``values`` (K, n).

    A base without a value is NaN; .bedgraph and .bw hold one track and leave it out, in .parquet it is null.
    """

    suffixes = (".bedgraph", ".bw", ".parquet")
    numbers = "values"  # (K, n)

    def __init__(self, out: Path, size: int = 0):
        super().__init__(out, size)
        self.seen = {row["chrom"] for row in self.rows(arrays=False)} if size else set[str]()

    def encode(self, rows: list[Row]) -> bytes:
        """As of any array; where names alone tell records apart, none may come again."""
        self._must_differ(rows, self.seen)
        return super().encode(rows)

    def convert(self, draft: Path) -> int:
        """As of any array; shards may hold records of one name, each one of them."""
        self._must_differ(self.rows(arrays=False), set())
        return super().convert(draft)

    def _must_differ(self, rows: Iterable[Row], seen: set[str]) -> None:
        for row in rows if self.out.suffix != ".parquet" else ():
            if row["start"] == 0 and row["chrom"] in seen:
                raise InputError(
                    f"{self.out}: two records are called {quoted(row['chrom'])}, whose values a {self.out.suffix} "
                    "cannot tell apart. Give each an id of its own, or write .parquet."
                )
            seen.add(row["chrom"])

    def frame(self, row: Row) -> pl.DataFrame:
        """A line a base: chrom, start (0-based), and a column a track."""
        values = row["values"]
        places = pl.int_range(row["start"], row["start"] + values.shape[1], eager=True, dtype=pl.Int64)
        tracks = {name: pl.Series(track).fill_nan(None) for name, track in zip(row["tracks"], values, strict=True)}
        return pl.DataFrame({"start": places, **tracks}).select(pl.lit(row["chrom"]).alias("chrom"), pl.all())

    def _intervals(self, row: Row) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Starts, ends and values of a row's runs of equal values."""
        values = row["values"][0]
        differs = values[1:] != values[:-1]  # NaN differs from itself
        firsts = np.flatnonzero(np.concatenate([[True], differs])[: len(values)])
        ends = np.append(firsts[1:], len(values))
        known = ~np.isnan(values[firsts])
        return firsts[known] + row["start"], ends[known] + row["start"], values[firsts][known]

    def _bedgraph(self, draft: Path) -> int:
        count = 0
        with draft.open("wb") as file:
            for row in self.rows():
                starts, ends, values = self._intervals(row)
                frame = pl.DataFrame({"start": starts, "end": ends, "value": values})
                frame = frame.select(pl.lit(shown_controls(row["chrom"])).alias("chrom"), pl.all())
                frame.write_csv(file, include_header=False, separator="\t", quote_style="never")
                count += len(frame)
        return count

    def _bw(self, draft: Path) -> int:
        tools = bigwig_tools()
        if not any(len(self._intervals(row)[0]) for row in self.rows()):
            raise InputError(f"{self.out}: no base has a value, and a bigWig cannot be empty. Write .bedgraph.")
        lengths: dict[str, int] = {}
        for row in self.rows(arrays=False):
            lengths[shown_controls(row["chrom"])] = row["start"] + row["values"][1]
        if len(lengths) > MOST_IN_BIGWIG:
            self._must_fit_a_bigwig()
        count, valued = 0, set[str]()

        def intervals() -> Iterator[tuple[str, int, int, float]]:
            nonlocal count
            for row in self.rows():
                chrom = shown_controls(row["chrom"])
                for start, end, value in zip(*(part.tolist() for part in self._intervals(row)), strict=True):
                    count += 1
                    valued.add(chrom)
                    yield chrom, start, end, value

        with _printed() as told:  # the library prints most errors and goes on; others are panics of its threads
            try:
                tools.open(str(draft), "w").write({name: size for name, size in lengths.items() if size}, intervals())
                whole = set(tools.open(str(draft)).chroms()) == valued
            except BaseException as error:
                if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
                    raise
                whole = False
        if told or not whole:
            free = shutil.disk_usage(self.out.parent).free
            raise EnvironmentFault(
                f"{self.out} could not be written whole: {' '.join(told) or 'pybigtools does not say why'} ({free:,} "
                "bytes free). Make room or raise the limit on files, then repeat the command with --resume."
            )
        return count

    def _must_fit_a_bigwig(self) -> None:
        """Refuse more records than a bigWig can hold; one without a value takes no room in it."""
        valued = {shown_controls(row["chrom"]) for row in self.rows() if len(self._intervals(row)[0])}
        if len(valued) > MOST_IN_BIGWIG:
            raise InputError(
                f"{self.out}: {len(valued):,} records have values, and a bigWig holds {MOST_IN_BIGWIG:,} at most. "
                "Write .bedgraph or .parquet."
            )


@contextmanager
def _printed() -> Iterator[list[str]]:
    """What libraries print to stdout, which is kept from there; known behind the block."""
    found: list[str] = []
    sys.stdout.flush()
    end, begin = os.pipe()
    stdout = os.dup(1)
    os.dup2(begin, 1)
    os.close(begin)
    try:
        yield found
    finally:
        os.dup2(stdout, 1)
        os.close(stdout)
        with open(end, encoding="utf-8", errors="replace") as text:
            found += text.read().split()


def bigwig_tools() -> Any:
    """The library that reads and writes bigWig.

    Raises:
        EnvironmentFault: if it is not installed.
    """
    try:
        import pybigtools
    except ImportError as error:
        raise EnvironmentFault(
            "A bigWig needs the package pybigtools, which is not here. Install it with "
            "`pip install titans-seq[bigwig]`; a track may also be written as .bedgraph or .parquet."
        ) from error
    return pybigtools


Precision = Literal["float32", "float16"]


class EmbeddingFile(ArrayFile):
    """Vectors of records: rows with ``id`` and ``embedding`` (D,).

    Args:
        out: the file.
        size: of the part file to go on with.
        precision: of the numbers.

    Raises:
        NumericFault: if a number is too large for it.
    """

    suffixes = (".parquet", ".npz")
    numbers = "embedding"

    def __init__(self, out: Path, size: int = 0, precision: Precision = "float32"):
        super().__init__(out, size)
        self.dtype = {"float32": "<f4", "float16": "<f2"}[precision]

    def encode(self, rows: list[Row]) -> bytes:
        """As of any array, where the numbers can be told in its precision."""
        largest = float(np.finfo(self.dtype).max)
        for row in rows:
            if (most := np.abs(row["embedding"]).max(initial=0)) > largest:
                raise NumericFault(
                    f"The embedding of record {quoted(row['id'])} holds {most:g}, and float16 ends at {largest:g}. "
                    "Give --dtype float32."
                )
        return super().encode(rows)

    def frame(self, row: Row) -> pl.DataFrame:
        """One line: id, and the vector as a list."""
        return pl.DataFrame({"id": [row["id"]], "embedding": _lists(row["embedding"][None])})

    def _npz(self, draft: Path) -> int:
        """``ids`` (R,) and ``embeddings`` (R, D), as `numpy.load` reads them."""
        heads = list(self.rows(arrays=False))
        self._save(draft, len(heads), {"ids": np.array([row["id"] for row in heads], np.str_)})
        return len(heads)

    def _save(self, draft: Path, count: int, arrays: dict[str, np.ndarray]) -> None:
        """Write ``arrays``, and beside them ``embeddings`` (count, D) from the part file."""
        first = next(self.rows(arrays=False), None)
        width = first["embedding"][-1] if first else 0
        with zipfile.ZipFile(draft, "w") as archive:
            for name, array in arrays.items():
                with archive.open(f"{name}.npy", "w") as entry:
                    np.lib.format.write_array(entry, array, allow_pickle=False)
            with archive.open("embeddings.npy", "w", force_zip64=True) as entry:
                shape = {"descr": self.dtype, "fortran_order": False, "shape": (count, width)}
                np.lib.format.write_array_header_1_0(entry, shape)
                for row in self.rows():
                    entry.write(row["embedding"].tobytes())


class TokenFile(EmbeddingFile):
    """Vectors of tokens: rows with ``id``, ``start``, ``stride`` (bases a token) and ``embedding`` (n, D) of a stretch.

    In .parquet a line a token, with the 0-based ``start`` of its first base; a word that overlaps the one before it
    stands at its last.
    """

    def frame(self, row: Row) -> pl.DataFrame:
        """A line a token: id, start, and the vector as a list."""
        count = len(row["embedding"])
        starts = row["start"] + row["stride"] * pl.int_range(count, eager=True, dtype=pl.Int64)
        frame = pl.DataFrame({"start": starts, "embedding": _lists(row["embedding"])})
        return frame.select(pl.lit(row["id"]).alias("id"), pl.all())

    def _npz(self, draft: Path) -> int:
        """``ids`` (R,), ``embeddings`` (N, D), and ``offsets`` (R + 1,), where each record's begin."""
        ids: list[str] = []
        counts: list[int] = []
        for row in self.rows(arrays=False):
            if row["start"] == 0:
                ids.append(row["id"])
                counts.append(0)
            counts[-1] += row["embedding"][0]
        offsets = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)]).astype(np.int64)
        self._save(draft, int(offsets[-1]), {"ids": np.array(ids, np.str_), "offsets": offsets})
        return int(offsets[-1])


def _lists(rows: np.ndarray) -> pl.Series:
    """Vectors (n, D) as a column of lists."""
    return pl.Series("embedding", rows).arr.to_list()
