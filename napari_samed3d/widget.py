"""The dock widget: what the controller knows, shown, and what the person wants, passed on."""

from __future__ import annotations

import re
from contextlib import ExitStack, suppress
from math import floor, log10
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from magicgui.widgets import (
    CheckBox,
    ComboBox,
    Container,
    FileEdit,
    FloatSlider,
    Label,
    PushButton,
    RadioButtons,
)
from napari.layers import Image
from qtpy.QtCore import QEvent
from qtpy.QtWidgets import QApplication, QFileDialog, QMessageBox, QRadioButton, QSizePolicy, QVBoxLayout, QWidget

from backend.inference.loading import model_names
from backend.models import zoo
from napari_samed3d import texts
from napari_samed3d.controller import Controller
from napari_samed3d.frames import is_volume
from napari_samed3d.picking import intensity_range
from napari_samed3d.settings import segment_settings
from napari_samed3d.worker import ModelChoice
from napari_samed3d.workspace import NEGATIVE, POSITIVE, Workspace

if TYPE_CHECKING:
    import napari

FROM_FILE = "from a file ..."
DEVICES = ("auto", "cpu", "cuda", "mps")
# A slider counts in millionths: smaller intensities are shown in a unit of their own.
LEAST_SPAN = 0.01
KINDS = {"positive": POSITIVE, "negative": NEGATIVE}
SAVE_FILTER = "NIfTI (*.nii.gz *.nii);;NRRD (*.nrrd);;MetaImage (*.mha);;OME-TIFF (*.ome.tif)"


# Those that work on a viewer.
_OPEN: WeakSet[SegmentWidget] = WeakSet()


