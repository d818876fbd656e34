"""Pictures of the window: in 2D, in 3D, and an animation of what happens while one clicks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image
from qtpy.QtWidgets import QApplication

from backend.io import write_mask

if TYPE_CHECKING:
    from pathlib import Path

    import napari

    from napari_samed3d.controller import Controller

# Of the 3D picture, in the viewer's world (Inferior, Posterior, Left): from the front and above, head up.
VIEW, UP = (0.8, 1.0, 0.3), (-1.0, 0.0, 0.0)
# Of the animation: pixels across, colours, and how long a frame is shown (ms).
WIDTH, COLOURS = 900, 96
SHORT_MS, LONG_MS = 900, 2000


class Film:
    """Frames of the window, one after another.

    Args:
        viewer: whose window it is.
    """

    def __init__(self, viewer: napari.Viewer) -> None:
        self._viewer = viewer
        self._frames: list[Image.Image] = []
        self._durations: list[int] = []

    def take(self, *, longer: bool = False) -> None:
        """Add the window as it looks now."""
        QApplication.processEvents()
        frame = Image.fromarray(self._viewer.screenshot(canvas_only=False, flash=False)).convert("RGB")
        self._frames.append(frame.resize((WIDTH, round(WIDTH * frame.height / frame.width))))
        self._durations.append(LONG_MS if longer else SHORT_MS)

    def save(self, path: Path) -> None:
        """Write a GIF that starts again when it ends."""
        # One palette for all: else the window seems to flicker.
        palette = self._frames[-1].quantize(COLOURS)
        first, *others = (frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in self._frames)
        first.save(path, save_all=True, append_images=others, duration=self._durations, loop=0)


def leave_pictures(viewer: napari.Viewer, controller: Controller, film: Film, folder: Path) -> None:
    """The film, 2D and 3D screenshots, and the mask, as files in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    film.save(folder / "clicks.gif")
    print(f"animation: {folder / 'clicks.gif'}")
    for name, dimensions in (("window-2d.png", 2), ("window-3d.png", 3)):
        viewer.dims.ndisplay = dimensions
        viewer.reset_view()
        if dimensions == 3:
            viewer.layers[0].reset_contrast_limits()  # else bones are one white block in a projection
            viewer.scene.camera.set_view_direction(VIEW, UP)
        QApplication.processEvents()
        viewer.screenshot(str(folder / name), canvas_only=False, flash=False)
        print(f"picture: {folder / name}")
    workspace = controller.workspace
    if workspace is not None:
        write_mask(folder / "mask.nii.gz", workspace.objects.array, workspace.frame.volume)
        print(f"mask: {folder / 'mask.nii.gz'}, {int(np.count_nonzero(workspace.objects.array))} voxels")
