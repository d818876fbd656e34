"""A first look: `python -m napari_samed3d.demo` opens napari with a volume, the widget and a first click.

With `--screenshot FOLDER` it leaves pictures of the window there, in 2D, in 3D and as an animation of the clicks, and
the mask, and ends.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import napari
from qtpy.QtWidgets import QApplication

from backend.cli import exit_status
from backend.inference.prompts import Click, check_prompt
from backend.phantom import torso
from backend.volume import Volume
from napari_samed3d.controller import Controller
from napari_samed3d.pictures import Film, leave_pictures
from napari_samed3d.reader import read_volumes, volume_layer
from napari_samed3d.workspace import NEGATIVE, POSITIVE, Workspace

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


def open_window(image: Path | None) -> tuple[napari.Viewer, Controller, Workspace]:
    """The viewer with the volume and the docked widget, and what these work on."""
    viewer = napari.Viewer(title="SAM-Med3D in napari")
    viewer.window.resize(1400, 900)
    data, kwargs, _ = volume_layer(torso().volume, "phantom") if image is None else read_volumes(str(image))[0]
    viewer.add_image(data, **kwargs)
    _, widget = viewer.window.add_plugin_dock_widget("napari-samed3d", "SAM-Med3D")
    viewer.reset_view()
    if widget.controller.workspace is None:
        raise SystemExit(widget.controller.message)
    return viewer, widget.controller, widget.controller.workspace


def places_of(options: argparse.Namespace, volume: Volume) -> list[Index]:
    """Where to click: as told, or else first into the torso's liver, or the middle of a volume.

    Raises:
        SamMed3DError: a place is not in the volume.
    """
    middle = torso().middle_of("liver") if options.image is None else tuple(n // 2 for n in volume.shape)
    places = [(i, j, k) for i, j, k in (options.point or middle, *options.correct)]
    for place in places:
        check_prompt(volume, Click(place))
    return places


def click(viewer: napari.Viewer, workspace: Workspace, index: Index) -> None:
    """A click at a voxel, as if made with the mouse, and the slices through it; a negative one within the mask."""
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


def clicks(viewer: napari.Viewer, controller: Controller, workspace: Workspace, places: list[Index]) -> Iterator[str]:
    """Make clicks and wait for their answers, telling of each moment that is worth a picture."""
    yield "before"
    for place in places:
        click(viewer, workspace, place)
        yield "clicked"
        wait(controller)
        print(controller.message)
        yield "answered"


def run(options: argparse.Namespace) -> None:
    """Open, click, and leave pictures or stay."""
    viewer, controller, workspace = open_window(options.image)
    moments = clicks(viewer, controller, workspace, places_of(options, workspace.frame.volume))
    if options.screenshot is None:
        deque(moments, maxlen=0)  # makes the clicks
        napari.run()
        return
    film = Film(viewer)
    for moment in moments:
        film.take(longer=moment == "answered")
    leave_pictures(viewer, controller, film, options.screenshot)
    viewer.close()


def main() -> int:
    """The command."""
    return exit_status(run, parser().parse_args())


if __name__ == "__main__":
    sys.exit(main())
