"""The images of a viewer that are worked on: opened with their layers, heard, and let go of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers.base import ActionType
from napari.utils.notifications import show_info
from psygnal import Signal
from qtpy.QtCore import QTimer

from napari_samed3d.workspace import PLACE, POSITIVE, Workspace, points_layer

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Image, Labels, Layer, Points


class Workspaces:
    """Those of one viewer.

    Args:
        viewer: where the layers are.
    """

    points_changed = Signal()
    """Some Points layer has other points; of one that is dragged, when it is let go."""
    looks_changed = Signal()
    """Somebody painted, or a Points layer is shown or used in another way."""
    moved = Signal(Workspace)
    """Its image has another voxel size or place."""
    closed = Signal(Workspace)
    """It was let go of: its image or its objects were deleted, or the image has other voxels."""

    def __init__(self, viewer: ViewerModel) -> None:
        self._viewer = viewer
        self._open: list[Workspace] = []
        viewer.layers.events.removed.connect(self._on_layer_removed)

    def of(self, image: Image) -> Workspace:
        """That of an image: with the layers it had before, or with new ones.

        Raises:
            SamMed3DError: the layer is not a volume.
        """
        return next((w for w in self._open if w.image is image), None) or self._begin(image)

    def shown_by(self, layer: Layer | None) -> Workspace | None:
        """The one whose objects or clicks a layer shows."""
        return next((w for w in self._open if layer in w.layers[1:]), None)

    def end(self) -> None:
        """Let go of the viewer, whose layers stay."""
        self._viewer.layers.events.removed.disconnect(self._on_layer_removed)
        for workspace in tuple(self._open):
            self._forget(workspace)

    def _begin(self, image: Image) -> Workspace:
        workspace = Workspace.left_in(self._viewer.layers, image) or Workspace.of(image)
        if workspace.labels not in self._viewer.layers:
            self._viewer.add_layer(workspace.labels)
        if not set(workspace.points.values()) <= set(self._viewer.layers):
            self._add_all_points(workspace)
        for layer in workspace.points.values():
            self._hear_points(layer)
        workspace.labels.events.paint.connect(self._on_paint)
        workspace.labels.events.mode.connect(self._on_labels_mode)
        workspace.labels.events.data.connect(self._on_labels_data)
        image.events.data.connect(self._on_image_data)
        for name in PLACE:
            image.events[name].connect(self._on_image_moved)
        self._open.append(workspace)
        return workspace

    def _add_all_points(self, workspace: Workspace) -> None:
        """Those that lack; the next click is a positive one, whichever of them came last."""
        for layer in workspace.points.values():
            if layer not in self._viewer.layers:
                self._viewer.add_layer(layer)
        self._viewer.layers.selection.active = workspace.points[POSITIVE]

    def _hear_points(self, layer: Points) -> None:
        layer.mode = "add"
        layer.events.data.connect(self._on_points)
        for event in (layer.events.mode, layer.events.visible):
            event.connect(self._on_look)

    def _forget(self, workspace: Workspace) -> None:
        self._open.remove(workspace)
        workspace.image.events.data.disconnect(self._on_image_data)
        for name in PLACE:
            workspace.image.events[name].disconnect(self._on_image_moved)
        workspace.labels.events.paint.disconnect(self._on_paint)
        workspace.labels.events.mode.disconnect(self._on_labels_mode)
        workspace.labels.events.data.disconnect(self._on_labels_data)
        for layer in workspace.points.values():
            layer.events.data.disconnect(self._on_points)
            for event in (layer.events.mode, layer.events.visible):
                event.disconnect(self._on_look)

    def _close(self, workspace: Workspace) -> None:
        """Let go of an image: its clicks go, its objects stay in their layer, if there are any."""
        self._forget(workspace)
        workspace.release()
        for layer in workspace.points.values():
            if layer in self._viewer.layers:
                self._viewer.layers.remove(layer)
        if workspace.labels in self._viewer.layers and not workspace.objects.array.any():
            self._viewer.layers.remove(workspace.labels)
        self.closed.emit(workspace)

    def _showing(self, labels: Labels) -> Workspace:
        """The one whose objects that layer shows."""
        return next(w for w in self._open if w.labels is labels)

    # --- what layers tell

    def _on_points(self, event: Any) -> None:
        if getattr(event, "action", None) not in (ActionType.ADDING, ActionType.CHANGING, ActionType.REMOVING):
            self.points_changed.emit()

    def _on_look(self, _event: Any) -> None:
        self.looks_changed.emit()

    def _on_paint(self, event: Any) -> None:
        """Somebody painted, in whichever object."""
        objects = self._showing(event.source).objects
        objects.painted = True
        objects.adopt(np.array([event.source.selected_label]))
        QTimer.singleShot(0, self.looks_changed.emit)  # napari tells of it before it is there

    def _on_labels_mode(self, event: Any) -> None:
        """With a brush in hand: napari tells of a stroke only when the mouse is let go."""
        if event.mode not in ("pan_zoom", "transform", "pick"):
            self._showing(event.source).objects.painted = True

    def _on_labels_data(self, event: Any) -> None:
        """The objects' layer was given another array."""
        self._showing(event.source).keep_array()
        self.looks_changed.emit()

    def _on_image_data(self, event: Any) -> None:
        """The image's voxels were replaced: everything known of it is void."""
        workspace = next(w for w in self._open if w.image is event.source)
        self._close(workspace)
        left = workspace.labels
        if left in self._viewer.layers:
            show_info(
                f"{workspace.image.name} has other voxels now. Its objects so far are in the layer {left.name!r}."
            )

    def _on_image_moved(self, event: Any) -> None:
        self.moved.emit(next(w for w in self._open if w.image is event.source))

    def _on_layer_removed(self, event: Any) -> None:
        """Deleted clicks are no longer prompts; without its image or its objects a workspace ends."""
        workspace = next((w for w in self._open if event.value in w.layers), None)
        if workspace is None:
            return
        if event.value in workspace.points.values():
            # Later, since the whole layer list may be on its way out.
            QTimer.singleShot(0, lambda: self._restore_points(workspace))
        else:
            # Later, since a script may move it: take it out and put it back.
            QTimer.singleShot(0, lambda: self._close_without(workspace))

    def _restore_points(self, workspace: Workspace) -> None:
        """Put empty Points layers in the place of deleted ones."""
        if workspace not in self._open or self._lacks_layers(workspace):
            return
        for kind, layer in workspace.points.items():
            if layer not in self._viewer.layers:
                workspace.known[kind] = {}
                workspace.points[kind] = points_layer(workspace.image, kind)
                self._hear_points(workspace.points[kind])
        self._add_all_points(workspace)
        self.points_changed.emit()
        self.looks_changed.emit()

    def _close_without(self, workspace: Workspace) -> None:
        """After the image or its objects were deleted."""
        if workspace in self._open and self._lacks_layers(workspace):
            self._close(workspace)

    def _lacks_layers(self, workspace: Workspace) -> bool:
        return not {workspace.image, workspace.labels} <= set(self._viewer.layers)
