"""Writing masks in a thread, one after the other: a large one takes seconds to compress."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING

from qtpy.QtCore import QObject, Signal

from backend.io import write_mask

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import numpy as np
    import numpy.typing as npt

    from backend.volume import Volume

# One thread, so that of two masks with the same name the later one stays. Python ends after what it has to do.
_WRITER = ThreadPoolExecutor(max_workers=1, thread_name_prefix="samed3d-save")


class _Teller(QObject):
    """Tells the thread that made it."""

    written = Signal(object)

    def tell(self, future: Future[None]) -> None:
        """What came of it, if there still is a window to tell it to."""
        with suppress(RuntimeError):  # Qt is gone
            self.written.emit(future.exception())


_TELLERS: set[_Teller] = set()


def save_in_background(
    path: Path, labels: npt.NDArray[np.uint16], volume: Volume, done: Callable[[Exception | None], None]
) -> None:
    """Write labels (x, y, z), which nobody changes any more, on a volume's grid; then `done` hears what went wrong."""
    teller = _Teller()
    _TELLERS.add(teller)  # for what it tells is lost if it goes before it is heard

    def tell(error: Exception | None) -> None:
        _TELLERS.discard(teller)
        done(error)

    teller.written.connect(tell)
    _WRITER.submit(write_mask, path, labels, volume).add_done_callback(teller.tell)
