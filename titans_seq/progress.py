"""Progress of long work: a bar on a terminal, a plain line now and then in a log."""

import sys
import time
from types import TracebackType
from typing import Any


class Progress:
    """Count ``unit``s up to ``total`` (None when unknown); used as a context."""

    every = 15.0  # seconds between lines of a log
    quiet = False  # set by the command line's --quiet

    def __init__(self, what: str, unit: str, total: int | None, done: int = 0):
        self.what, self.unit, self.total, self.done, self.first = what, unit, total, done, done
        self.begun = self.told = time.monotonic()
        self.bar: Any = None  # a tqdm bar on a terminal

    def __enter__(self) -> "Progress":
        if sys.stderr.isatty() and not self.quiet:
            from tqdm import tqdm

            self.bar = tqdm(
                desc=self.what, unit=f" {self.unit}", total=self.total, initial=self.done, unit_scale=True, leave=False
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bar is not None:
            self.bar.close()

    def add(self, count: int, note: str = "") -> None:
        """Count some more; ``note`` stands beside the numbers."""
        self.done += count
        if self.bar is not None:
            if note:
                self.bar.set_postfix_str(note, refresh=False)
            self.bar.update(count)
        elif not self.quiet and time.monotonic() - self.told > self.every:
            self.told = time.monotonic()
            rate = (self.done - self.first) / (self.told - self.begun)
            of = f" of {self.total:,}" if self.total else ""
            print(
                f"{self.what}: {self.done:,}{of} {self.unit}, {rate:,.1f} a second. {note}".rstrip(),
                file=sys.stderr,
                flush=True,
            )
