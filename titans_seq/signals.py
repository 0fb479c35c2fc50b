"""Signals end the work at the next step border; a second one ends it at once."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from titans_seq.errors import Interrupted

WATCHED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Watch:
    """Notes the first signal that comes."""

    def __init__(self) -> None:
        self.before = {number: signal.getsignal(number) for number in WATCHED}
        self.caught: int | None = None

    def arm(self) -> None:
        """Take the signals; to be repeated where a library has put handlers of its own."""
        for number in WATCHED:
            signal.signal(number, self._note)

    def disarm(self) -> None:
        """Put back the handlers from before."""
        for number, handler in self.before.items():
            signal.signal(number, handler or signal.SIG_DFL)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.caught = number
        self.disarm()

    def stop(self, message: str) -> None:
        """Raise `Interrupted` with ``message`` if a signal came."""
        if self.caught is not None:
            raise Interrupted(self.caught, f"Stopped by {signal.Signals(self.caught).name}. {message}")


@contextmanager
def watching() -> Iterator[Watch]:
    """Note SIGINT, SIGTERM and SIGHUP instead of dying of them."""
    watch = Watch()
    watch.arm()
    try:
        yield watch
    finally:
        watch.disarm()
