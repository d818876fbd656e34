"""A first look: `python -m napari_samed3d.demo` opens napari with a volume, the widget and a first click.

With `--screenshot FOLDER` it leaves pictures of the window in 2D and 3D and the mask there, and ends.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import napari
import numpy as np
from qtpy.QtWidgets import QApplication

from backend.io import write_mask
from backend.phantom import torso
from napari_samed3d.controller import Controller
from napari_samed3d.reader import read_volumes, volume_layer
from napari_samed3d.workspace import POSITIVE

if TYPE_CHECKING:
    from napari_samed3d.widget import SegmentWidget

PATIENCE_S = 300
# Of the 3D picture, in the viewer's world (Inferior, Posterior, Left): from the front and above, head up.
VIEW, UP = (0.8, 1.0, 0.3), (-1.0, 0.0, 0.0)


def parser() -> argparse.ArgumentParser:
    """The command line's options."""
    out = argparse.ArgumentParser(prog="python -m napari_samed3d.demo", description=__doc__)
    out.add_argument("image", nargs="?", type=Path, help="a volume; without one, a synthetic torso")
    out.add_argument("--point", nargs=3, type=int, metavar=("I", "J", "K"), help="where to click, as a voxel index")
    out.add_argument("--screenshot", type=Path, metavar="FOLDER", help="leave pictures and the mask here, and end")
    return out


def open_window(options: argparse.Namespace) -> tuple[napari.Viewer, SegmentWidget]:
    """The viewer with the volume and the docked widget, one click made."""
    viewer = napari.Viewer(title="SAM-Med3D in napari")
    viewer.window.resize(1400, 900)
    if options.image is None:
        phantom = torso()
        data, kwargs, _ = volume_layer(phantom.volume, "phantom")
        point = options.point or phantom.middle_of("liver")
    else:
        data, kwargs, _ = read_volumes(str(options.image))[0]
        point = options.point or [n // 2 for n in data.shape[::-1]]
    viewer.add_image(data, **kwargs)
    _, widget = viewer.window.add_plugin_dock_widget("napari-samed3d", "SAM-Med3D")
    viewer.reset_view()
    click(viewer, widget.controller, point)
    return viewer, widget


def click(viewer: napari.Viewer, controller: Controller, index: tuple[int, int, int]) -> None:
    """A positive click at a voxel, as if made with the mouse, and the slices through it."""
    workspace = controller.workspace
    if workspace is None:
        raise SystemExit(controller.message)
    shown = workspace.frame.order.to_viewer(index)
    viewer.dims.set_point(range(3), workspace.image.data_to_world(shown))
    workspace.points[POSITIVE].add(shown)


def wait(controller: Controller) -> None:
    """Until the click is answered."""
    end = time.monotonic() + PATIENCE_S
    QApplication.processEvents()
    while controller.busy and time.monotonic() < end:
        QApplication.processEvents()
        time.sleep(0.01)


def leave_pictures(viewer: napari.Viewer, widget: SegmentWidget, folder: Path) -> None:
    """2D and 3D screenshots and the mask."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, dimensions in (("window-2d.png", 2), ("window-3d.png", 3)):
        viewer.dims.ndisplay = dimensions
        viewer.reset_view()
        if dimensions == 3:
            viewer.layers[0].reset_contrast_limits()  # else bones are one white block in a projection
            viewer.scene.camera.set_view_direction(VIEW, UP)
        QApplication.processEvents()
        viewer.screenshot(str(folder / name), canvas_only=False, flash=False)
        print(f"picture: {folder / name}")
    workspace = widget.controller.workspace
    if workspace is not None:
        write_mask(folder / "mask.nii.gz", workspace.objects.array, workspace.frame.volume)
        print(f"mask: {folder / 'mask.nii.gz'}, {int(np.count_nonzero(workspace.objects.array))} voxels")


def main() -> int:
    """The command."""
    options = parser().parse_args()
    viewer, widget = open_window(options)
    if options.screenshot is None:
        napari.run()
        return 0
    wait(widget.controller)
    print(widget.controller.message)
    leave_pictures(viewer, widget, options.screenshot)
    viewer.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
