"""Prediction files by suffix, written so that a kill loses and repeats nothing.

While the work runs, rows are JSON lines in a part file beside the target; only at the end do they become the
target, in one step. So a file under its final name is always complete.
"""

import csv
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from titans_seq.errors import UsageError
from titans_seq.files import telling_disk_faults, whole_file

SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet")
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # a spreadsheet would run text that begins so

Row = dict[str, Any]


def check_suffix(out: Path) -> None:
    """Refuse an output whose format is not known, before any work is done."""
    if out.suffix not in SUFFIXES:
        raise UsageError(f"{out} should end in one of {', '.join(SUFFIXES)}, which say in what form to write.")


class RowFile:
    """Rows on their way to ``out``: appended whole, cut back to a known size on resume."""

    def __init__(self, out: Path, size: int = 0):
        self.out, self.part = out, out.with_name(out.name + ".part")
        with telling_disk_faults(self.part):
            out.parent.mkdir(parents=True, exist_ok=True)
            self.file = self.part.open("r+b" if size and self.part.exists() else "wb")
            self.file.truncate(size)
            self.file.seek(size)

    def write(self, rows: list[Row]) -> None:
        """Append rows; they reach the disk with the next `settle`."""
        lines = "".join(json.dumps(row, ensure_ascii=True, allow_nan=True) + "\n" for row in rows)
        with telling_disk_faults(self.part):
            self.file.write(lines.encode())

    def settle(self) -> int:
        """Bring what was written to the disk; returns the part file's size."""
        with telling_disk_faults(self.part):
            self.file.flush()
            os.fsync(self.file.fileno())
        return self.file.tell()

    def finish(self) -> int:
        """Turn the part file into the target and remove it; returns the number of rows."""
        self.settle()
        self.file.close()
        with whole_file(self.out) as draft:
            count = _convert(self.part, draft, self.out.suffix)
        self.part.unlink()
        return count

    def close(self) -> None:
        """Leave the part file for a later resume."""
        self.file.close()


def _rows(part: Path) -> Iterator[Row]:
    with part.open("rb") as file:
        for line in file:
            yield json.loads(line)


def _escaped(value: Any) -> Any:
    return "'" + value if isinstance(value, str) and value.startswith(FORMULA) else value


def _convert(part: Path, draft: Path, suffix: str) -> int:
    if suffix == ".parquet":
        import polars as pl

        frame = pl.scan_ndjson(part, infer_schema_length=None) if part.stat().st_size else pl.LazyFrame()
        stamps = [name for name in frame.collect_schema() if name in ("ds", "cutoff")]
        frame.with_columns(pl.col(stamps).str.to_datetime()).sink_parquet(draft)
        return int(pl.scan_parquet(draft).select(pl.len()).collect().item())
    count, columns = 0, None
    with draft.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter="\t" if suffix == ".tsv" else ",", lineterminator="\n")
        for row in _rows(part):
            count += 1
            if suffix == ".jsonl":
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
                continue
            if columns is None:
                columns = list(row)
                writer.writerow(columns)
            writer.writerow([_escaped(row[name]) for name in columns])
    return count
