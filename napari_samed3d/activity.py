"""napari's activity dock: that the model is at work, if it is for long, and how far a download is."""

from napari.utils import progress
from qtpy.QtCore import QTimer

# A click in a window that is known is answered before this; a bar would only flicker.
DELAY_MS = 300


class Activity:
    """A bar that comes a while after `begin`, and goes with `end`."""

    def __init__(self) -> None:
        self._bar: progress | None = None
        self._wanted = self._making = False
        self.timer = QTimer()
        self.timer.setSingleShot(True)
        self.timer.setInterval(DELAY_MS)
        self.timer.timeout.connect(self._show)

    def begin(self) -> None:
        """Work begins, or goes on."""
        self._wanted = True
        if self._bar is None:
            self.timer.start()

    def tell(self, done: int, total: int | None) -> None:
        """So much of something is done, of so much if that is known."""
        if self._bar is not None:
            self._bar.total = total or 0
            self._bar.update(done - self._bar.n)

    def end(self) -> None:
        """Work is done."""
        self._wanted = False
        self.timer.stop()
        bar, self._bar = self._bar, None
        if bar is not None:
            bar.close()

    def _show(self) -> None:
        if self._making or self._bar is not None:
            return
        self._making = True
        try:
            bar = progress(total=0, desc="SAM-Med3D")  # lets events in: the work may have ended when it is made
        finally:
            self._making = False
        if self._wanted:
            self._bar = bar
        else:
            bar.close()
