"""What people do between clicks: close the dock, paint, rotate, crop, save too early, open a second panel."""

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from driver import Window, dice, error_shown, segment, truth, world_of
from napari.layers import Image
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QApplication, QFileDialog, QMessageBox

from backend.errors import ErrorCode, SamMed3DError
from backend.geometry import to_world
from backend.inference.canvas import MaskPatch
from backend.inference.prompts import Click, InitialMask
from backend.io import read_volume, write_mask
from backend.phantom import Phantom
from backend.volume import Volume
from napari_samed3d import saving, texts
from napari_samed3d.controller import Controller
from napari_samed3d.frames import frame_of
from napari_samed3d.picking import first_voxel_above
from napari_samed3d.reader import volume_layer
from napari_samed3d.widget import SegmentWidget, with_ending
from napari_samed3d.worker import Answer, Failure, ModelChoice

MISSING = ModelChoice("/there/is/no.pth", "cpu")


def close_dock(window: Window) -> None:
    window.viewer.window.remove_dock_widget(window.widget)
    window.settle()


def paint(window: Window, box: tuple[slice, slice, slice], label: int) -> None:
    """With the brush, which says where it was."""
    labels = window.controller.workspace.labels
    where = tuple(axis.ravel() for axis in np.mgrid[box])
    labels.data_setitem(where, label)
    labels.events.paint(value=[(where, 0, label)])
    window.settle()


CORNER = (slice(1, 4), slice(1, 5), slice(1, 6))


def corner(window: Window) -> int:
    return int(np.count_nonzero(window.controller.workspace.labels.data[CORNER]))


# --- while the dock is closed


def test_an_image_that_was_scaled_while_the_dock_was_closed_is_followed(window: Window, phantom: Phantom) -> None:
    image = window.open(phantom.volume)
    segment(window, phantom, "liver")
    close_dock(window)
    image.scale = np.asarray(image.scale) * 3
    window.dock()
    window.wait_idle()
    workspace = window.controller.workspace
    for layer in workspace.layers:
        np.testing.assert_allclose(layer.scale, image.scale)
    np.testing.assert_allclose(workspace.frame.volume.spacing, 3 * np.asarray(phantom.volume.spacing))


