"""A person's hands on a napari window: mouse, keyboard, and eyes for the result."""

from typing import Any

import numpy as np
import numpy.typing as npt
from qtpy.QtCore import QEvent, QPoint, QPointF, Qt
from qtpy.QtGui import QMouseEvent
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QApplication

from backend.inference.canvas import MaskPatch
from backend.phantom import Phantom
from backend.volume import Volume
from napari_samed3d.controller import Controller
from napari_samed3d.reader import volume_layer
from napari_samed3d.worker import Answer, ModelChoice


class Window:
    """A viewer with the widget docked, driven as by a person."""

    def __init__(self, viewer: Any, qtbot: Any) -> None:
        self.viewer = viewer
        self.qtbot = qtbot
        self.widget: Any = None

    @property
    def controller(self) -> Any:
        """The widget's controller."""
        return self.widget.controller

    @property
    def canvas(self) -> Any:
        """napari's canvas; that it is private does not matter to a mouse."""
        return self.viewer.window._qt_viewer.canvas

    def open(self, volume: Volume, name: str = "scan") -> Any:
        """Show a volume as our reader does, dock the widget, and return the image layer."""
        data, kwargs, _ = volume_layer(volume, name)
        image = self.viewer.add_image(data, **kwargs)
        self.dock()
        return image

    def dock(self) -> None:
        """Open the widget from the plugin menu's entry."""
        _, self.widget = self.viewer.window.add_plugin_dock_widget("napari-samed3d", "SAM-Med3D")
        self.viewer.reset_view()
        self.settle()

    def settle(self) -> None:
        """Let Qt do what it has waiting."""
        self.qtbot.wait(50)

    def wait_idle(self, timeout: int = 60_000) -> None:
        """Until the model is done."""
        self.settle()
        self.qtbot.waitUntil(lambda: not self.controller.busy, timeout=timeout)

    def go_to(self, world: npt.ArrayLike) -> None:
        """Show the slices through a point of the world."""
        self.viewer.dims.set_point(range(3), np.asarray(world))
        self.settle()

    def click(self, world: npt.ArrayLike, button: Any = Qt.MouseButton.LeftButton) -> None:
        """Click with the mouse where a point of the world is shown; in 2D on its slice."""
        if self.viewer.dims.ndisplay == 2:
            self.go_to(world)
        position = self.pixel_of(np.asarray(world, dtype=float))
        QTest.mouseMove(self.canvas.native, position)
        self.settle()
        QTest.mouseClick(self.canvas.native, button, pos=position)
        self.settle()

    def drag(self, start: npt.ArrayLike, end: npt.ArrayLike) -> None:
        """Press at one point of the world, move to another in steps with pauses, and let go."""
        first, last = (self.pixel_of(np.asarray(point, dtype=float)) for point in (start, end))
        QTest.mouseMove(self.canvas.native, first)
        self.settle()
        QTest.mousePress(self.canvas.native, Qt.MouseButton.LeftButton, pos=first)
        for step in range(1, 6):
            at = first + (last - first) * step / 5
            held = QMouseEvent(
                QEvent.Type.MouseMove,
                QPointF(at),
                self.canvas.native.mapToGlobal(QPointF(at)),
                Qt.MouseButton.NoButton,
                Qt.MouseButton.LeftButton,
                Qt.KeyboardModifier.NoModifier,
            )
            QApplication.sendEvent(self.canvas.native, held)
            self.settle()
        QTest.mouseRelease(self.canvas.native, Qt.MouseButton.LeftButton, pos=last)
        self.settle()

    def pixel_of(self, world: npt.NDArray[np.float64]) -> QPoint:
        """The canvas pixel at which a point of the world is shown."""
        node = self.canvas.layer_to_visual[self.controller.workspace.image].node
        shown = [dim - (self.viewer.dims.ndim - 3) for dim in self.viewer.dims.displayed]
        data = np.asarray(self.controller.workspace.image.world_to_data(world))[shown][::-1]
        x, y, *_, w = node.get_transform("visual", "canvas").map(data)
        return QPoint(round(x / w), round(y / w))

    def press(self, key: Any, modifier: Any = Qt.KeyboardModifier.NoModifier) -> None:
        """Press a key over the canvas."""
        QTest.keyClick(self.canvas.native, key, modifier)
        self.settle()

    def push(self, name: str) -> None:
        """Push a button of the widget with the mouse."""
        QTest.mouseClick(self.widget.buttons[name].native, Qt.MouseButton.LeftButton)
        self.settle()

    def mask(self, label: int = 1) -> npt.NDArray[np.bool_]:
        """An object on the volume's grid, as the Labels layer shows it."""
        workspace = self.controller.workspace
        assert np.shares_memory(workspace.labels.data, workspace.objects.array)
        return np.asarray(workspace.objects.array == label)


