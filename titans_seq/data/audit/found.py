"""What an audit found, as JSON and as text to read."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from titans_seq.data.compressed import shown
from titans_seq.data.record import Judge, printable

_SHOWN = 10  # rows of a list, and sentences, that the text form gives; JSON has all
_TITLES = {
    "gc_share": "GC",
    "gc_spread": "GC spread",
    "iupac_read_as_n": "IUPAC codes read as N",
    "lowercase_share": "lowercase (soft-masked)",
    "n50": "N50",
    "n_share": "N",
    "u_read_as_t": "U read as T",
    "rows_with_n": "rows with N",
    "all_n_records": "records of N alone",
    "records_with_most_n": "records with most N",
}


@dataclass(frozen=True)
class Audit:
    """What was found in a file, or in the files of a data set.

    ``facts`` are JSON types. ``problems`` is what training would refuse, ``leaks`` what makes a test score too good,
    ``notes`` is what training would warn about, and what to know before the data are believed.
    """

    path: str
    kind: str
    facts: dict[str, Any]
    problems: tuple[str, ...]
    notes: tuple[str, ...] = ()
    leaks: tuple[str, ...] = ()

    @property
    def spotless(self) -> bool:
        """Whether there is nothing to say but facts."""
        return self.sound and not self.notes

    @property
    def sound(self) -> bool:
        """Whether there is neither a problem nor a leak."""
        return not (self.problems or self.leaks)

    def as_json(self) -> dict[str, Any]:
        """Return the audit as JSON types."""
        return {
            "path": self.path,
            "kind": self.kind,
            "facts": self.facts,
            "problems": list(self.problems),
            "leaks": list(self.leaks),
            "notes": list(self.notes),
        }

    def text(self) -> str:
        """Return the audit as aligned lines to read."""
        width = max((len(_title(name)) for name, value in self.facts.items() if not _is_table(value)), default=0)
        lines = [f"{printable(self.path)}: {self.kind}"]
        for name, value in self.facts.items():
            if _is_table(value):
                lines += ["", _title(name), *(f"  {line}" for line in _table(_rows(value)))] if value else []
            else:
                lines.append(f"  {_title(name):<{width}}  {_cell(name, value)}")
        for title, found in (
            ("problems: training refuses these", self.problems),
            ("leaks and conflicts between splits: these make a test score too good, or meaningless", self.leaks),
            ("notes", self.notes),
        ):
            if found:
                lines += ["", title, *(f"  - {_wrapped(line)}" for line in found[:_SHOWN])]
                lines += [f"  and {len(found) - _SHOWN:,} more"] if len(found) > _SHOWN else []
        notes = f"; notes: {len(self.notes):,}" if self.notes else ""
        return "\n".join([*lines, "", f"no problem found{notes}"] if self.sound else lines)


def _wrapped(text: str) -> str:
    """Lines of a sentence below each other: some have a table."""
    return "\n    ".join(map(printable, text.split("\n")))


def _title(name: str) -> str:
    return _TITLES.get(name, printable(name.replace("_", " ")))


def _cell(name: str, value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{_title(str(key))}: {_cell(key, part)}" for key, part in value.items()) or "none"
    if value is None:
        return "-"
    if isinstance(value, int | float):
        if name.endswith("share") or name == "gc_spread":
            return f"{100 * value:.3g} %"
        return f"{value:,.0f}" if float(value).is_integer() else f"{value:.6g}"
    text = printable(str(value))
    return text if len(text) <= 40 else f"{text[:37]}..."


def _is_table(value: Any) -> bool:
    """Whether a fact is a list of rows, or a mapping of columns that are mappings."""
    return isinstance(value, list) or (isinstance(value, dict) and any(isinstance(v, dict) for v in value.values()))


def _rows(value: Any) -> list[dict[str, Any]]:
    """Rows to lay out: those of a list, or one for each fact of columns that lie side by side."""
    if isinstance(value, list):
        return value
    columns = {title: dict(_flat(column)) for title, column in value.items()}
    names = dict.fromkeys(name for column in columns.values() for name in column)
    return [{"": name, **{title: column.get(name, "-") for title, column in columns.items()}} for name in names]


def _flat(column: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for name, value in column.items():
        if isinstance(value, dict):
            yield from ((f"{_title(name)}, {_title(str(key))}", _cell(key, part)) for key, part in value.items())
        else:
            yield _title(name), _cell(name, value)


def _table(rows: list[dict[str, Any]]) -> list[str]:
    """Lay out rows of the same keys, but those that are empty in all; numbers stand to the right."""
    keys = [key for key in rows[0] if not key or any(row[key] != "" for row in rows)]
    rows = [{key: row[key] for key in keys} for row in rows]
    most = _SHOWN if "" not in rows[0] else len(rows)
    cells = [[_title(key) for key in rows[0]]]
    cells += [[_cell(key, value) for key, value in row.items()] for row in rows[:most]]
    right = [any(isinstance(row[key], int | float) for row in rows[:most]) for key in rows[0]]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [
        "  ".join(c.rjust(w) if r else c.ljust(w) for c, w, r in zip(row, widths, right, strict=True)).rstrip()
        for row in cells
    ]
    return [*lines, f"and {len(rows) - most:,} more"] if len(rows) > most else lines


@dataclass
class Findings:
    """A judge that writes down instead of refusing."""

    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    leaks: list[str] = field(default_factory=list)

    def judge(self) -> Judge:
        """What a reader tells its findings to."""
        return Judge(self.problems.append, self.notes.append)

    def audit(self, path: Path | str, kind: str, facts: dict[str, Any]) -> Audit:
        """The audit that all of this makes."""
        return Audit(shown(path), kind, facts, *map(_once, (self.problems, self.notes, self.leaks)))


def _once(sentences: list[str]) -> tuple[str, ...]:
    """Each sentence once: a file may be read more than once."""
    return tuple(dict.fromkeys(sentences))


def share_of(part: float, whole: float) -> float:
    """Return a share as audits give it, 0 of nothing."""
    return round(float(part / whole), 6) if whole else 0.0
