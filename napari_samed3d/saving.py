"""Writing masks in a thread: a large one takes seconds to compress."""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari.qt.threading import create_worker

from backend.errors import SamMed3DError
from backend.io import write_mask

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import numpy as np
    import numpy.typing as npt

    from backend.volume import Volume


def save_in_background(
    path: Path, labels: npt.NDArray[np.uint16], volume: Volume, done: Callable[[SamMed3DError | None], None]
) -> None:
    """Write labels (x, y, z), which nobody changes any more, on a volume's grid; then `done` hears what went wrong."""
    writer = create_worker(_write, path, labels, volume)
    writer.returned.connect(lambda errors: done(*errors))
    writer.start()


def _write(path: Path, labels: npt.NDArray[np.uint16], volume: Volume) -> list[SamMed3DError | None]:
    """Write, and hand an error of the user's back: raised in a napari worker it would be shown as a defect."""
    try:
        write_mask(path, labels, volume)
    except SamMed3DError as error:
        return [error]
    return [None]