class SegmentWidget(QWidget):
    """Segment by clicks in the image layers of a viewer.

    Args:
        napari_viewer: given by napari.
    """

    def __init__(self, napari_viewer: napari.Viewer) -> None:
        super().__init__()
        # napari hands plugins a proxy, whose layers are proxies too; to tell layers apart takes the real ones.
        napari_viewer = getattr(napari_viewer, "__wrapped__", napari_viewer)
        self._viewer = napari_viewer
        self._settings = segment_settings()
        self.controller = Controller(napari_viewer, ModelChoice(self._settings.model, self._settings.device))
        self.controller.auto_run = self._settings.auto_run
        self.controller.extend = self._settings.extend
        self._take_over(napari_viewer)
        self._ends = ExitStack()  # what to undo when this widget goes
        self._ranged: Workspace | None = None  # the one of the image whose intensities the slider spans
        self._unit = 1.0  # of the slider, in intensities
        self._make_fields()
        self._make_buttons()
        fields = [getattr(self, name) for name in texts.TOOLTIPS]
        form = Container[Any](widgets=[*fields, *self._rows, self.status], labels=True)
        self.setLayout(QVBoxLayout())
        self.layout().addWidget(form.native)
        self._connect()
        self._bind_keys()
        self.controller.changed.connect(self._refresh)
        self._hear_viewer(napari_viewer)
        # Whatever comes first: the dock is closed, which only takes the widget out of it, or the window is, or napari
        # ends, which deletes the window last, when nothing can be saved any more.
        self._ends.callback(self.controller.close)
        application = QApplication.instance()
        application.aboutToQuit.connect(self._ends.close)
        self._ends.callback(application.aboutToQuit.disconnect, self._ends.close)
        self.destroyed.connect(lambda: _close_late(self._ends))
        self._choose_first_image()
        self._refresh()

    def _take_over(self, viewer: napari.Viewer) -> None:
        """Close another of these in the same viewer: two would answer the same clicks."""
        for other in [widget for widget in _OPEN if widget._viewer is viewer]:
            other.end()
            with suppress(LookupError):  # it is in no dock
                viewer.window.remove_dock_widget(other)
        _OPEN.add(self)

    def end(self) -> None:
        """Let go of the viewer, and say so in what is left to see."""
        self._ends.close()
        _OPEN.discard(self)
        self.status.value = texts.CLOSED
        self.setEnabled(False)

    def event(self, event: QEvent) -> bool:
        """Let go of the viewer when the dock is closed (Qt)."""
        if event.type() == QEvent.Type.ParentChange and self.parent() is None and self in _OPEN:
            self.end()
        return bool(super().event(event))

    def _hear_viewer(self, viewer: napari.Viewer) -> None:
        for event, callback in (
            (viewer.layers.events.inserted, self._on_layers),
            (viewer.layers.events.removed, self._on_layers),
            (viewer.layers.events.renamed, self._on_layers),
            (viewer.layers.selection.events.active, self._refresh),
        ):
            event.connect(callback)
            self._ends.callback(event.disconnect, callback)

    def _on_layers(self, event: Any) -> None:
        """Offer the images that there are, by their names now, and stay with the one that is worked on.

        Where there is none take the first that is a volume; one that is not is told of when it is opened.
        """
        workspace = self.controller.workspace
        with self.image.changed.blocked():
            self.image.reset_choices()
            if workspace is not None and workspace.image in self.image.choices:
                self.image.value = workspace.image
                return
            if not isinstance(getattr(event, "value", None), Image):  # the layers that an image is given, or a name
                return
            volume = next(filter(is_volume, self.image.choices), event.value if event.type == "inserted" else None)
            if volume is not None:
                self.image.value = volume
        self.controller.use_image(volume)

    def _make_fields(self) -> None:
        self.image = ComboBox(label="image", choices=self._images)
        known = self._settings.model in model_names()
        self.model = ComboBox(
            label="model", choices=(*model_names(), FROM_FILE), value=self._settings.model if known else FROM_FILE
        )
        self.weights = FileEdit(label="weights", filter="*.pth *.pt *.safetensors", visible=not known)
        if not known:
            self.weights.value = self._settings.model
        self.device = ComboBox(label="device", choices=DEVICES, value=self._settings.device)
        self.auto_run = CheckBox(text="segment at every click", value=self._settings.auto_run)
        self.follow = CheckBox(text="fit the window to the object", value=self._settings.extend)
        self.threshold = FloatSlider(label=texts.THRESHOLD, min=0, max=1)
        self.kind = RadioButtons(label="next click", choices=tuple(KINDS), orientation="horizontal")
        self.objects = ComboBox(label="object", choices=())
        self.status = Label(value="")
        self.status.native.setWordWrap(True)
        self.status.native.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.MinimumExpanding)
        for name, text in texts.TOOLTIPS.items():
            getattr(self, name).tooltip = text
        about = (f"{name}: {zoo.entry(name).trained_for}" for name in zoo.names())
        self.model.tooltip = "\n".join([texts.TOOLTIPS["model"], *about])

    def _images(self, _field: object) -> list[Image]:
        return [layer for layer in self._viewer.layers if isinstance(layer, Image)]

    def _make_buttons(self) -> None:
        self.buttons = {name: PushButton(text=name, tooltip=text) for name, text in texts.BUTTONS.items()}
        names = [("undo", "redo", "reset"), ("accept", "run", "cancel"), ("save ...",)]
        self._rows = [
            Container(widgets=[self.buttons[n] for n in row], layout="horizontal", labels=False) for row in names
        ]

    def _connect(self) -> None:
        controller, buttons = self.controller, self.buttons
        self.image.changed.connect(controller.use_image)
        # Also one that was refused, and is chosen again when it is mended.
        self.image.native.activated.connect(lambda _index: controller.use_image(self.image.value))
        self.model.changed.connect(self._on_model)
        # Not at every letter that is typed.
        self.weights.line_edit.native.editingFinished.connect(self._on_model)
        self.weights.changed.connect(self._on_weights)
        self.device.changed.connect(self._on_model)
        self.auto_run.changed.connect(self._on_option)
        self.follow.changed.connect(self._on_option)
        self.threshold.changed.connect(self._on_threshold)
        self.kind.changed.connect(lambda name: controller.set_next_kind(KINDS[name]))
        for button in self.kind.native.findChildren(QRadioButton):  # the one that is chosen is not changed by a press
            button.clicked.connect(lambda: controller.set_next_kind(KINDS[self.kind.value]))
        self.objects.changed.connect(self._on_object)
        for name in ("undo", "redo", "reset", "accept", "run", "cancel"):
            buttons[name].changed.connect(getattr(controller, name))
        buttons["save ..."].changed.connect(self._on_save)

    def _bind_keys(self) -> None:
        """On the viewer; its keys reach the prompt layers too, as long as those bind nothing to them."""
        for key, name in texts.KEYS.items():
            action = getattr(self.controller, name)
            before = self._viewer.bind_key(key, lambda _viewer, action=action: action(), overwrite=True)
            self._ends.callback(self._viewer.bind_key, key, before, overwrite=True)

    def _choose_first_image(self) -> None:
        active = self._viewer.layers.selection.active
        with self.image.changed.blocked():
            if isinstance(active, Image):
                self.image.value = active
        self.controller.use_image(self.image.value)

    def _on_model(self) -> None:
        self.weights.visible = self.model.value == FROM_FILE
        model = str(self.weights.value) if self.model.value == FROM_FILE else self.model.value
        if model == str(Path()):  # no file chosen yet
            return
        self._settings.model, self._settings.device = model, self.device.value
        self.controller.use_model(ModelChoice(model, self.device.value))

    def _on_weights(self) -> None:
        """A file was chosen, or a letter of its name typed."""
        if not self.weights.line_edit.native.isModified():
            self._on_model()

    def _on_option(self) -> None:
        self._settings.auto_run, self._settings.extend = self.auto_run.value, self.follow.value
        self.controller.auto_run, self.controller.extend = self.auto_run.value, self.follow.value
        workspace = self.controller.workspace
        if self.auto_run.value and workspace is not None and not workspace.objects.answered:
            self.controller.run()

    def _on_threshold(self, value: float) -> None:
        if self.controller.workspace is not None:
            self.controller.workspace.threshold = value * self._unit

    def _on_object(self, label: int | None) -> None:
        if label is not None and label != self.controller.current:
            self.controller.reopen(label)

    def _on_save(self) -> None:
        workspace = self.controller.workspace
        if workspace is None:
            return
        proposed = re.sub(r'[/\\:*?"<>|]', "_", workspace.image.name)
        name, chosen = QFileDialog.getSaveFileName(self, "Save the objects", f"{proposed}_mask.nii.gz", SAVE_FILTER)
        if not name:
            return
        path = with_ending(Path(name), chosen)
        if path == Path(name) or self._may_replace(path):
            self.controller.save(path)

    def _may_replace(self, path: Path) -> bool:
        """Ask, as the dialog does for the name that was typed."""
        if not path.exists():
            return True
        answer = QMessageBox.question(self, "Save the objects", f"{path.name} is there already. Replace it?")
        return bool(answer == QMessageBox.StandardButton.Yes)

    def _refresh(self) -> None:
        """Show what the controller knows."""
        controller, workspace = self.controller, self.controller.workspace
        history = workspace.objects.history if workspace else None
        fields = (self.image, self.kind, self.objects, self.threshold)
        with ExitStack() as quiet:
            for field in fields:
                quiet.enter_context(field.changed.blocked())
            self.kind.value = "positive" if controller.next_kind() else "negative"
            self.objects.choices = workspace.objects.labels if workspace else ()
            if workspace:
                if workspace.image in self.image.choices:  # else it is being deleted
                    self.image.value = workspace.image
                self.objects.value = controller.current
                self._refresh_threshold(workspace)
            else:
                self._ranged = None
        self.buttons["undo"].enabled = history is not None and history.can_undo
        self.buttons["redo"].enabled = history is not None and history.can_redo
        for name in ("reset", "run"):
            self.buttons[name].enabled = history is not None and bool(history.prompts)
        self.buttons["accept"].enabled = workspace is not None and workspace.objects.begun
        self.buttons["cancel"].enabled = controller.busy
        self.buttons["save ..."].enabled = workspace is not None
        selected = workspace is None or controller.clicks_count
        self.status.value = controller.message + ("" if selected else f" {texts.NO_CLICKS}")

    def _refresh_threshold(self, workspace: Workspace) -> None:
        if workspace is not self._ranged:
            self._ranged = workspace
            low, high = intensity_range(workspace.image)
            workspace.threshold = min(max(workspace.threshold, low), high)
            self._unit = 1.0 if high - low > LEAST_SPAN else 10.0 ** floor(log10(high - low))
            self.threshold.label = texts.THRESHOLD + ("" if self._unit == 1 else f" (x {self._unit:g})")
            self.threshold.min, self.threshold.max = low / self._unit, high / self._unit
        self.threshold.value = min(max(workspace.threshold / self._unit, self.threshold.min), self.threshold.max)


def with_ending(path: Path, chosen: str) -> Path:
    """A file's name, with the first ending of the chosen filter if it has none."""
    endings = re.compile(r"\*(\.[\w.]+)")
    first = endings.search(chosen)
    known = path.name.lower().endswith(tuple(endings.findall(SAVE_FILTER)))
    return path if known or first is None else path.with_name(path.name + first.group(1))


def _close_late(ends: ExitStack) -> None:
    """Where Qt goes before the widget does, as when a script fails, its timers are gone, and errors here abort."""
    with suppress(RuntimeError):
        ends.close()
