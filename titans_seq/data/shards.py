"""Parts of a file of predictions, each written by a job of its own, and what makes them one file again.

A shard holds its rows as a job holds them before the file is made of them, behind a line that says what it is a part
of. So all forms of files are gathered alike, and to the bytes of the file that one job would have written.
"""

import hashlib
import json
import shutil
from collections.abc import Iterable, Sequence
from functools import partial
from io import BufferedReader
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from titans_seq.data.write import PartFile
from titans_seq.errors import InputError, UsageError
from titans_seq.files import must_be_new, sha256

FORMAT = "titans_seq.shard"
VERSION = 2
_FACTS = ("shard", "span", "suffix", "kind", "options", "identity", "rows_sha256")


class Shard(NamedTuple):
    """One of ``total`` parts of a job, counted from 1."""

    number: int
    total: int

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """Read ``i/n``.

        Raises:
            UsageError: if it is none.
        """
        number, _, total = text.partition("/")
        if not (number.isdecimal() and total.isdecimal() and 1 <= int(number) <= int(total)):
            raise UsageError(f"--shard {text}: give i/n, the i-th of n parts, such as 1/8 to 8/8.")
        return cls(int(number), int(total))

    def __str__(self) -> str:
        return f"{self.number}/{self.total}"

    def path(self, out: Path) -> Path:
        """Where this part of ``out`` goes: beside it."""
        return out.with_name(f"{out.name}.{self.number}-of-{self.total}")

    def span(self, units: Iterable[tuple[int, int]]) -> range:
        """Which records or windows are this part's: whole units, with about as much work as any other part.

        Args:
            units: of what is read together, in order: how many are done after it, and its work.
        """
        table = np.array([(0, 0), *units], np.int64)
        done, work = table.T
        middles, whole = 2 * work.cumsum() - work, max(1, 2 * int(work.sum()))
        owners = np.minimum(middles[1:] * self.total // whole, self.total - 1)
        first, last = np.searchsorted(owners, [self.number - 1, self.number])
        return range(int(done[first]), int(done[last]))


def described(out: Path, shard: Shard, span: range, kind: Any, identity: dict[str, str]) -> dict[str, Any]:
    """What a shard of ``out`` says of itself; ``kind`` makes the file, a `PartFile` or a partial of one."""
    made, options = (kind.func, kind.keywords) if isinstance(kind, partial) else (kind, {})
    return {
        "format": FORMAT,
        "version": VERSION,
        "shard": list(shard),
        "span": [span.start, span.stop],
        "suffix": out.suffix,
        "kind": made.__name__,
        "options": options,
        "identity": identity,
    }


def write_shard(part: Path, draft: Path, facts: dict[str, Any]) -> int:
    """Write rows as they stand in a part file, behind what is said of them; returns how many records they are of."""
    facts = facts | {"rows_sha256": sha256(part)}
    with part.open("rb") as rows, draft.open("wb") as file:
        file.write(json.dumps(facts).encode() + b"\n")
        shutil.copyfileobj(rows, file)
    first, last = facts["span"]
    return int(last - first)


def _read_facts(path: Path, file: BufferedReader) -> dict[str, Any]:
    try:
        facts: dict[str, Any] = json.loads(file.readline(1 << 24))
        if facts["format"] != FORMAT:
            raise ValueError
        version = facts["version"]
        lacking = [name for name in _FACTS if name not in facts]
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{path} is no shard. Give what --shard wrote.") from None
    if version != VERSION:
        raise InputError(
            f"{path} has schema {version}, this release reads {VERSION}. Make the shards anew with one release."
        )
    if lacking or hashlib.file_digest(file, "sha256").hexdigest() != facts["rows_sha256"]:
        raise InputError(f"{path} is damaged: these are not the rows that were written. Run its job again.")
    return facts


def gather(out: Path, shards: Sequence[Path], kinds: dict[str, type[PartFile]], *, overwrite: bool) -> int:
    """Make one file of all of its shards, in whatever order they are given; returns the number of rows.

    Raises:
        InputError: if one is missing, there twice, of another job, or no shard.
        UsageError: if ``out`` is of another form, or what is made beside it is there and not to be replaced.
    """
    of_number: dict[int, tuple[Path, dict[str, Any]]] = {}
    for path in shards:
        if not path.is_file():
            raise UsageError(f"{path} does not exist.")
        with path.open("rb") as file:
            facts = _read_facts(path, file)
        number = facts["shard"][0]
        if number in of_number:
            raise InputError(f"{path} is shard {number}, as is {of_number[number][0]}. Give each once.")
        of_number[number] = path, facts
    first, known = next(iter(of_number.values()))
    count = known["shard"][1]
    for path, facts in of_number.values():
        other = {name: facts[name] for name in known if name not in ("shard", "span", "rows_sha256")}
        differ = [name for name in other if other[name] != known[name]]
        if "identity" in differ:
            here, there = facts["identity"], known["identity"]
            differ = [name for name in here | there if here.get(name) != there.get(name)]
        if differ or facts["shard"][1] != count:
            what = " and ".join(differ) or "number of shards"
            raise InputError(f"{path} is a shard of another job than {first}: it has another {what}.")
    if lacking := [str(number) for number in range(1, count + 1) if number not in of_number]:
        raise InputError(f"Of {count} shards these are missing: {', '.join(lacking)}. Give all.")
    ordered = [of_number[number] for number in range(1, count + 1)]
    if out.suffix != known["suffix"]:
        raise UsageError(f"{out} should end in {known['suffix']}, as what these are shards of.")
    ends = [0, *(facts["span"][1] for _, facts in ordered)]
    for (path, facts), end in zip(ordered, ends, strict=False):
        if facts["span"][0] != end:
            raise InputError(
                f"{path} begins behind {facts['span'][0]:,} records, the shard before it ends with {end:,}."
            )
    for extra in kinds[known["kind"]].beside(out):
        must_be_new(extra, overwrite=overwrite)
    whole = kinds[known["kind"]](out, 0, **known["options"])
    try:
        for path, _ in ordered:
            with path.open("rb") as file:
                file.readline()
                shutil.copyfileobj(file, whole.file)
        return whole.finish()
    finally:
        whole.close()
        whole.part.unlink(missing_ok=True)
