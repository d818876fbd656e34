"""A first look: `python -m napari_samed3d.demo` opens napari with a volume, the widget and a first click.

With `--screenshot FOLDER` it leaves pictures of the window there, in 2D, in 3D and as an animation of the clicks, and
the mask, and ends.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import napari
from qtpy.QtWidgets import QApplication

from backend.phantom import torso
from napari_samed3d.controller import Controller
from napari_samed3d.pictures import Film, leave_pictures
from napari_samed3d.reader import read_volumes, volume_layer
from napari_samed3d.workspace import NEGATIVE, POSITIVE

if TYPE_CHECKING:
    from napari_samed3d.widget import SegmentWidget

Index = tuple[int, int, int]

PATIENCE_S = 300


def parser() -> argparse.ArgumentParser:
    """The command line's options."""
    out = argparse.ArgumentParser(prog="python -m napari_samed3d.demo", description=__doc__)
    out.add_argument("image", nargs="?", type=Path, help="a volume; without one, a synthetic torso")
    axes = ("I", "J", "K")
    out.add_argument("--point", nargs=3, type=int, metavar=axes, help="where to click, as a voxel index")
    told = "where to click next: within the mask it means not this, else this too; repeatable"
    out.add_argument("--correct", nargs=3, type=int, metavar=axes, action="append", default=[], help=told)
    out.add_argument("--screenshot", type=Path, metavar="FOLDER", help="leave pictures and the mask here, and end")
    return out


def open_window(options: argparse.Namespace) -> tuple[napari.Viewer, SegmentWidget, Index]:
    """The viewer with the volume and the docked widget, and where the first click should go."""
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
    return viewer, widget, (point[0], point[1], point[2])


def click(viewer: napari.Viewer, controller: Controller, index: Index) -> None:
    """A click at a voxel, as if made with the mouse, and the slices through it; a negative one within the mask."""
    workspace = controller.workspace
    if workspace is None:
        raise SystemExit(controller.message)
    shown = workspace.frame.order.to_viewer(index)
    viewer.dims.set_point(range(3), workspace.image.data_to_world(shown))
    within = workspace.objects.array[index] != 0
    workspace.points[NEGATIVE if within else POSITIVE].add(shown)


def wait(controller: Controller) -> None:
    """Until the click is answered."""
    end = time.monotonic() + PATIENCE_S
    QApplication.processEvents()
    while controller.busy and time.monotonic() < end:
        QApplication.processEvents()
        time.sleep(0.01)


def clicks(viewer: napari.Viewer, controller: Controller, places: list[Index]) -> Iterator[str]:
    """Make clicks and wait for their answers, telling of each moment that is worth a picture."""
    yield "before"
    for place in places:
        click(viewer, controller, place)
        yield "clicked"
        wait(controller)
        print(controller.message)
        yield "answered"


def main() -> int:
    """The command."""
    options = parser().parse_args()
    viewer, widget, point = open_window(options)
    places = [point, *((i, j, k) for i, j, k in options.correct)]
    if options.screenshot is None:
        for place in places:
            click(viewer, widget.controller, place)
            wait(widget.controller)
        napari.run()
        return 0
    film = Film(viewer)
    for moment in clicks(viewer, widget.controller, places):
        film.take(longer=moment == "answered")
    leave_pictures(viewer, widget.controller, film, options.screenshot)
    viewer.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