def test_voxels_that_were_replaced_while_the_dock_was_closed_are_seen(window: Window, phantom: Phantom) -> None:
    image = window.open(phantom.volume)
    segment(window, phantom, "liver")
    close_dock(window)
    image.data = np.roll(np.asarray(image.data), 15, axis=2)
    window.dock()
    workspace = window.controller.workspace
    assert not workspace.objects.array.any()
    order, liver = workspace.frame.order, np.zeros(phantom.volume.shape, dtype=bool)
    order.show(liver)[...] = np.roll(order.show(truth(phantom, "liver")), 15, axis=2)
    window.click(world_of(window, np.argwhere(liver)[np.count_nonzero(liver) // 2]))
    window.wait_idle()
    assert dice(window.mask(), liver) > 0.7


def test_clicks_that_were_added_while_the_dock_was_closed_are_answered(window: Window, phantom: Phantom) -> None:
    window.open(phantom.volume)
    segment(window, phantom, "liver")
    workspace = window.controller.workspace
    close_dock(window)
    workspace.points[True].add(workspace.frame.order.to_viewer(phantom.middle_of("spleen")))
    window.dock()
    window.wait_idle()
    assert len(window.controller.workspace.objects.history.prompts) == 2


# --- the mouse in the 3D view


def test_points_of_a_script_lie_where_it_says_also_after_a_turn_of_the_camera(window: Window, phantom: Phantom) -> None:
    window.open(phantom.volume)
    window.viewer.dims.ndisplay = 3
    window.viewer.reset_view()
    window.controller.workspace.points[True].mode = "pan_zoom"
    window.settle()
    middle = world_of(window, (np.array(phantom.volume.shape) - 1) / 2)
    window.drag(middle, middle + 20)
    window.viewer.dims.ndisplay = 2
    workspace = window.controller.workspace
    spot = phantom.middle_of("liver")
    workspace.points[True].add(workspace.frame.order.to_viewer(spot))
    window.wait_idle()
    (click,) = workspace.objects.history.prompts
    np.testing.assert_allclose(click.point, spot)


def test_of_several_points_moved_in_3d_none_is_taken_for_another(window: Window, phantom: Phantom) -> None:
    window.open(phantom.volume)
    segment(window, phantom, "liver")
    segment(window, phantom, "kidney_right")
    workspace = window.controller.workspace
    before = workspace.objects.history.prompts
    layer = workspace.points[True]
    with error_shown("one at a time"):
        window.controller._mouse._ray = object()
        layer.data = layer.data + 2
        window.settle()
    assert workspace.objects.history.prompts == before
    assert len(layer.data) == 2


def test_the_same_click_again_is_no_other_one(
    window: Window, phantom: Phantom, monkeypatch: pytest.MonkeyPatch
) -> None:
    window.open(phantom.volume)
    segment(window, phantom, "liver")
    workspace = window.controller.workspace
    (click,) = workspace.objects.history.prompts
    monkeypatch.setattr(workspace, "_new_click", lambda *_: click)  # as in 3D, where rows along a ray are one voxel
    workspace.points[True].add(workspace.points[True].data[0] + 3)
    window.wait_idle()
    assert workspace.objects.history.prompts == (click,)
    assert len(workspace.points[True].data) == 1


@pytest.mark.parametrize("depiction", ["clipped", "plane"])
def test_a_ray_sees_what_is_shown(depiction: str) -> None:
    image = Image(np.ones((40, 40, 40), dtype=np.float32))
    if depiction == "clipped":
        image.experimental_clipping_planes = [{"position": (25, 0, 0), "normal": (1, 0, 0), "enabled": True}]
    else:
        image.depiction = "plane"
        image.plane.position, image.plane.normal = (25, 20, 20), (1, 0, 0)
    hit = first_voxel_above(image, (-10, 20, 20), (1, 0, 0), [0, 1, 2], 0.5)
    assert hit is not None
    assert hit.tolist() == [25, 20, 20]


# --- paint


@pytest.mark.parametrize("how", ["undo and redo", "another model", "run"])
def test_paint_beside_a_click_without_an_answer_is_kept(how: str, window: Window, phantom: Phantom) -> None:
    window.open(phantom.volume)
    controller = window.controller
    if how == "run":
        controller.auto_run = False
    else:
        controller.choice = MISSING
    segment(window, phantom, "liver")
    assert not controller.workspace.objects.answered
    paint(window, CORNER, 1)
    painted = corner(window)
    assert painted == 60
    if how == "undo and redo":
        controller.undo()
        controller.redo()
    elif how == "another model":
        controller.use_model(ModelChoice("region", "cpu"))
    else:
        controller.run()
    window.wait_idle()
    assert corner(window) >= 0.7 * painted  # region growing keeps it as its cells of 3 mm do
    assert how == "undo and redo" or window.mask().sum() > painted


def test_a_painted_object_whose_clicks_were_taken_away_is_accepted(window: Window, phantom: Phantom) -> None:
    window.open(phantom.volume)
    controller = window.controller
    controller.choice = MISSING
    segment(window, phantom, "liver")
    paint(window, CORNER, 1)
    with error_shown("take them back"):
        controller.accept()
    controller.workspace.points[True].data = np.empty((0, 3))
    window.settle()
    controller.accept()
    assert controller.current == 2
    assert corner(window) == 60


def test_a_brush_leaves_accepted_objects_alone(window: Window, phantom: Phantom) -> None:
    window.open(phantom.volume)
    segment(window, phantom, "liver")
    window.controller.accept()
    before = window.mask(1).copy()
    labels = window.controller.workspace.labels
    assert labels.selected_label == 2
    labels.paint(np.argwhere(np.asarray(labels.data) == 1)[0], 2)
    np.testing.assert_array_equal(window.mask(1), before)


# --- places


def oblique() -> Volume:
    turn = np.deg2rad(20)
    affine = np.eye(4)
    affine[:2, :2] = [[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]
    affine[:3, :3] *= (1.0, 1.2, 2.0)
    affine[:3, 3] = (-40, 30, 12)
    return Volume(np.random.default_rng(0).normal(100, 10, (40, 36, 20)).astype(np.float32), affine)


@pytest.mark.parametrize("step", [1, 2])
def test_a_crop_of_an_oblique_volume_lies_where_the_volume_does(step: int) -> None:
    volume = oblique()
    data, kwargs, _ = volume_layer(volume, "scan")
    whole = Image(data, **kwargs)
    start, scale = np.array([3, 5, 7]), np.asarray(whole.scale)
    crop = Image(
        data[3::step, 5::step, 7::step],
        scale=scale * step,
        translate=np.asarray(whole.translate) + scale * start,
        units=whole.units,
        metadata=whole.metadata,
    )
    shown = np.array([2.0, 4.0, 6.0])
    there, here = frame_of(whole), frame_of(crop)
    np.testing.assert_allclose(
        to_world(here.volume, here.order.to_volume(shown)),
        to_world(there.volume, there.order.to_volume(start + step * shown)),
        atol=1e-6,
    )


def test_a_layer_taken_out_and_put_back_goes_on(window: Window, phantom: Phantom) -> None:
    image = window.open(phantom.volume)
    segment(window, phantom, "liver")
    workspace, layers = window.controller.workspace, window.viewer.layers
    for layer in (image, workspace.labels):
        layers.insert(0, layers.pop(layers.index(layer)))
        window.settle()
        assert window.controller.workspace is workspace
        assert len(workspace.objects.history.prompts) == 1


def test_new_voxels_leave_no_empty_layer_and_say_where_objects_are(window: Window, phantom: Phantom) -> None:
    image = window.open(phantom.volume)
    for _ in range(3):
        image.data = np.asarray(image.data) + 1
        window.settle()
    assert len(window.viewer.layers) == 4
    segment(window, phantom, "liver")
    left = window.controller.workspace.labels
    with error_shown(f"Its objects so far are in the layer {left.name!r}"):
        image.data = np.asarray(image.data) + 1
        window.settle()
    assert left in window.viewer.layers


def test_layers_in_different_units_are_told(window: Window, phantom: Phantom) -> None:
    window.open(phantom.volume)
    window.viewer.add_points(np.zeros((1, 3)), units=("um",) * 3, visible=False)
    workspace = window.controller.workspace
    with error_shown("Layers are in micrometer and in millimeter"):
        workspace.points[True].add(workspace.frame.order.to_viewer(phantom.middle_of("liver")))
        window.wait_idle()


# --- the panel


def test_a_key_that_had_a_meaning_has_it_again(window: Window, phantom: Phantom) -> None:
    pressed: list[str] = []
    window.viewer.bind_key("n", lambda _viewer: pressed.append("mine"))
    window.open(phantom.volume)
    window.press(Qt.Key.Key_N)
    assert not pressed
    close_dock(window)
    window.press(Qt.Key.Key_N)
    window.press(Qt.Key.Key_T)
    assert pressed == ["mine"]


def test_a_second_panel_takes_the_place_of_the_first(window: Window, phantom: Phantom) -> None:
    window.open(phantom.volume)
    segment(window, phantom, "liver")
    first, mask = window.widget, window.mask().copy()
    window.widget = SegmentWidget(window.viewer)
    window.viewer.window.add_dock_widget(window.widget)
    window.settle()
    assert window.widget is not first
    assert first.status.value == texts.CLOSED
    assert first.controller.workspace is None
    np.testing.assert_array_equal(window.mask(), mask)
    window.controller.undo()
    window.wait_idle()
    assert not window.mask().any()


@pytest.mark.parametrize("factor", [1e-12, 1e-9, 1e-4, 1e30])
def test_images_of_any_intensities_have_a_threshold(factor: float, window: Window, phantom: Phantom) -> None:
    values = (np.asarray(phantom.volume.array) + 1000.0) * factor
    window.open(Volume(values.astype(np.float32), phantom.volume.affine))
    widget, workspace = window.widget, window.controller.workspace
    widget.threshold.value = (widget.threshold.min + 3 * widget.threshold.max) / 4
    assert workspace.threshold == pytest.approx(float(values.min() + 3 * values.max()) / 4, rel=0.05)


def test_where_clicks_do_nothing_the_panel_says_so(window: Window, phantom: Phantom) -> None:
    image = window.open(phantom.volume)
    points = window.controller.workspace.points[True]
    assert texts.NO_CLICKS not in window.widget.status.value
    window.viewer.layers.selection.active = image
    assert texts.NO_CLICKS in window.widget.status.value
    window.controller.toggle_kind()
    assert window.viewer.layers.selection.active is points
    for hide in ({"mode": "select"}, {"visible": False}):
        for name, value in hide.items():
            setattr(points, name, value)
        assert texts.NO_CLICKS in window.widget.status.value
        window.controller.toggle_kind()
        assert (points.mode, points.visible) == ("add", True)
        assert window.widget.status.value == window.controller.message


def test_clicks_that_wait_are_answered_when_every_click_is_to_be(window: Window, phantom: Phantom) -> None:
    window.open(phantom.volume)
    window.widget.auto_run.value = False
    segment(window, phantom, "liver")
    assert not window.mask().any()
    window.widget.auto_run.value = True
    window.wait_idle()
    assert dice(window.mask(), truth(phantom, "liver")) > 0.85


def test_a_mask_that_was_cancelled_is_accepted_as_far_as_it_came(window: Window, phantom: Phantom) -> None:
    controller = asked(window, phantom)
    part = MaskPatch((3, 3, 3), np.ones((4, 4, 4), dtype=bool))
    controller._on_answer(Answer(controller._generation, part, 1, final=False))
    with error_shown("not segmented yet"):
        window.push("accept")
    window.push("cancel")
    window.push("accept")
    assert controller.current == 2
    assert window.mask(1).sum() == 64


@pytest.mark.parametrize("button", ["let go", "held"])
def test_paint_made_while_the_mask_grows_ends_its_growth(button: str, window: Window, phantom: Phantom) -> None:
    controller, answer = grown(window, phantom)
    if button == "let go":
        paint(window, CORNER, 1)
        controller._on_answer(answer)
    else:  # napari tells of the stroke at its end
        labels = controller.workspace.labels
        labels.mode = "paint"
        with labels.block_history():
            labels.data_setitem(tuple(axis.ravel() for axis in np.mgrid[CORNER]), 1)
            controller._on_answer(answer)
    assert (controller.busy, controller.message) == (False, "Object 1 stays as it was painted.")
    assert (window.mask().sum(), corner(window)) == (64 + 60, 60)
    controller.accept()
    assert controller.current == 2


def test_paint_made_before_the_answer_comes_goes_into_it(window: Window, phantom: Phantom) -> None:
    controller = asked(window, phantom)
    first = controller._generation
    paint(window, CORNER, 1)
    for _ in range(2):  # the second of a request that was given up
        controller._on_answer(Answer(first, MaskPatch((3, 30, 30), np.ones((4, 4, 4), dtype=bool)), 1, final=False))
        assert (controller._generation, corner(window)) == (first + 1, 60)
    mask, click = controller.workspace.objects.history.prompts
    assert isinstance(mask, InitialMask)
    assert isinstance(click, Click)


@pytest.mark.parametrize("change", ["undo", "reset"])
def test_paint_on_a_mask_that_grows_comes_back_with_redo(change: str, window: Window, phantom: Phantom) -> None:
    controller, _ = grown(window, phantom)
    history = controller.workspace.objects.history
    paint(window, CORNER, 1)
    getattr(controller, change)()
    assert not any(isinstance(prompt, InitialMask) for prompt in history.prompts)
    (controller.redo if change == "undo" else controller.undo)()
    click, mask = history.prompts
    assert isinstance(click, Click)
    assert mask.mask.sum() == 64 + 60


def test_a_mask_that_grew_until_an_error_is_accepted_as_far_as_it_came(window: Window, phantom: Phantom) -> None:
    controller, answer = grown(window, phantom)
    with error_shown("slice 7"):
        controller._on_failure(
            Failure(answer.generation, SamMed3DError(ErrorCode.FILE_READ, "slice 7", "Copy it again."))
        )
    controller.accept()
    assert (controller.current, window.mask(1).sum()) == (2, 64)


def test_napari_takes_no_stroke_back_that_lies_in_another_object_by_now(window: Window, phantom: Phantom) -> None:
    window.open(phantom.volume)
    labels = window.controller.workspace.labels
    labels.mode = "paint"
    labels.data_setitem(tuple(axis.ravel() for axis in np.mgrid[CORNER]), 1)
    labels.data_setitem(tuple(axis.ravel() for axis in np.mgrid[1:3, 1:3, 1:3]), 0)
    labels.events.paint(value=[])
    window.controller.accept()
    assert labels.mode == "paint"
    labels.data_setitem(tuple(axis.ravel() for axis in np.mgrid[1:3, 1:3, 1:3]), 2)
    labels.undo()
    labels.undo()
    assert (window.mask(1).sum(), window.mask(2).sum()) == (60 - 8, 0)


def grown(window: Window, phantom: Phantom) -> tuple[Controller, Answer]:
    """A window in which two parts of an answer came, of 64 voxels both."""
    controller = asked(window, phantom)
    answer = Answer(controller._generation, MaskPatch((3, 30, 30), np.ones((4, 4, 4), dtype=bool)), 1, final=False)
    controller._on_answer(answer)
    controller._on_answer(answer)
    return controller, answer


def asked(window: Window, phantom: Phantom) -> Controller:
    """A window in which a click waits for an answer that never comes by itself."""
    window.open(phantom.volume)
    controller = window.controller
    controller._thread.submit = lambda _: None
    controller.workspace.points[True].add(controller.workspace.frame.order.to_viewer(phantom.middle_of("liver")))
    window.qtbot.waitUntil(lambda: controller.busy)
    return controller


def test_a_point_that_is_moved_after_painting_comes_after_the_paint(window: Window, phantom: Phantom) -> None:
    window.open(phantom.volume)
    segment(window, phantom, "liver")
    workspace = window.controller.workspace
    (before,) = workspace.objects.history.prompts
    paint(window, CORNER, 1)
    layer = workspace.points[True]
    layer.data = np.add(layer.data, (0, 2, 0))
    window.wait_idle()
    mask, click = workspace.objects.history.prompts
    assert isinstance(mask, InitialMask)
    assert np.abs(np.subtract(click.point, before.point)).sum() == 2


# --- saving


def test_saving_waits_for_the_mask(window: Window, phantom: Phantom, tmp_path: Path) -> None:
    window.open(phantom.volume)
    controller = window.controller
    workspace, target = controller.workspace, tmp_path / "mask.nii.gz"
    workspace.points[True].add(workspace.frame.order.to_viewer(phantom.middle_of("liver")))
    window.qtbot.waitUntil(lambda: controller.busy)
    controller.save(target)
    window.qtbot.waitUntil(lambda: controller.message == f"Saved {target}.", timeout=20_000)
    np.testing.assert_array_equal(np.asarray(read_volume(target).array) > 0, window.mask())
    assert window.mask().any()


def test_a_file_holds_what_there_was_when_it_was_saved(
    window: Window, phantom: Phantom, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    window.open(phantom.volume)
    segment(window, phantom, "liver")
    before, target, goes_on = window.mask().copy(), tmp_path / "mask.nii.gz", threading.Event()

    def write_late(path: Path, labels: Any, volume: Volume) -> None:
        goes_on.wait(20)
        write_mask(path, labels, volume)

    monkeypatch.setattr(saving, "write_mask", write_late)
    window.controller.save(target)
    window.controller.reset()
    assert not window.mask().any()
    goes_on.set()
    window.qtbot.waitUntil(target.exists, timeout=20_000)
    np.testing.assert_array_equal(np.asarray(read_volume(target).array) > 0, before)


def test_of_two_masks_of_one_name_the_later_one_stays(
    window: Window, phantom: Phantom, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    window.open(phantom.volume)
    target, goes_on = tmp_path / "mask.nii.gz", threading.Event()
    pauses = [20, 0]

    def write(path: Path, labels: Any, volume: Volume) -> None:
        goes_on.wait(pauses.pop(0))
        write_mask(path, labels, volume)

    monkeypatch.setattr(saving, "write_mask", write)
    window.controller.save(target)
    paint(window, CORNER, 1)
    window.controller.save(target)
    window.settle()
    goes_on.set()
    window.qtbot.waitUntil(lambda: not saving._TELLERS, timeout=20_000)
    assert np.count_nonzero(read_volume(target).array[:, :, :]) == 60


def test_an_object_that_was_left_before_its_answer_is_told_of_when_saved(
    window: Window, phantom: Phantom, tmp_path: Path
) -> None:
    controller, _ = grown(window, phantom)
    paths = [tmp_path / "one.nii.gz", tmp_path / "two.nii.gz"]
    for path in [*paths, paths[0]]:
        controller.save(path)
    assert not any(path.exists() for path in paths)
    controller.workspace.objects.settle()
    controller.accept()
    window.qtbot.waitUntil(lambda: all(path.exists() for path in paths) and not saving._TELLERS, timeout=20_000)
    controller.workspace.points[True].add(controller.workspace.frame.order.to_viewer(phantom.middle_of("spleen")))
    window.qtbot.waitUntil(lambda: controller.busy)
    controller.reopen(1)
    controller.save(paths[0])
    told = f"Saved {paths[0]}. Object 2 lacks what its newest clicks say."
    window.qtbot.waitUntil(lambda: controller.message == told, timeout=20_000)


@pytest.mark.parametrize("left", ["for another image", "deleted", "dock closed", "napari ends"])
def test_what_waits_to_be_saved_is_saved_when_the_image_is_left(
    left: str, window: Window, phantom: Phantom, tmp_path: Path
) -> None:
    image = window.open(phantom.volume)
    segment(window, phantom, "liver")
    window.push("accept")
    controller, expected, target = window.controller, window.mask().copy(), tmp_path / "mask.nii.gz"
    other = window.viewer.add_image(np.random.default_rng(0).random((9, 9, 9)), name="other")
    window.settle()
    controller.use_image(image)
    controller._thread.submit = lambda _: None  # it takes for ever
    controller.workspace.points[True].add(controller.workspace.frame.order.to_viewer(phantom.middle_of("spleen")))
    window.qtbot.waitUntil(lambda: controller.busy)
    controller.save(target)
    assert not target.exists()
    if left == "for another image":
        controller.use_image(other)
    elif left == "deleted":
        window.viewer.layers.remove(image)
    elif left == "dock closed":
        close_dock(window)
    else:
        QApplication.instance().aboutToQuit.emit()
    window.qtbot.waitUntil(target.exists, timeout=20_000)
    saved = read_volume(target)
    np.testing.assert_array_equal(np.asarray(saved.array) == 1, expected)
    np.testing.assert_allclose(saved.affine, phantom.volume.affine)


def test_a_mask_saved_without_its_newest_clicks_is_told(window: Window, phantom: Phantom, tmp_path: Path) -> None:
    window.open(phantom.volume)
    window.controller.auto_run = False
    segment(window, phantom, "liver")
    window.controller.save(tmp_path / "mask.nii.gz")
    window.qtbot.waitUntil(lambda: "lacks what its newest clicks say" in window.controller.message, timeout=20_000)


def test_a_name_without_an_ending_takes_the_chosen_one(
    window: Window, phantom: Phantom, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert with_ending(Path("a"), "OME-TIFF (*.ome.tif)") == Path("a.ome.tif")
    assert with_ending(Path("v1.2"), "NRRD (*.nrrd)") == Path("v1.2.nrrd")
    assert with_ending(Path("a.NRRD"), "NIfTI (*.nii.gz *.nii)") == Path("a.NRRD")
    assert with_ending(Path("a.nrrd"), "NIfTI (*.nii.gz *.nii)") == Path("a.nrrd")
    assert with_ending(Path("a"), "") == Path("a")
    window.open(phantom.volume, name="T1 / T2")
    proposed: list[str] = []

    def choose(_parent: Any, _title: str, name: str, filters: str) -> tuple[str, str]:
        proposed.append(name)
        return str(tmp_path / "mask"), filters.split(";;", maxsplit=1)[0]

    monkeypatch.setattr(QFileDialog, "getSaveFileName", choose)
    window.push("save ...")
    window.qtbot.waitUntil((tmp_path / "mask.nii.gz").exists, timeout=20_000)
    assert proposed == ["T1 _ T2_mask.nii.gz"]


def test_a_file_that_the_dialog_did_not_ask_about_is_asked_about(
    window: Window, phantom: Phantom, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    window.open(phantom.volume)
    (tmp_path / "liver.nii.gz").write_bytes(b"yesterday's")
    answers, saved = [QMessageBox.StandardButton.No, QMessageBox.StandardButton.Yes], []
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *_: (str(tmp_path / "liver"), "NIfTI (*.nii.gz *.nii)"))
    monkeypatch.setattr(QMessageBox, "question", lambda *_: answers.pop(0))
    monkeypatch.setattr(window.controller, "save", saved.append)
    window.push("save ...")
    assert not saved
    window.push("save ...")
    assert saved == [tmp_path / "liver.nii.gz"]
    assert not answers
