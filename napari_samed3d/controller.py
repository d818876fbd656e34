"""What the window does: clicks to the model thread, masks into the Labels layer, one object after the other.

It knows the viewer and its layers, but no widget; a view listens to `changed` and calls the methods.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari.utils.notifications import notification_manager, show_error, show_warning
from psygnal import Signal
from qtpy.QtCore import QTimer

from backend.errors import SamMed3DError
from backend.inference.canvas import EMPTY_PATCH, MaskPatch
from backend.inference.prompts import History
from napari_samed3d.activity import Activity
from napari_samed3d.frames import lengths_of
from napari_samed3d.mouse import Mouse
from napari_samed3d.saving import save_in_background
from napari_samed3d.worker import Answer, Failure, ModelChoice, ModelThread, Request
from napari_samed3d.workspace import NEGATIVE, POSITIVE
from napari_samed3d.workspaces import Workspaces

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from napari.components import ViewerModel
    from napari.layers import Image

    from backend.inference.objects import LabelMap
    from napari_samed3d.workspace import Workspace


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
        self._workspaces = Workspaces(viewer)
        self._workspaces.points_changed.connect(self._sync_soon)
        self._workspaces.looks_changed.connect(self.changed.emit)
        self._workspaces.moved.connect(self._follow_image)
        self._workspaces.closed.connect(self._on_closed)
        self._mouse = Mouse(viewer)
        self._generation = 0
        self._preparing = False
        self._growing = False  # a part of the answer is shown, and more follows
        self._to_save: list[Path] = []
        self._showing = False
        self._syncing = False
        self._activity = Activity()
        self._thread = ModelThread()
        self._thread.answered.connect(self._on_answer)
        self._thread.failed.connect(self._on_failure)
        self._thread.loading.connect(self._on_loading)
        viewer.layers.selection.events.active.connect(self._follow_selection)

    # --- the image and its layers

    def use_image(self, image: Image | None) -> None:
        """Work on that image: with the layers it had before, or with new ones. One that is refused changes nothing."""
        if image is None or (self.workspace is not None and self.workspace.image is image):
            return
        try:
            workspace = self._workspaces.of(image)
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
        workspace = self._workspaces.shown_by(self.viewer.layers.selection.active)
        if workspace is not None and workspace is not self.workspace:
            self.use_image(workspace.image)

    def _follow_image(self, workspace: Workspace) -> None:
        """The image has other voxel sizes or another place: its objects and clicks go with it, and are seen anew."""
        try:
            workspace.follow_image()
        except SamMed3DError as error:
            self._report(error)
            return
        if workspace is self.workspace:
            self._answer_anew()

    def _on_closed(self, workspace: Workspace) -> None:
        """An image that still is there, but without its objects, gets new ones."""
        shown = self.workspace if self.workspace is not workspace else None
        self._thread.forget_all_but(shown.frame.volume if shown else None)
        if self.workspace is workspace:
            self._give_up()
            self.workspace = None
            self._say("Choose an image layer.")
            if workspace.image in self.viewer.layers:
                self.use_image(workspace.image)

    def close(self) -> None:
        """Let go of the viewer, whose layers stay, and end the model thread."""
        self.viewer.layers.selection.events.active.disconnect(self._follow_selection)
        self._mouse.close()
        self._workspaces.end()
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

    def _sync_soon(self) -> None:
        """After napari is done with changing the points; once for a storm."""
        if not self._showing and not self._syncing:
            self._syncing = True
            QTimer.singleShot(0, self._sync)

    def _sync(self) -> None:
        self._syncing = False
        ray = self._mouse.take_ray()
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
        """Make paint in the open object a prompt; on a mask that is still growing it ends the growth."""
        if self.workspace is None or (self._growing and not self.workspace.objects.repainted):
            return
        if self._growing:
            self.cancel()  # the mask that was painted on is as far as it came
        self.workspace.objects.keep_paint()

    def _ask(self, *, prepare: bool = False) -> None:
        workspace = self.workspace
        if workspace is None:
            return
        self._generation += 1
        self._preparing, self._growing = prepare, False
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
            if self._heed_paint():
                return
            self._show(answer.patch)
            self._growing = True
        if answer.final and answer.windows and self.workspace is not None:
            self.workspace.objects.settle()
        self._set_busy(not answer.final)
        if answer.windows == 0:
            self._say("Ready: press 'run' to segment.")
            return
        windows = f"{answer.windows} windows" if answer.windows > 1 else "one window"
        self._say(f"Object {self.current}: {windows}{'.' if answer.final else ' so far ...'}")

    def _heed_paint(self) -> bool:
        """Whether somebody painted in the open object since it was asked for, so that this answer would overwrite it.

        A mask that has begun to grow stays as it is then; else the answer is asked for anew, with the paint.
        """
        if self.workspace is None or not self.workspace.objects.repainted:
            return False
        if self._growing:
            self.cancel()
            self._say(f"Object {self.current} stays as it was painted.")
        else:
            self.run()
        return True

    def _on_failure(self, failure: Failure) -> None:
        if failure.generation == self._generation:
            if self._growing and self.workspace is not None:
                self.workspace.objects.settle()  # as after `cancel`: it can be accepted as far as it came
            self._set_busy(False)
            self._report(failure.error)

    def _on_loading(self, generation: int, done: int, total: int | None) -> None:
        if generation == self._generation and self.busy:
            size = f" of {total / 1e6:.0f}" if total else ""
            self._say(f"Downloading the weights: {done / 1e6:.0f}{size} MB")
            self._activity.tell(done, total)  # lets events in, which may end it

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
        self.changed.emit()  # also where paint took the place of what could be redone

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
        workspace.forget_strokes()
        workspace.labels.refresh()
        workspace.labels.selected_label = workspace.objects.current
        self._show_clicks(workspace)
        self._go_on()

    def save(self, path: Path) -> None:
        """Write all objects on the image's own grid, the open one when its mask is done."""
        workspace = self.workspace
        if workspace is None:
            return
        if self.busy and not self._preparing:
            self._to_save = [*(other for other in self._to_save if other != path), path]
            self._say(f"{path.name} is saved when the mask is done ...")
            return
        missing = "".join(f" Object {n} lacks what its newest clicks say." for n in workspace.objects.unanswered)
        save_in_background(
            path,
            workspace.objects.array.copy(),
            workspace.frame.volume,
            lambda error: self._say(f"Saved {path}.{missing}") if error is None else self._report(error),
        )

    # --- what the person sees

    def _say_object(self) -> None:
        prompts = self.workspace is not None and self.workspace.objects.history.prompts
        self._say(f"Object {self.current}: click to {'correct it' if prompts else 'begin it'}.")

    def _say(self, message: str) -> None:
        self.message = message
        self.changed.emit()

    def _set_busy(self, busy: bool) -> None:
        """Show that the model is at work; what was to be saved waits until it is not."""
        self.busy = busy
        self._growing = self._growing and busy
        if busy:
            self._activity.begin()
        else:
            self._activity.end()
        if not busy:
            paths, self._to_save = self._to_save, []
            for path in paths:
                self.save(path)

    def _report(self, error: Exception) -> None:
        """Tell the user what to mend; anything that is not theirs to mend is shown as the defect it is."""
        if isinstance(error, SamMed3DError):
            self._say(f"{error.problem} {error.remedy}")
            show_error(str(error))
        else:
            self._say(f"{type(error).__name__}: {error}")
            notification_manager.receive_error(type(error), error, error.__traceback__)