def dice(a: npt.NDArray[np.bool_], b: npt.NDArray[np.bool_]) -> float:
    """Dice overlap of two masks."""
    return float(2 * np.count_nonzero(a & b) / (np.count_nonzero(a) + np.count_nonzero(b)))


def world_of(window: Window, index: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Where in the world a voxel (x, y, z) of the volume is shown."""
    workspace = window.controller.workspace
    return np.asarray(workspace.image.data_to_world(workspace.frame.order.to_viewer(index)))


def segment(window: Window, phantom: Phantom, name: str) -> None:
    """Click into the middle of an organ of the phantom, and wait for the answer."""
    window.click(world_of(window, phantom.middle_of(name)))
    window.wait_idle()


def truth(phantom: Phantom, name: str) -> npt.NDArray[np.bool_]:
    """An organ of the phantom."""
    return np.asarray(phantom.labels == phantom.names.index(name) + 1)


# A model that gives no answer.
MISSING = ModelChoice("/there/is/no.pth", "cpu")
# Some voxels beside all organs.
CORNER = (slice(1, 4), slice(1, 5), slice(1, 6))


def close_dock(window: Window) -> None:
    """Close the widget's dock, as by its cross."""
    window.viewer.window.remove_dock_widget(window.widget)
    window.settle()


def paint(window: Window, box: tuple[slice, slice, slice], label: int) -> None:
    """With the brush, which says where it was."""
    labels = window.controller.workspace.labels
    where = tuple(axis.ravel() for axis in np.mgrid[box])
    labels.data_setitem(where, label)
    labels.events.paint(value=[(where, 0, label)])
    window.settle()


def corner(window: Window) -> int:
    """How many voxels of CORNER are any object's."""
    return int(np.count_nonzero(window.controller.workspace.labels.data[CORNER]))


def asked(window: Window, phantom: Phantom) -> Controller:
    """A window in which a click waits for an answer that never comes by itself."""
    window.open(phantom.volume)
    controller = window.controller
    controller._thread.submit = lambda _: None
    controller.workspace.points[True].add(controller.workspace.frame.order.to_viewer(phantom.middle_of("liver")))
    window.qtbot.waitUntil(lambda: controller.busy)
    return controller


def grown(window: Window, phantom: Phantom) -> tuple[Controller, Answer]:
    """A window in which two parts of an answer came, of 64 voxels both."""
    controller = asked(window, phantom)
    answer = Answer(controller._generation, MaskPatch((3, 30, 30), np.ones((4, 4, 4), dtype=bool)), 1, final=False)
    controller._on_answer(answer)
    controller._on_answer(answer)
    return controller, answer


class error_shown:  # noqa: N801 - reads as a statement
    """Holds that a notification with this text was shown to the user in the block, and swallows it."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __enter__(self) -> None:
        from napari.utils.notifications import notification_manager

        self._manager = notification_manager
        self._before = len(notification_manager.records)

    def __exit__(self, kind: Any, *_: Any) -> None:
        if kind is None:
            messages = [str(record.message) for record in list(self._manager.records)[self._before :]]
            assert any(self._text in message for message in messages), messages
