"""What is in a file, and what training would refuse: one pass, nothing changed."""

from array import array
from collections import Counter
from dataclasses import dataclass, field
from heapq import nlargest
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from titans_seq.data.compressed import shown
from titans_seq.data.fasta import read_blocks
from titans_seq.data.record import Judge, Record, Series, Tally
from titans_seq.data.sequences import conflicts, is_fasta, read_sequences
from titans_seq.data.series import OnDuplicate, OnGap, Rows, read_rows, sentinels, tidy
from titans_seq.data.times import find_frequency
from titans_seq.errors import InputError

_SHOWN = 10  # rows of a list, and problems, that the text form gives; JSON has all
_FEW = 5  # records that are listed one by one
_CLASSES = 20


@dataclass(frozen=True)
class Audit:
    """What was found in one file.

    ``facts`` are JSON types. ``problems`` is what training would refuse, ``notes`` what it would warn about.
    """

    path: str
    kind: str
    facts: dict[str, Any]
    problems: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Return the audit as JSON types."""
        return {
            "path": self.path,
            "kind": self.kind,
            "facts": self.facts,
            "problems": list(self.problems),
            "notes": list(self.notes),
        }

    def text(self) -> str:
        """Return the audit as aligned lines to read."""
        width = max(map(len, self.facts), default=0)
        lines = [f"{_clean(self.path)}: {self.kind}"]
        for name, value in self.facts.items():
            title = name.replace("_", " ")
            if isinstance(value, list):
                lines += ["", title, *(f"  {line}" for line in _table(value))] if value else []
            else:
                lines.append(f"  {title:<{width}}  {_cell(value)}")
        for title, found in (("problems: training refuses these", self.problems), ("notes", self.notes)):
            if found:
                lines += ["", title, *(f"  - {_clean(line)}" for line in found[:_SHOWN])]
                lines += [f"  and {len(found) - _SHOWN:,} more"] if len(found) > _SHOWN else []
        return "\n".join(lines if self.problems else [*lines, "", "no problem found"])


def _clean(text: str) -> str:
    """Escape what is not printable: ids may hold anything, a terminal should not obey it."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def _cell(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{_clean(str(key))} {_cell(part)}" for key, part in value.items()) or "none"
    if value is None:
        return "-"
    if isinstance(value, int | float):
        return f"{value:,.0f}" if float(value).is_integer() else f"{value:.6g}"
    text = _clean(str(value))
    return text if len(text) <= 40 else f"{text[:37]}..."


def _table(rows: list[dict[str, Any]]) -> list[str]:
    """Lay out rows of the same keys; numbers stand to the right."""
    cells = [[key.replace("_", " ") for key in rows[0]]]
    cells += [[_cell(value) for value in row.values()] for row in rows[:_SHOWN]]
    right = [isinstance(value, int | float) for value in rows[0].values()]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [
        "  ".join(c.rjust(w) if r else c.ljust(w) for c, w, r in zip(row, widths, right, strict=True)).rstrip()
        for row in cells
    ]
    return [*lines, f"and {len(rows) - _SHOWN:,} more"] if len(rows) > _SHOWN else lines


@dataclass
class _Findings:
    """A judge that writes down instead of refusing."""

    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def judge(self) -> Judge:
        return Judge(self.problems.append, self.notes.append)

    def audit(self, path: Path | str, kind: str, facts: dict[str, Any]) -> Audit:
        return Audit(shown(path), kind, facts, tuple(self.problems), tuple(self.notes))


def _share(part: float, whole: float) -> float:
    return round(float(part / whole), 6) if whole else 0.0


def _composition(counts: np.ndarray) -> dict[str, float]:
    """Shares of N among all bases, and of G and C among the known ones; ``counts`` (5,) of A C G T N."""
    return {"n_share": _share(counts[4], counts.sum()), "gc_share": _share(counts[1] + counts[2], counts[:4].sum())}


def _replaced(tally: Tally, bases: int) -> dict[str, Any]:
    codes = {symbol: count for symbol, count in sorted(tally.symbols.items()) if symbol != "U"}
    return {
        "lowercase_share": _share(tally.lower, bases),
        "iupac_read_as_n": codes,
        "u_read_as_t": tally.symbols["U"],
    }


def _lengths(lengths: np.ndarray) -> dict[str, Any]:
    return {"min": int(lengths.min()), "median": float(np.median(lengths)), "max": int(lengths.max())}


def _audit_fasta(path: Path | str) -> Audit:
    findings, tally = _Findings(), Tally()
    total, counts = np.zeros(5, np.int64), np.zeros(5, np.int64)
    lengths, all_n, ids = array("q"), 0, set()
    first: list[dict[str, Any]] = []
    worst: list[dict[str, Any]] = []
    for block in read_blocks(path, judge=findings.judge(), tally=tally):
        counts += np.bincount(block.codes, minlength=5)
        if not block.last:
            continue
        length = int(counts.sum())
        row = {"record": block.record + 1, "id": block.id, "length": length, **_composition(counts)}
        if len(first) < _FEW:
            first.append(row)
        if counts[4]:
            worst = nlargest(_FEW, [*worst, row], key=lambda r: (r["n_share"], r["length"]))
        lengths.append(length)
        ids.add(block.id)
        all_n += 0 < length == counts[4]
        total += counts
        counts[:] = 0
    facts = {
        "records": len(lengths),
        "bases": int(total.sum()),
        "length": _lengths(np.asarray(lengths)),
        **_composition(total),
        **_replaced(tally, int(total.sum())),
        "duplicate_ids": len(lengths) - len(ids),
        "empty_records": lengths.count(0),
        "all_n_records": int(all_n),
        "first_records": first,
        "records_with_most_n": worst,
    }
    return findings.audit(path, "FASTA", facts)


