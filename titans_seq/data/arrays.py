"""Files of many numbers: tracks, a value a base, and embeddings, a vector a record.

In the part file a row is a line of JSON and, behind it, its numbers as they are in memory: text would be slower than
the model.
"""

import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import polars as pl

from titans_seq.data.write import PartFile, Row, shown_controls
from titans_seq.errors import EnvironmentFault, InputError

AT_ONCE = 1 << 18  # numbers that become a piece of a Parquet file together


class ArrayFile(PartFile):
    """Rows of which one entry, ``numbers``, is an array of float32."""

    numbers: ClassVar[str]

    def encode(self, rows: list[Row]) -> bytes:
        """For each row a line of JSON, with the array's shape in its place, and then the array."""
        parts = []
        for row in rows:
            array = np.ascontiguousarray(row[self.numbers], "<f4")
            parts += [json.dumps({**row, self.numbers: array.shape}).encode(), b"\n", array.tobytes()]
        return b"".join(parts)

    def rows(self, *, arrays: bool = True) -> Iterator[Row]:
        """Rows of the part file in order; without ``arrays`` their shapes in their place."""
        with self.part.open("rb") as file:
            for line in file:
                row = json.loads(line)
                shape = row[self.numbers]
                size = 4 * int(np.prod(shape))
                if arrays:
                    row[self.numbers] = np.frombuffer(file.read(size), "<f4").reshape(shape)
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
        count = 0

        def intervals() -> Iterator[tuple[str, int, int, float]]:
            nonlocal count
            for row in self.rows():
                chrom = shown_controls(row["chrom"])
                for start, end, value in zip(*(part.tolist() for part in self._intervals(row)), strict=True):
                    count += 1
                    yield chrom, start, end, value

        tools.open(str(draft), "w").write({name: size for name, size in lengths.items() if size}, intervals())
        return count


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


class EmbeddingFile(ArrayFile):
    """Vectors of records: rows with ``id`` and ``embedding`` (D,)."""

    suffixes = (".parquet", ".npz")
    numbers = "embedding"

    def frame(self, row: Row) -> pl.DataFrame:
        """One line: id, and the vector as a list."""
        vector = pl.Series("embedding", [row["embedding"].tolist()], pl.List(pl.Float32))
        return pl.DataFrame({"id": [row["id"]]}).with_columns(vector)

    def _npz(self, draft: Path) -> int:
        """``ids`` (R,) and ``embeddings`` (R, D) float32, as `numpy.load` reads them."""
        heads = list(self.rows(arrays=False))
        ids = np.array([row["id"] for row in heads], np.str_)
        width = heads[0]["embedding"][0] if heads else 0
        with zipfile.ZipFile(draft, "w") as archive:
            with archive.open("ids.npy", "w") as entry:
                np.lib.format.write_array(entry, ids, allow_pickle=False)
            with archive.open("embeddings.npy", "w", force_zip64=True) as entry:
                shape = {"descr": "<f4", "fortran_order": False, "shape": (len(heads), width)}
                np.lib.format.write_array_header_1_0(entry, shape)
                for row in self.rows():
                    entry.write(row["embedding"].tobytes())
        return len(heads)
