"""What the window does: clicks to the model thread, masks into the Labels layer, one object after the other.

It knows the viewer and its layers, but no widget; a view listens to `changed` and calls the methods.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from napari.layers.base import ActionType
from napari.qt.threading import create_worker
from napari.utils import progress
from napari.utils.notifications import notification_manager, show_error, show_info, show_warning
from psygnal import Signal
from qtpy.QtCore import QTimer

from backend.errors import SamMed3DError
from backend.inference.canvas import EMPTY_PATCH, MaskPatch
from backend.inference.prompts import History
from backend.io import write_mask
from napari_samed3d.frames import lengths_of
from napari_samed3d.worker import Answer, Failure, ModelChoice, ModelThread, Request
from napari_samed3d.workspace import NEGATIVE, PLACE, POSITIVE, Ray, Workspace, points_layer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import numpy as np
    import numpy.typing as npt
    from napari.components import ViewerModel
    from napari.layers import Image, Points

    from backend.inference.objects import LabelMap
    from backend.volume import Volume


# A click in a window that is known is answered before this; a bar would only flicker.
BAR_DELAY_MS = 300


class Controller:
    """Interactive segmentation in one viewer.

    Args:
        viewer: where the layers are.
        choice: model and device to begin with.
    """

    changed = Signal()
    """Something that a view shows is no longer what it was."""

    def __init__(self, viewer: ViewerModel, choice: ModelChoice) -> None:
        self.viewer = viewer
        self.choice = choice
        self.auto_run = True
        self.extend = True
        self.message = "Choose an image layer."
        self.busy = False
        self.workspace: Workspace | None = None
        self._workspaces: list[Workspace] = []
        self._generation = 0
        self._preparing = False
        self._save_to: Path | None = None
        self._ray: Ray | None = None
        self._showing = False
        self._syncing = False
        self._bar: progress | None = None
        self._bar_timer = QTimer()
        self._bar_timer.setSingleShot(True)
        self._bar_timer.setInterval(BAR_DELAY_MS)
        self._bar_timer.timeout.connect(self._show_bar)
        self._thread = ModelThread()
        self._thread.answered.connect(self._on_answer)
        self._thread.failed.connect(self._on_failure)
        self._thread.loading.connect(self._on_loading)
        viewer.layers.events.removed.connect(self._on_layer_removed)
        viewer.layers.selection.events.active.connect(self._follow_selection)
        viewer.mouse_drag_callbacks.append(self._remember_ray)

    # --- the image and its layers

    def use_image(self, image: Image | None) -> None:
        """Work on that image: with the layers it had before, or with new ones. One that is refused changes nothing."""
        if image is None or (self.workspace is not None and self.workspace.image is image):
            return
        try:
            workspace = next((w for w in self._workspaces if w.image is image), None) or self._open(image)
        except SamMed3DError as error:
            self._report(error)
            return
        self._give_up()
        self.workspace = workspace
        # Later, since napari makes a layer that is just being added the active one.
        QTimer.singleShot(0, self._activate_points)
        self._go_on()
        if workspace.out_of_place():  # moved while no widget was open
            self._follow_image(workspace)
        self._sync_soon()  # clicks may have been added then, too

    def _go_on(self) -> None:
        """With the open object, also one that was left before its answer came."""
        if self.workspace is not None and self.workspace.objects.answered:
            self._say_object()
        else:
            self._prompts_changed()

    def _activate_points(self) -> None:
        """Have the next click fall into one of the Points layers, unless somebody chose to paint."""
        if self.workspace is not None and self.viewer.layers.selection.active not in self.workspace.layers[1:]:
            self.viewer.layers.selection.active = self.workspace.points[POSITIVE]

    def _follow_selection(self) -> None:
        """Who selects a layer of another image that was worked on means that image."""
        active = self.viewer.layers.selection.active
        workspace = next((w for w in self._workspaces if active in w.layers[1:]), None)
        if workspace is not None and workspace is not self.workspace:
            self.use_image(workspace.image)

    def _open(self, image: Image) -> Workspace:
        workspace = Workspace.left_in(self.viewer.layers, image) or Workspace.of(image)
        if workspace.labels not in self.viewer.layers:
            self.viewer.add_layer(workspace.labels)
        for layer in workspace.points.values():
            self._add_points(layer)
        workspace.labels.events.paint.connect(self._on_paint)
        workspace.labels.events.data.connect(self._on_labels_data)
        image.events.data.connect(self._on_image_data)
        for name in PLACE:
            image.events[name].connect(self._on_image_moved)
        self._workspaces.append(workspace)
        return workspace

    def _add_points(self, layer: Points) -> None:
        if layer not in self.viewer.layers:
            self.viewer.add_layer(layer)
        layer.mode = "add"
        layer.events.data.connect(self._on_points)
        for event in (layer.events.mode, layer.events.visible):
            event.connect(self._on_look)

    def _on_image_data(self, event: Any) -> None:
        """The image's voxels were replaced: everything known of it is void."""
        workspace = next(w for w in self._workspaces if w.image is event.source)
        shown, left = workspace is self.workspace, workspace.labels
        self.close_workspace(workspace)
        if shown:
            self.use_image(workspace.image)
        if left in self.viewer.layers:
            show_info(
                f"{workspace.image.name} has other voxels now. Its objects so far are in the layer {left.name!r}."
            )

    def _on_image_moved(self, event: Any) -> None:
        """The image has other voxel sizes or another place: its objects and clicks go with it, and are seen anew."""
        self._follow_image(next(w for w in self._workspaces if w.image is event.source))

    def _follow_image(self, workspace: Workspace) -> None:
        try:
            workspace.follow_image()
        except SamMed3DError as error:
            self._report(error)
            return
        if workspace is self.workspace:
            self._answer_anew()

    def _on_layer_removed(self, event: Any) -> None:
        """Deleted clicks are no longer prompts; without its image or its objects a workspace ends."""
        workspace = next((w for w in self._workspaces if event.value in w.layers), None)
        if workspace is None:
            return
        if event.value in workspace.points.values():
            # Later, since the whole layer list may be on its way out.
            QTimer.singleShot(0, lambda: self._restore_points(workspace))
        else:
            # Later, since a script may move it: take it out and put it back.
            QTimer.singleShot(0, lambda: self._end_without(workspace))

    def _end_without(self, workspace: Workspace) -> None:
        """After the image or its objects were deleted; without its objects an image gets new ones."""
        if workspace in self._workspaces and self._ended(workspace):
            self.close_workspace(workspace)
            if self.workspace is None and workspace.image in self.viewer.layers:
                self.use_image(workspace.image)

    def _ended(self, workspace: Workspace) -> bool:
        return not {workspace.image, workspace.labels} <= set(self.viewer.layers)

    def _on_paint(self, event: Any) -> None:
        """Somebody painted, in whichever object."""
        next(w for w in self._workspaces if w.labels is event.source).objects.painted = True
        QTimer.singleShot(0, self.changed.emit)  # napari tells of it before it is there

    def _on_labels_data(self, event: Any) -> None:
        """The objects' layer was given another array."""
        next(w for w in self._workspaces if w.labels is event.source).keep_array()
        self.changed.emit()

    def _restore_points(self, workspace: Workspace) -> None:
        """Put empty Points layers in the place of deleted ones."""
        if workspace not in self._workspaces or self._ended(workspace):
            return
        for kind, layer in workspace.points.items():
            if layer not in self.viewer.layers:
                workspace.known[kind] = {}
                workspace.points[kind] = points_layer(workspace.image, kind)
                self._add_points(workspace.points[kind])
                self._sync_soon()

    def close_workspace(self, workspace: Workspace) -> None:
        """Let go of an image: its clicks go, its objects stay in their layer, if there are any."""
        self._leave(workspace)
        self._remove_points(workspace)
        if workspace.labels in self.viewer.layers and not workspace.objects.array.any():
            self.viewer.layers.remove(workspace.labels)

    def _leave(self, workspace: Workspace) -> None:
        self._forget(workspace)
        workspace.release()
        shown = self.workspace if self.workspace is not workspace else None
        self._thread.forget_all_but(shown.frame.volume if shown else None)
        if self.workspace is workspace:
            self._give_up()
            self.workspace = None
            self._say("Choose an image layer.")

    def _remove_points(self, workspace: Workspace) -> None:
        for layer in workspace.points.values():
            if layer in self.viewer.layers:
                self.viewer.layers.remove(layer)

    def _forget(self, workspace: Workspace) -> None:
        self._workspaces.remove(workspace)
        workspace.image.events.data.disconnect(self._on_image_data)
        for name in PLACE:
            workspace.image.events[name].disconnect(self._on_image_moved)
        workspace.labels.events.paint.disconnect(self._on_paint)
        workspace.labels.events.data.disconnect(self._on_labels_data)
        for layer in workspace.points.values():
            layer.events.data.disconnect(self._on_points)
            for event in (layer.events.mode, layer.events.visible):
                event.disconnect(self._on_look)

    def close(self) -> None:
        """Let go of the viewer, whose layers stay, and end the model thread."""
        self.viewer.layers.events.removed.disconnect(self._on_layer_removed)
        self.viewer.layers.selection.events.active.disconnect(self._follow_selection)
        self.viewer.mouse_drag_callbacks.remove(self._remember_ray)
        for workspace in tuple(self._workspaces):
            self._forget(workspace)
        self._thread.close()
        self._give_up()
        self.workspace = None
        self.changed.disconnect()

    # --- clicks

    def next_kind(self) -> bool:
        """Whether the next click is positive: the negative layer has to be the active one for it not to be."""
        workspace = self.workspace
        return workspace is None or self.viewer.layers.selection.active is not workspace.points[NEGATIVE]

    def set_next_kind(self, kind: bool) -> None:
        """Make the next click positive or negative."""
        if self.workspace is not None:
            layer = self.workspace.points[kind]
            self.viewer.layers.selection.active = layer
            layer.visible, layer.mode = True, "add"
            self.changed.emit()

    def toggle_kind(self) -> None:
        """Make the next click the other kind; where it would be none at all, one of the kind that is shown."""
        self.set_next_kind(self.next_kind() != self.clicks_count)

    @property
    def clicks_count(self) -> bool:
        """Whether a mouse click falls into one of the Points layers."""
        active = self.viewer.layers.selection.active
        layers = self.workspace.points.values() if self.workspace is not None else ()
        return any(layer is active and layer.visible and layer.mode == "add" for layer in layers)

    def _remember_ray(self, _viewer: ViewerModel, event: Any) -> Iterator[None]:
        """Where the mouse in the 3D view looks along; the point that napari adds or drags there is anywhere on it."""
        self._ray = ray = Ray.of(event)
        yield
        while event.type == "mouse_move":
            self._ray = ray = Ray.of(event)
            yield
        # After what was added or moved is taken up; what a script adds later was not made by the mouse.
        QTimer.singleShot(0, lambda: QTimer.singleShot(0, lambda: self._forget_ray(ray)))

    def _forget_ray(self, ray: Ray | None) -> None:
        if self._ray is ray:
            self._ray = None

    def _on_look(self, _event: Any) -> None:
        self.changed.emit()

    def _on_points(self, event: Any) -> None:
        """Take up what changed in a Points layer; a point that is being dragged, when it is let go."""
        if getattr(event, "action", None) not in (ActionType.ADDING, ActionType.CHANGING, ActionType.REMOVING):
            self._sync_soon()

    def _sync_soon(self) -> None:
        """After napari is done with changing the points; once for a storm."""
        if not self._showing and not self._syncing:
            self._syncing = True
            QTimer.singleShot(0, self._sync)

    def _sync(self) -> None:
        self._syncing = False
        ray, self._ray = self._ray, None
        workspace = self.workspace
        if workspace is None:
            return
        prompts, refused = workspace.read_clicks(ray)
        changed = prompts != workspace.objects.history.prompts
        try:
            if changed:
                self._keep_paint()
                prompts, refused = workspace.read_clicks(ray)
                workspace.objects.history.edit(prompts)
        except SamMed3DError as not_in_this_order:
            refused, changed = [*refused, not_in_this_order], False
        self._show_clicks(workspace)
        if changed:
            self._prompts_changed()
        for error in refused:
            self._report(error)
        units = lengths_of(self.viewer.layers)
        if len(units) > 1 and (changed or refused):
            show_warning(
                f"Layers are in {' and in '.join(sorted(units))}, and napari mistakes where a click is. Give them "
                "one unit: viewer.layers.units = ('mm', 'mm', 'mm')."
            )

    def _show_clicks(self, workspace: Workspace) -> None:
        self._showing = True
        try:
            workspace.show_clicks()
        finally:
            self._showing = False

    # --- asking the model

    def _prompts_changed(self) -> None:
        workspace = self.workspace
        if workspace is None:
            return
        if not workspace.objects.history.prompts:
            self._give_up()
            self._show(EMPTY_PATCH)
            workspace.objects.settle()
            self._say_object()
        elif self.auto_run:
            self.run()
        else:
            self._ask(prepare=True)

    def use_model(self, choice: ModelChoice) -> None:
        """Answer with another model from now on; the open object is computed anew, unless somebody painted its mask."""
        if choice != self.choice:
            self.choice = choice
            self._answer_anew()

    def _answer_anew(self) -> None:
        """The clicks are as they were, but the answer would be another."""
        if self.workspace is not None and self.workspace.objects.history.prompts:
            objects = self.workspace.objects
            painted = objects.answered and objects.repainted
            if not painted:
                self._keep_paint()
            self._ask(prepare=not self.auto_run or painted)

    def run(self) -> None:
        """Compute the open object from its clicks, and what was painted of it."""
        if self.workspace is not None and self.workspace.objects.history.prompts:
            self._keep_paint()
            self._ask()

    def _keep_paint(self) -> None:
        """Make paint in the open object a prompt, unless its answer is still growing, and is all that was painted."""
        if self.workspace is not None and (self._preparing or not self.busy):
            self.workspace.objects.keep_paint()

    def _ask(self, *, prepare: bool = False) -> None:
        workspace = self.workspace
        if workspace is None:
            return
        self._generation += 1
        self._preparing = prepare
        self._set_busy(True)
        prompts = workspace.objects.history.prompts
        self._thread.submit(
            Request(self._generation, self.choice, workspace.frame.volume, prompts, self.extend, prepare)
        )
        self._say("Looking at the image ..." if prepare else "Segmenting ...")

    def cancel(self) -> None:
        """Give up what is being computed; the mask stays as far as it came, and can be accepted so."""
        if self.busy:
            if self.workspace is not None and not self._preparing:
                self.workspace.objects.settle()
            self._give_up()
            self._say("Cancelled.")

    def _give_up(self) -> None:
        self._generation += 1
        self._thread.cancel(self._generation)
        self._set_busy(False)

    def _on_answer(self, answer: Answer) -> None:
        if answer.generation != self._generation:
            return
        if answer.patch is not None:
            self._show(answer.patch)
        if answer.final and answer.windows and self.workspace is not None:
            self.workspace.objects.settle()
        self._set_busy(not answer.final)
        if answer.windows == 0:
            self._say("Ready: press 'run' to segment.")
            return
        windows = f"{answer.windows} windows" if answer.windows > 1 else "one window"
        self._say(f"Object {self.current}: {windows}{'.' if answer.final else ' so far ...'}")

    def _on_failure(self, failure: Failure) -> None:
        if failure.generation == self._generation:
            self._set_busy(False)
            self._report(failure.error)

    def _on_loading(self, generation: int, done: int, total: int | None) -> None:
        if generation == self._generation and self.busy:
            size = f" of {total / 1e6:.0f}" if total else ""
            if self._bar is not None:
                self._bar.total = total or 0
                self._bar.update(done - self._bar.n)
            self._say(f"Downloading the weights: {done / 1e6:.0f}{size} MB")

    # --- objects

    @property
    def current(self) -> int:
        """The label of the open object, 0 if there is no image."""
        return self.workspace.objects.current if self.workspace else 0

    def _show(self, patch: MaskPatch) -> None:
        if self.workspace is not None:
            self.workspace.objects.show(patch)
            self.workspace.labels.refresh()

    def undo(self) -> None:
        """Go back by one click (or one change of a click)."""
        self._edit(History.undo)

    def redo(self) -> None:
        """Go forward by one undone click."""
        self._edit(History.redo)

    def reset(self) -> None:
        """Take all clicks of the open object away; undo brings them back."""
        self._edit(History.clear)

    def _edit(self, change: Callable[[History], None]) -> None:
        """Where nothing changes, neither does the mask."""
        workspace = self.workspace
        if workspace is None:
            return
        self._keep_paint()
        before = workspace.objects.history.prompts
        change(workspace.objects.history)
        if workspace.objects.history.prompts != before:
            self._show_clicks(workspace)
            self._prompts_changed()

    def accept(self) -> None:
        """Keep the open object and begin the next."""
        self._change_object(lambda objects: objects.accept())

    def reopen(self, label: int) -> None:
        """Open another object, with its clicks; this one stays as it is."""
        self._change_object(lambda objects: objects.reopen(label))

    def _change_object(self, change: Callable[[LabelMap], object]) -> None:
        workspace = self.workspace
        if workspace is None:
            return
        try:
            change(workspace.objects)
        except SamMed3DError as error:
            self._report(error)
            return
        self._give_up()
        workspace.labels.refresh()
        workspace.labels.selected_label = workspace.objects.current
        self._show_clicks(workspace)
        self._go_on()

    def save(self, path: Path) -> None:
        """Write all objects on the image's own grid, the open one when its mask is done.

        In a thread, for a large mask takes seconds to compress.
        """
        workspace = self.workspace
        if workspace is None:
            return
        if self.busy and not self._preparing:
            self._save_to = path
            self._say(f"{path.name} is saved when the mask is done ...")
            return
        missing = "" if workspace.objects.answered else f" Object {self.current} lacks what its newest clicks say."
        writer = create_worker(_write, path, workspace.objects.array.copy(), workspace.frame.volume)
        said = f"Saved {path}.{missing}"
        writer.returned.connect(lambda errors: self._report(*errors) if errors else self._say(said))
        writer.start()

    # --- what the person sees

    def _say_object(self) -> None:
        prompts = self.workspace is not None and self.workspace.objects.history.prompts
        self._say(f"Object {self.current}: click to {'correct it' if prompts else 'begin it'}.")

    def _say(self, message: str) -> None:
        self.message = message
        self.changed.emit()

    def _set_busy(self, busy: bool) -> None:
        """Show in napari's activity dock that the model is at work, if it is for long."""
        self.busy = busy
        if busy and self._bar is None:
            self._bar_timer.start()
        elif not busy:
            self._bar_timer.stop()
            if self._bar is not None:
                self._bar.close()
                self._bar = None
        if not busy and self._save_to is not None:
            path, self._save_to = self._save_to, None
            self.save(path)

    def _show_bar(self) -> None:
        self._bar = progress(total=0, desc="SAM-Med3D")

    def _report(self, error: Exception) -> None:
        """Tell the user what to mend; anything that is not theirs to mend is shown as the defect it is."""
        if isinstance(error, SamMed3DError):
            self._say(f"{error.problem} {error.remedy}")
            show_error(str(error))
        else:
            self._say(f"{type(error).__name__}: {error}")
            notification_manager.receive_error(type(error), error, error.__traceback__)


def _write(path: Path, labels: npt.NDArray[np.uint16], volume: Volume) -> list[SamMed3DError]:
    """Write, and hand an error of the user's back: raised in a napari worker it would be shown as a defect."""
    try:
        write_mask(path, labels, volume)
    except SamMed3DError as error:
        return [error]
    return []
