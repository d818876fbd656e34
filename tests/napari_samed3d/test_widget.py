"""The whole way in a real window, by mouse and keys on the canvas."""

from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pytest
from driver import Window, dice, error_shown, segment, truth, world_of
from napari.layers import Labels, Points
from qtpy.QtCore import Qt
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QFileDialog

from backend.inference.loading import AUTO
from backend.io import read_volume
from backend.phantom import Phantom
from napari_samed3d import activity
from napari_samed3d.reader import volume_layer
from napari_samed3d.worker import ModelChoice


def test_click_correct_undo_accept_save_reload(
    window: Window, phantom: Phantom, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    window.open(phantom.volume)
    controller = window.controller

    segment(window, phantom, "liver")
    assert dice(window.mask(), truth(phantom, "liver")) > 0.85
    assert np.allclose(controller.workspace.objects.history.prompts[0].point, phantom.middle_of("liver"), atol=0.6)
    one = window.mask().copy()

    segment(window, phantom, "kidney_right")
    assert len(controller.workspace.objects.history.prompts) == 2
    assert dice(window.mask(), truth(phantom, "liver") | truth(phantom, "kidney_right")) > 0.85

    window.press(Qt.Key.Key_Z, Qt.KeyboardModifier.ControlModifier)
    window.wait_idle()
    assert np.array_equal(window.mask(), one)
    assert len(controller.workspace.points[True].data) == 1
    window.press(Qt.Key.Key_Z, Qt.KeyboardModifier.ControlModifier | Qt.KeyboardModifier.ShiftModifier)
    window.wait_idle()
    assert window.mask().sum() > one.sum()
    window.push("undo")
    window.wait_idle()

    window.push("accept")
    segment(window, phantom, "spleen")
    assert np.array_equal(window.mask(1), one)
    assert dice(window.mask(2), truth(phantom, "spleen")) > 0.8

    target = tmp_path / "mask.nii.gz"
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *_: (str(target), ""))
    window.push("save ...")
    window.qtbot.waitUntil(lambda: controller.message == f"Saved {target}.", timeout=20_000)
    saved = read_volume(target)
    assert np.array_equal(saved.array, controller.workspace.objects.array)
    assert np.array_equal(saved.affine, phantom.volume.affine)
    (layer,) = window.viewer.open(str(target), plugin="napari-samed3d")
    assert isinstance(layer, Labels)
    assert np.array_equal(layer.data, controller.workspace.labels.data)


