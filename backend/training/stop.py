"""The request to stop: SIGTERM, or Ctrl-C once."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


class Stop:
    """Whether a run was asked to save and end.

    Args:
        then: called at each request, in a signal handler.
    """

    def __init__(self, then: Callable[[], None] | None = None) -> None:
        self.requested = False
        self._then = then

    @contextmanager
    def listening(self) -> Iterator["Stop"]:
        """Within it, SIGTERM and the first SIGINT request to stop; a second SIGINT is what it always is."""
        before: dict[int, Any] = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
        for number in before:
            signal.signal(number, self._on_signal)
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        self.requested = True
        if number == signal.SIGINT:
            signal.signal(number, signal.default_int_handler)
        if self._then is not None:
            self._then()
