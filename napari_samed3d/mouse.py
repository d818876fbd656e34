"""Where the mouse in the 3D view looks along, for the points that it makes there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from qtpy.QtCore import QTimer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from napari.components import ViewerModel


@dataclass(frozen=True)
class Ray:
    """The mouse in the 3D view, in the world: where, along which direction, with which axes on the screen."""

    position: npt.NDArray[np.float64]
    direction: npt.NDArray[np.float64]
    dims_displayed: list[int]

    @classmethod
    def of(cls, event: Any) -> Ray | None:
        """That of a mouse event, for layers of three axes, whatever others the viewer has; None in the 2D view."""
        others = len(event.position) - 3
        shown = [dim - others for dim in event.dims_displayed]
        if len(shown) != 3 or min(shown) < 0:
            return None
        return cls(np.asarray(event.position)[others:], np.asarray(event.view_direction)[others:], shown)


class Mouse:
    """Remembers the ray of the mouse: a point that napari adds or drags in the 3D view is anywhere on it."""

    def __init__(self, viewer: ViewerModel) -> None:
        self._viewer = viewer
        self._ray: Ray | None = None
        viewer.mouse_drag_callbacks.append(self._remember)

    def take_ray(self) -> Ray | None:
        """That of the press that made or moved points just now, if it was in the 3D view; once."""
        ray, self._ray = self._ray, None
        return ray

    def close(self) -> None:
        """Listen no more."""
        self._viewer.mouse_drag_callbacks.remove(self._remember)

    def _remember(self, _viewer: ViewerModel, event: Any) -> Iterator[None]:
        self._ray = ray = Ray.of(event)
        yield
        while event.type == "mouse_move":
            self._ray = ray = Ray.of(event)
            yield
        # After what was added or moved is taken up; what a script adds later was not made by the mouse.
        QTimer.singleShot(0, lambda: QTimer.singleShot(0, lambda: self._forget(ray)))

    def _forget(self, ray: Ray | None) -> None:
        if self._ray is ray:
            self._ray = None
