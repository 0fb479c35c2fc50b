"""When a memory that reads sequences begins anew."""

import re
from typing import Literal, NamedTuple

import numpy as np

from titans_seq.data.windows import N
from titans_seq.errors import UsageError


class Reset(NamedTuple):
    """A rule for going back to the start: the learned one, or what ``--state-in`` holds.

    ``record``: where a record begins. ``never``: all records are one stream, each read right behind the one before
    it. ``N:LENGTH``: where a record begins, and at the first base after a run of at least LENGTH N. ``every:LENGTH``:
    where a record begins, and after each LENGTH bases of it.
    """

    at: Literal["record", "never", "N", "every"] = "record"
    length: int = 0

    def __str__(self) -> str:
        return f"{self.at}:{self.length}" if self.length else self.at

    def inside(self, codes: np.ndarray, start: int, run: int) -> tuple[list[int], int]:
        """Offsets in ``codes`` at which the memory begins anew, and the run of N that is open at their end.

        Args:
            codes: (n,) the next bases of a record.
            start: bases of the record before them.
            run: N at the end of these.
        """
        if self.at == "every":
            return [i for i in range(-start % self.length, len(codes), self.length) if start + i], 0
        if self.at != "N" or not len(codes):
            return [], run
        unknown = np.concatenate([[0], codes == N, [0]]).astype(np.int8)
        firsts, ends = (np.flatnonzero(np.diff(unknown) == step).tolist() for step in (1, -1))
        if run and not unknown[1]:  # it ended with the bases before
            firsts, ends = [0, *firsts], [0, *ends]
        sizes = [end - first + (0 if first else run) for first, end in zip(firsts, ends, strict=True)]
        open_ = sizes[-1] if ends and ends[-1] == len(codes) else 0
        return [end for end, size in zip(ends, sizes, strict=True) if size >= self.length and end < len(codes)], open_


def reset_rule(text: str) -> Reset:
    """The rule that ``--reset`` names.

    Raises:
        UsageError: if it is none.
    """
    whole = {str(rule): rule for rule in (Reset("record"), Reset("never"))}
    if text in whole:
        return whole[text]
    found = re.fullmatch(r"(N|every):([1-9]\d{0,17})", text)
    if not found:
        raise UsageError(
            f"--reset {text} is no rule. Give record, never, N:LENGTH (also after a run of at least LENGTH N) or "
            "every:LENGTH (also every LENGTH bases), such as N:1000."
        )
    return Reset("N" if found[1] == "N" else "every", int(found[2]))