def _classes(records: list[Record], counts: np.ndarray) -> list[dict[str, Any]]:
    """Describe the largest classes: a difference in length or GC is what a model learns first."""
    places: dict[str, list[int]] = {}
    for place, record in enumerate(records):
        places.setdefault(record.label or "", []).append(place)
    rows: list[dict[str, Any]] = [
        {
            "class": label,
            "rows": len(members),
            "share": _share(len(members), len(records)),
            "mean_length": round(float(counts[members].sum(1).mean()), 1),
            **_composition(counts[members].sum(0)),
        }
        for label, members in places.items()
    ]
    return sorted(rows, key=lambda row: (-row["rows"], row["class"]))[:_CLASSES]


def _audit_labelled(path: Path | str) -> Audit:
    findings, tally = _Findings(), Tally()
    try:
        records = read_sequences(path, judge=findings.judge(), tally=tally)
    except InputError as error:  # without labels it is still something to predict on; what else is wrong raises again
        findings, tally = _Findings(problems=[str(error)]), Tally()
        records = read_sequences(path, need_labels=False, judge=findings.judge(), tally=tally)
    counts = np.stack([np.bincount(record.codes, minlength=5) for record in records])
    copies = Counter(record.codes.tobytes() for record in records)
    labelled = any(record.label is not None for record in records)
    facts = {
        "rows": len(records),
        "bases": int(counts.sum()),
        "length": _lengths(counts.sum(1)),
        **_composition(counts.sum(0)),
        **_replaced(tally, int(counts.sum())),
        "rows_with_n": int((counts[:, 4] > 0).sum()),
        "duplicate_ids": len(records) - len({record.id for record in records}),
        "duplicate_sequences": len(records) - len(copies),
        "conflicting_labels": len(conflicts(records)),
        "classes": len({record.label for record in records}) if labelled else 0,
        "largest_classes": _classes(records, counts) if labelled else [],
    }
    return findings.audit(path, "labelled folder" if Path(path).is_dir() else "sequence table", facts)


def audit_sequences(path: Path | str) -> Audit:
    """Read FASTA (as a stream), a sequence table or a labelled folder, and say what is in it.

    Raises:
        InputError: if the file cannot be read at all: another format, or a symbol that is no nucleotide.
    """
    if Path(path).is_dir() or not is_fasta(path):
        return _audit_labelled(path)
    return _audit_fasta(path)


def _longest_run(values: np.ndarray) -> int:
    """Length of the longest stretch of one and the same value; missing values are no value."""
    changes = np.flatnonzero(values[1:] != values[:-1])
    runs = np.diff(changes, prepend=-1, append=len(values) - 1)
    return int(runs.max(initial=0))


def _column(name: str, place: int, series: tuple[Series, ...]) -> dict[str, Any]:
    parts = [one.values[:, place] for one in series]
    values = np.concatenate(parts)
    known = values[~np.isnan(values)]
    low, middle, high = np.quantile(known, [0.25, 0.5, 0.75]) if len(known) else (0.0, 0.0, 0.0)
    return {
        "column": name,
        "missing_share": _share(len(values) - len(known), len(values)),
        "min": float(known.min()) if len(known) else None,
        "median": float(middle) if len(known) else None,
        "max": float(known.max()) if len(known) else None,
        "longest_constant_run": max(map(_longest_run, parts)),
        "outliers": int((np.abs(known - middle) > 5 * (high - low)).sum()) if high > low else 0,
        "sentinels": {f"{mark:g}": count for mark, count in sentinels(values).items()},
    }


def _order(rows: Rows) -> list[dict[str, Any]]:
    """Count, for each series, rows out of order and timestamps that stand more than once, as the file has them."""
    time = pl.col("time")
    found = rows.frame.group_by("series").agg(
        (time.len() - time.n_unique()).alias("duplicates"), (time.diff() < pl.duration()).sum().alias("unsorted")
    )
    return found.sort("series").drop("series").to_dicts()


def _one_series(series: Series, order: dict[str, Any]) -> dict[str, Any]:
    frequency, share, gaps = None, None, 0
    if len(series) > 1:
        frequency, ratios = find_frequency(series.times, np.zeros(len(series), np.int64))
        share, gaps = _share(int((ratios == 1).sum()), len(ratios)), int((ratios > 1).sum())
    return {
        "id": series.id,
        "rows": len(series),
        "start": str(series.times[0].astype("M8[s]")),
        "end": str(series.times[-1].astype("M8[s]")),
        "frequency": frequency,
        "its_share": share,
        "gaps": gaps,
        **order,
        "missing_share": _share(int(np.isnan(series.values).sum()), series.values.size),
    }


def audit_series(
    path: Path | str,
    *,
    on_duplicate: OnDuplicate = "error",
    on_gap: OnGap = "nan",
    min_rows: int = 2,
    **reading: Any,
) -> Audit:
    """Read a series table and say what is in it; arguments as for `series.read_series`.

    Outliers lie farther from the median than five times the distance between the quartiles.

    Raises:
        InputError: if the file cannot be read at all: another format, no timestamps, or one that is none.
    """
    findings = _Findings()
    rows = read_rows(path, judge=findings.judge(), **reading)
    table = tidy(rows, on_duplicate=on_duplicate, on_gap=on_gap, min_rows=min_rows, judge=findings.judge())
    facts = {
        "layout": table.layout,
        "number_of_series": len(table.series),
        "rows": len(rows.frame),
        "frequency": table.frequency,
        "frequency_share": round(table.share, 6),
        "columns": [_column(name, place, table.series) for place, name in enumerate(rows.columns)],
        "series": [_one_series(*pair) for pair in zip(table.series, _order(rows), strict=True)],
    }
    return findings.audit(path, "series table", facts)