def test_the_shipped_model_answers_without_a_network(
    window: Window, phantom: Phantom, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the first start does: the fixture chooses another model, so the default is chosen again."""
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    window.open(phantom.volume)
    window.widget.model.value = AUTO
    segment(window, phantom, "liver")
    first = dice(window.mask(), truth(phantom, "liver"))
    assert first > 0.5
    segment(window, phantom, "kidney_right")
    assert (window.mask() & truth(phantom, "kidney_right")).any()
    window.push("undo")
    window.wait_idle()
    assert dice(window.mask(), truth(phantom, "liver")) == first


def test_negative_click_by_key(window: Window, phantom: Phantom) -> None:
    window.open(phantom.volume)
    segment(window, phantom, "liver")
    before = window.mask().copy()
    window.press(Qt.Key.Key_T)
    assert window.widget.kind.value == "negative"
    x, y, z = phantom.middle_of("liver")
    window.click(world_of(window, (x + 6, y, z)))
    window.wait_idle()
    assert [p.positive for p in window.controller.workspace.objects.history.prompts] == [True, False]
    assert window.mask().sum() < before.sum()
    window.press(Qt.Key.Key_T)
    assert window.widget.kind.value == "positive"


def test_a_first_negative_click_is_refused(window: Window, phantom: Phantom) -> None:
    window.open(phantom.volume)
    window.press(Qt.Key.Key_T)
    with error_shown("positive click"):
        window.click(world_of(window, phantom.middle_of("liver")))
    assert len(window.controller.workspace.points[False].data) == 0
    assert not window.controller.busy


def test_a_click_outside_is_refused_and_the_others_stay(window: Window, phantom: Phantom) -> None:
    window.open(phantom.volume)
    segment(window, phantom, "liver")
    before = window.mask().copy()
    with error_shown("not a voxel"):
        window.controller.workspace.points[True].add([27, 51, 1000])
        window.wait_idle()
    assert len(window.controller.workspace.points[True].data) == 1
    assert np.array_equal(window.mask(), before)


@pytest.mark.parametrize("order", [(0, 1, 2), (1, 0, 2), (2, 0, 1), (2, 1, 0)])
def test_any_axis_order(window: Window, phantom: Phantom, order: tuple[int, int, int]) -> None:
    window.open(phantom.volume)
    window.viewer.dims.order = order
    window.viewer.reset_view()
    window.settle()
    segment(window, phantom, "liver")
    (prompt,) = window.controller.workspace.objects.history.prompts
    assert np.allclose(prompt.point, phantom.middle_of("liver"), atol=1.1)
    assert dice(window.mask(), truth(phantom, "liver")) > 0.85


def test_click_in_3d_hits_the_first_bright_voxel(window: Window, phantom: Phantom) -> None:
    window.viewer.window.resize(600, 400)  # drawn without a GPU
    window.open(phantom.volume)
    window.widget.follow.value = False
    window.viewer.dims.ndisplay = 3
    window.widget.threshold.value = 340.0  # above all but the vertebrae
    window.settle()
    segment(window, phantom, "vertebrae")
    (prompt,) = window.controller.workspace.objects.history.prompts
    x, y, z = np.rint(prompt.point).astype(int)
    assert np.asarray(phantom.volume.array)[x, y, z] > 340
    assert truth(phantom, "vertebrae")[x, y, z]
    # The surface towards the viewer, not the middle; and the shown point lies there.
    assert not np.allclose(prompt.point, phantom.middle_of("vertebrae"), atol=3)
    (shown,) = window.controller.workspace.points[True].data
    assert np.allclose(window.controller.workspace.frame.order.to_volume(shown), prompt.point)


def test_click_in_3d_on_nothing_is_refused(window: Window, phantom: Phantom) -> None:
    window.viewer.window.resize(600, 400)
    window.open(phantom.volume)
    window.viewer.dims.ndisplay = 3
    window.widget.threshold.value = window.widget.threshold.max
    window.settle()
    with error_shown("lower the threshold"):
        window.click(world_of(window, phantom.middle_of("liver")))
    assert len(window.controller.workspace.points[True].data) == 0


def test_accepted_objects_are_never_overwritten_and_can_be_reopened(window: Window, phantom: Phantom) -> None:
    window.open(phantom.volume)
    segment(window, phantom, "liver")
    liver = window.mask().copy()
    window.press(Qt.Key.Key_N)
    assert window.controller.current == 2
    segment(window, phantom, "liver")
    assert np.array_equal(window.mask(1), liver)
    assert not (window.mask(2) & liver).any()
    window.widget.objects.value = 1
    window.settle()
    assert window.controller.current == 1
    assert len(window.controller.workspace.points[True].data) == 1
    window.push("undo")
    window.wait_idle()
    assert not window.mask(1).any()


def test_an_object_is_not_accepted_before_its_newest_click_is_answered(window: Window, phantom: Phantom) -> None:
    window.open(phantom.volume)
    segment(window, phantom, "liver")
    window.widget.auto_run.value = False
    segment(window, phantom, "spleen")
    before = window.mask().copy()
    window.controller.use_model(ModelChoice("region", "cpu"))
    assert window.controller.busy
    window.controller.cancel()  # of the look at the image
    with error_shown("not segmented yet"):
        window.push("accept")
    assert window.controller.current == 1
    window.push("run")
    window.wait_idle()
    assert not np.array_equal(window.mask(), before)
    window.push("accept")
    assert window.controller.current == 2


def test_deleting_a_point_takes_its_prompt_back(window: Window, phantom: Phantom) -> None:
    window.open(phantom.volume)
    segment(window, phantom, "liver")
    one = window.mask().copy()
    segment(window, phantom, "spleen")
    points = window.controller.workspace.points[True]
    points.selected_data = {1}
    points.remove_selected()
    window.wait_idle()
    assert np.array_equal(window.mask(), one)


def test_layers_with_any_transform(window: Window, phantom: Phantom) -> None:
    """The prompt is the voxel under the mouse, wherever scale, translate and affine put the layer."""
    image = window.viewer.add_image(
        np.asarray(phantom.volume.array).transpose(2, 1, 0),
        scale=(3.5, 2, 2),
        translate=(100, -20, 3),
        affine=[[1, 0, 0, 5], [0, 0.9, 0, 0], [0, 0, 1.2, -7], [0, 0, 0, 1]],
        units=("mm",) * 3,
        name="moved",
    )
    window.dock()
    window.click(image.data_to_world(np.array(phantom.middle_of("liver"))[::-1]))
    window.wait_idle()
    (prompt,) = window.controller.workspace.objects.history.prompts
    assert np.allclose(prompt.point, phantom.middle_of("liver"), atol=0.6)
    assert np.allclose(window.controller.workspace.frame.volume.spacing, (2.4, 1.8, 3.5))
    assert dice(window.mask(), truth(phantom, "liver")) > 0.8


def test_deleted_layers(window: Window, phantom: Phantom) -> None:
    image = window.open(phantom.volume)
    segment(window, phantom, "liver")
    window.viewer.layers.remove(window.controller.workspace.points[True])
    window.qtbot.waitUntil(lambda: not window.mask().any())
    assert window.controller.workspace.points[True] in window.viewer.layers
    window.viewer.layers.remove(image)
    window.settle()
    assert window.controller.workspace is None
    assert not window.viewer.layers  # the objects' layer was empty


def test_the_objects_of_a_deleted_image_stay(window: Window, phantom: Phantom) -> None:
    image = window.open(phantom.volume)
    segment(window, phantom, "liver")
    window.viewer.layers.remove(image)
    window.settle()
    assert [layer.name for layer in window.viewer.layers] == ["scan objects"]


def test_the_widget_may_go_after_qt_took_its_timers(window: Window, phantom: Phantom) -> None:
    """As at the end of a script that fails; what is raised in a slot then aborts Python."""
    window.open(phantom.volume)
    window.controller._activity.timer.deleteLater()
    window.settle()
    window.widget.destroyed.emit()
    window.settle()


@pytest.mark.parametrize("ended", [True, False], ids=["ended", "goes on"])
def test_a_bar_that_is_made_while_work_ends_goes(ended: bool, window: Window, monkeypatch: pytest.MonkeyPatch) -> None:
    some, bars = activity.Activity(), []

    class Bar:
        def __init__(self, **_: Any) -> None:
            bars.append(self)
            self.closed = False
            some.end()  # napari lets events in here
            some.begin()
            if ended:
                some.end()
            some._show()

        def close(self) -> None:
            self.closed = True

    monkeypatch.setattr(activity, "progress", Bar)
    some.begin()
    some._show()
    if not ended:
        some._show()  # the timer that was started meanwhile
    (bar,) = bars
    assert bar.closed is ended
    some.end()
    assert bar.closed


def test_a_name_of_weights_is_tried_when_it_is_whole(window: Window, phantom: Phantom) -> None:
    window.open(phantom.volume)
    window.widget.model.value = "from a file ..."
    chosen = []
    window.controller.use_model = chosen.append
    field = window.widget.weights.line_edit.native
    QTest.keyClicks(field, "/tmp/my.pth")
    assert not chosen
    QTest.keyClick(field, Qt.Key.Key_Return)
    assert [choice.model for choice in chosen] == ["/tmp/my.pth"]
    window.widget.weights.value = "/tmp/other.pth"  # as its button does
    assert chosen[-1].model == "/tmp/other.pth"


def test_settings_persist(window: Window, phantom: Phantom) -> None:
    window.open(phantom.volume)
    window.widget.model.value = "region"
    window.widget.device.value = "cpu"
    window.widget.auto_run.value = False
    window.viewer.window.remove_dock_widget(window.widget)
    window.settle()
    window.dock()
    assert (window.widget.model.value, window.widget.device.value) == ("region", "cpu")
    assert not window.widget.auto_run.value
    assert not window.controller.auto_run
    segment(window, phantom, "liver")
    assert not window.mask().any()
    window.push("run")
    window.wait_idle()
    assert window.mask().any()


def test_a_model_that_cannot_be_loaded_says_why(window: Window, phantom: Phantom, tmp_path: Path) -> None:
    bad = tmp_path / "weights.pth"
    bad.write_text("<!DOCTYPE html><html>not found</html>")
    window.open(phantom.volume)
    segment(window, phantom, "liver")
    before = window.mask().copy()
    with error_shown("weights.pth"):
        window.widget.model.value = "from a file ..."
        window.widget.weights.value = bad
        window.wait_idle()
    assert np.array_equal(window.mask(), before)


def test_refused_layers_say_what_to_do(window: Window) -> None:
    window.viewer.add_image(np.zeros((2, 8, 8, 8), dtype=np.uint8), name="series")
    with error_shown("Split Stack"):
        window.dock()
    assert window.controller.workspace is None


def test_an_image_opened_after_the_widget_is_clicked_at_once(window: Window, phantom: Phantom) -> None:
    window.dock()
    window.viewer.open_sample("napari-samed3d", "phantom")
    window.settle()
    segment(window, phantom, "liver")
    assert dice(window.mask(), truth(phantom, "liver")) > 0.85


def test_deleting_the_objects_begins_anew(window: Window, phantom: Phantom) -> None:
    window.open(phantom.volume)
    segment(window, phantom, "liver")
    before = window.controller.workspace
    window.viewer.layers.remove(before.labels)
    window.qtbot.waitUntil(lambda: window.controller.workspace not in (before, None))
    assert not window.mask().any()
    assert len([layer for layer in window.viewer.layers if isinstance(layer, Points)]) == 2
    segment(window, phantom, "spleen")
    assert dice(window.mask(), truth(phantom, "spleen")) > 0.8


def test_closing_and_opening_the_dock_keeps_the_session(window: Window, phantom: Phantom) -> None:
    window.open(phantom.volume)
    segment(window, phantom, "liver")
    liver = window.mask().copy()
    window.press(Qt.Key.Key_N)
    segment(window, phantom, "spleen")
    layers = list(window.viewer.layers)
    window.viewer.window.remove_dock_widget(window.widget)
    window.settle()
    window.dock()
    assert list(window.viewer.layers) == layers
    assert window.controller.current == 2
    assert np.array_equal(window.mask(1), liver)
    window.push("undo")
    window.wait_idle()
    assert not window.mask(2).any()
    segment(window, phantom, "kidney_left")
    assert dice(window.mask(2), truth(phantom, "kidney_left")) > 0.7


def test_selecting_the_layers_of_another_image_means_that_image(window: Window, phantom: Phantom) -> None:
    first = window.open(phantom.volume, "first")
    one = window.controller.workspace
    data, kwargs, _ = volume_layer(phantom.volume, "second")
    second = window.viewer.add_image(data, **kwargs)
    window.widget.image.value = second
    window.settle()
    assert window.controller.workspace.image is second
    window.viewer.layers.selection.active = one.points[True]
    window.settle()
    assert window.controller.workspace is one
    assert window.widget.image.value is first
    segment(window, phantom, "liver")
    assert dice(window.mask(), truth(phantom, "liver")) > 0.85


def test_long_messages_do_not_widen_the_dock(window: Window, phantom: Phantom) -> None:
    window.open(phantom.volume)
    width = window.widget.width()
    window.controller._say("Saved " + "/a/very/long/path" * 30)
    window.settle()
    assert window.widget.width() == width


def test_a_failed_save_is_one_message(window: Window, phantom: Phantom, tmp_path: Path) -> None:
    window.open(phantom.volume)
    with error_shown("There is no folder"):
        window.controller.save(tmp_path / "nowhere" / "mask.nii.gz")
        window.qtbot.waitUntil(lambda: "There is no folder" in window.controller.message)


def test_paint_on_the_open_object_stays_and_can_be_undone(window: Window, phantom: Phantom) -> None:
    window.open(phantom.volume)
    segment(window, phantom, "liver")
    answer = window.mask().copy()
    window.controller.workspace.labels.paint((2, 2, 2), 1)
    painted = window.mask().copy()
    assert painted.sum() > answer.sum()
    for change, expected in (
        (window.controller.undo, answer),
        (window.controller.redo, painted),
        (window.controller.run, painted),
        (window.controller.reset, np.zeros_like(answer)),
        (window.controller.undo, painted),
    ):
        change()
        window.wait_idle()
        assert np.array_equal(window.mask(), expected)


def test_the_model_that_comes_along_corrects_what_was_painted(window: Window, phantom: Phantom) -> None:
    window.open(phantom.volume)
    window.controller.use_model(ModelChoice("compact", "cpu"))
    segment(window, phantom, "liver")
    labels = window.controller.workspace.labels
    answer = window.mask().copy()
    labels.paint((2, 2, 2), 1)
    dot = window.mask() & ~answer
    window.click(world_of(window, phantom.middle_of("spleen")))
    window.wait_idle()
    both = window.mask()
    assert both[dot].all()
    assert (both & answer).sum() > 0.99 * answer.sum()
    assert both[phantom.middle_of("spleen")]


def test_a_volume_too_large_for_a_label_map_is_refused(window: Window) -> None:
    window.viewer.add_image(
        da.zeros((10**8, 64, 64), chunks=(10**5, 64, 64), dtype=np.uint8), contrast_limits=(0, 1), name="huge"
    )
    with error_shown("GB"):
        window.dock()
    assert window.controller.workspace is None
