"""What people do with the layers beside clicking: drag, delete, select, move, switch."""

import gc
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pytest
from driver import Window, dice, error_shown, segment, truth, world_of
from napari.layers import Image
from qtpy.QtCore import Qt
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QRadioButton

from backend.inference.canvas import MaskPatch
from backend.io import read_volume
from backend.phantom import Phantom
from napari_samed3d import texts
from napari_samed3d.frames import frame_of
from napari_samed3d.picking import first_voxel_above, intensity_range
from napari_samed3d.reader import volume_layer
from napari_samed3d.worker import ModelChoice


def prompts_of(window: Window) -> list[tuple[tuple[float, ...], bool]]:
    """Voxel and sign of each click of the open object, in order."""
    history = window.controller.workspace.objects.history
    return [(tuple(np.rint(prompt.point).astype(int).tolist()), prompt.positive) for prompt in history.prompts]


def second_image(window: Window, phantom: Phantom) -> Image:
    data, kwargs, _ = volume_layer(phantom.volume, "second")
    image = window.viewer.add_image(data, **kwargs)
    window.settle()
    return image


@pytest.mark.parametrize("moved", [0, 1])
def test_a_point_is_dragged_and_its_click_keeps_its_place(window: Window, phantom: Phantom, moved: int) -> None:
    window.open(phantom.volume)
    x, y, z = phantom.middle_of("liver")
    places = [(x, y, z), (x + 6, y, z), (x, y + 6, z)]
    window.click(world_of(window, places[0]))
    window.press(Qt.Key.Key_T)
    window.click(world_of(window, places[1]))
    window.press(Qt.Key.Key_T)
    window.click(world_of(window, places[2]))
    window.wait_idle()
    before = prompts_of(window)
    assert [positive for _, positive in before] == [True, False, True]
    layer = window.controller.workspace.points[True]
    layer.mode = "select"
    end = np.add(places[2 * moved], (-4, -3, 0))
    window.drag(world_of(window, places[2 * moved]), world_of(window, end))
    window.wait_idle()
    after = prompts_of(window)
    assert [n for n in range(3) if before[n] != after[n]] == [2 * moved]
    assert np.abs(np.subtract(after[2 * moved][0], end)).max() <= 1
    window.controller.undo()  # the whole drag is one step
    window.wait_idle()
    assert prompts_of(window) == before


def test_a_point_in_3d_is_dragged_along_the_surface(window: Window, phantom: Phantom) -> None:
    window.viewer.window.resize(600, 400)
    window.open(phantom.volume)
    window.viewer.dims.ndisplay = 3
    window.widget.threshold.value = 340.0
    window.settle()
    segment(window, phantom, "vertebrae")
    layer = window.controller.workspace.points[True]
    start = layer.data_to_world(layer.data[0])
    layer.mode = "select"
    window.drag(start, np.add(start, (0, 0, 4)))  # still on the vertebrae
    window.wait_idle()
    ((point, _),) = prompts_of(window)
    assert np.asarray(phantom.volume.array)[point] > 340
    assert not np.allclose(layer.data_to_world(layer.data[0]), start)


def test_deleting_the_first_click_leaves_the_next_positive_one_first(window: Window, phantom: Phantom) -> None:
    window.open(phantom.volume)
    workspace = window.controller.workspace
    x, y, z = phantom.middle_of("liver")
    for kind, point in ((True, (x, y, z)), (False, (x + 6, y, z)), (True, (x, y + 6, z))):
        workspace.points[kind].add(workspace.frame.order.to_viewer(point))
        window.wait_idle()
    workspace.points[True].selected_data = {0}
    workspace.points[True].remove_selected()
    window.wait_idle()
    assert prompts_of(window) == [((x, y + 6, z), True), ((x + 6, y, z), False)]


def test_objects_looked_at_one_after_the_other_stay(window: Window, phantom: Phantom) -> None:
    window.open(phantom.volume)
    for name in ("liver", "spleen"):
        segment(window, phantom, name)
        window.push("accept")
    segment(window, phantom, "kidney_left")  # and not accepted
    before = window.controller.workspace.objects.array.copy()
    for label in (1, 2, 3, 2):
        window.widget.objects.value = label
        window.wait_idle()
        assert window.controller.current == label
    assert np.array_equal(window.controller.workspace.objects.array, before)
    assert list(window.widget.objects.choices) == [1, 2, 3]


def test_a_renamed_image_is_still_the_one_that_is_worked_on(window: Window, phantom: Phantom) -> None:
    window.open(phantom.volume)
    window.widget.image.value = second = second_image(window, phantom)
    window.settle()
    second.name = "another"
    assert window.widget.image.current_choice == "another"
    window.viewer.add_points(np.zeros((1, 3)))
    window.settle()
    assert window.controller.workspace.image is second
    assert window.widget.image.value is second


def test_an_object_left_before_its_answer_is_answered_when_it_is_opened_again(window: Window, phantom: Phantom) -> None:
    window.open(phantom.volume)
    segment(window, phantom, "liver")
    window.push("accept")
    workspace = window.controller.workspace
    workspace.points[True].add(workspace.frame.order.to_viewer(phantom.middle_of("spleen")))
    window.controller._sync()
    for label in (1, 2):  # before the answer
        window.controller.reopen(label)
    window.wait_idle()
    assert dice(window.mask(2), truth(phantom, "spleen")) > 0.8


def test_another_model_answers_an_object_that_was_opened_again(window: Window, phantom: Phantom) -> None:
    window.open(phantom.volume)
    segment(window, phantom, "liver")
    objects = window.controller.workspace.objects
    objects.show(MaskPatch((0, 0, 0), np.ones((1, 1, 1), dtype=bool)))  # of an earlier model
    objects.settle()
    window.push("accept")
    segment(window, phantom, "spleen")
    window.controller.reopen(1)
    window.controller.use_model(ModelChoice("region", "cpu"))
    window.wait_idle()
    assert dice(window.mask(1), truth(phantom, "liver")) > 0.85


def test_a_deleted_image_leaves_the_memory(window: Window, phantom: Phantom) -> None:
    voxels = phantom.volume.array[...].copy()
    image = window.open(replace(phantom.volume, array=voxels))
    segment(window, phantom, "liver")
    gone = [weakref.ref(image), weakref.ref(voxels)]
    window.viewer.layers.remove(image)
    del image, voxels

    def nothing_left() -> bool:
        gc.collect()
        return [thing() for thing in gone] == [None, None]

    window.qtbot.waitUntil(nothing_left, timeout=30_000)  # napari computes on it for a while


def test_what_is_known_of_one_image_outlasts_another(window: Window, phantom: Phantom) -> None:
    first = window.open(phantom.volume)
    window.widget.image.value = second_image(window, phantom)
    window.settle()
    segment(window, phantom, "liver")
    solver = window.controller._thread._solver
    assert solver is not None
    window.viewer.layers.remove(first)
    window.settle()
    assert window.controller._thread._solver is solver


def test_the_threshold_of_small_values_spans_them() -> None:
    image = Image(np.linspace(0, 1e-3, 64, dtype=np.float32).reshape(4, 4, 4))
    assert intensity_range(image) == (0, pytest.approx(1e-3))
    assert intensity_range(Image(np.full((4, 4, 4), 2.0))) == (2, 3)


def test_layers_deleted_together(window: Window, phantom: Phantom) -> None:
    window.open(phantom.volume)
    segment(window, phantom, "liver")
    window.viewer.layers.selection = set(window.viewer.layers)
    window.viewer.layers.remove_selected()
    window.settle()
    assert list(window.viewer.layers) == []
    assert window.controller.workspace is None


def test_an_image_that_was_scaled_takes_its_layers_along(window: Window, phantom: Phantom) -> None:
    image = window.open(phantom.volume)
    segment(window, phantom, "liver")
    before = prompts_of(window)
    spacing = np.array(window.controller.workspace.frame.volume.spacing)
    image.scale = np.multiply(image.scale, 2)
    window.wait_idle()
    workspace = window.controller.workspace
    assert workspace.image is image
    np.testing.assert_allclose(workspace.frame.volume.spacing, 2 * spacing)
    for layer in workspace.layers:
        np.testing.assert_allclose(layer.scale, image.scale)
    assert prompts_of(window) == before
    assert dice(window.mask(), truth(phantom, "liver")) > 0.7
    window.push("undo")
    segment(window, phantom, "spleen")
    assert np.abs(np.subtract(prompts_of(window)[-1][0], phantom.middle_of("spleen"))).max() <= 1
    image.scale = np.divide(image.scale, 2)
    window.wait_idle()
    assert np.array_equal(workspace.frame.volume.affine, phantom.volume.affine)


TURN = np.array([[0.8, -0.6, 0.0], [0.6, 0.8, 0.0], [0.0, 0.0, 1.0]])
AFFINE = np.block([[TURN, np.array([[4.0], [-9.0], [20.0]])], [np.zeros((1, 3)), np.ones((1, 1))]])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("translate", (10.0, -20.0, 30.0)),
        ("rotate", TURN),
        ("shear", (0.1, 0.0, 0.2)),
        ("affine", AFFINE),
        ("units", ("cm",) * 3),
    ],
)
def test_an_image_that_was_moved_takes_its_layers_along(
    name: str, value: Any, window: Window, phantom: Phantom, tmp_path: Path
) -> None:
    image = window.open(phantom.volume)
    segment(window, phantom, "liver")
    workspace, before = window.controller.workspace, window.controller.workspace.frame.volume.affine
    setattr(image, name, value)
    window.wait_idle()
    expected = frame_of(image, workspace.frame.order).volume.affine
    assert not np.allclose(expected, before)
    np.testing.assert_allclose(workspace.frame.volume.affine, expected)
    for layer in workspace.layers:
        np.testing.assert_allclose(layer.data_to_world((5, 6, 7)), image.data_to_world((5, 6, 7)))
        assert layer.units == image.units
    target = tmp_path / "mask.nii.gz"
    window.controller.save(target)
    window.qtbot.waitUntil(lambda: window.controller.message == f"Saved {target}.", timeout=20_000)
    np.testing.assert_allclose(read_volume(target).affine, expected, rtol=1e-5, atol=1e-4)


def test_a_refused_image_leaves_the_one_that_is_worked_on(window: Window, phantom: Phantom) -> None:
    image = window.open(phantom.volume)
    series = window.viewer.add_image(np.zeros((2, 8, 8, 8), dtype=np.uint8), name="series")
    with error_shown("Split Stack"):
        window.widget.image.value = series
    window.settle()
    assert window.widget.image.value is image
    window.viewer.layers.remove(series)
    window.controller.set_next_kind(True)
    segment(window, phantom, "liver")
    assert dice(window.mask(), truth(phantom, "liver")) > 0.85


def test_a_click_in_3d_beside_a_layer_of_more_axes(window: Window, phantom: Phantom) -> None:
    window.viewer.window.resize(600, 400)
    window.open(phantom.volume)
    window.viewer.add_image(np.zeros((2, 8, 8, 8), dtype=np.uint8), name="series", visible=False)
    window.viewer.layers.selection.active = window.controller.workspace.points[True]
    window.viewer.dims.ndisplay = 3
    window.widget.threshold.value = 340.0
    window.settle()
    segment(window, phantom, "vertebrae")
    ((point, _),) = prompts_of(window)
    assert np.asarray(phantom.volume.array)[point] > 340


def test_the_kind_that_is_chosen_can_be_pressed(window: Window, phantom: Phantom) -> None:
    image = window.open(phantom.volume)
    window.viewer.layers.selection.active = image
    window.settle()
    (button,) = [b for b in window.widget.kind.native.findChildren(QRadioButton) if b.text() == "positive"]
    QTest.mouseClick(button, Qt.MouseButton.LeftButton, pos=button.rect().center() * 0.2)
    window.settle()
    assert window.viewer.layers.selection.active is window.controller.workspace.points[True]


def test_an_answer_that_was_left_comes_when_the_image_is_chosen_again(window: Window, phantom: Phantom) -> None:
    first = window.open(phantom.volume)
    second = second_image(window, phantom)
    one = window.controller.workspace
    one.points[True].add(one.frame.order.to_viewer(phantom.middle_of("liver")))
    window.controller._sync()
    window.controller.use_image(second)  # before the answer
    one.threshold = 123.0
    window.settle()
    assert not one.objects.array.any()
    window.widget.image.value = first
    window.wait_idle()
    assert dice(window.mask(), truth(phantom, "liver")) > 0.85
    assert window.widget.threshold.value == 123.0


def test_the_objects_of_another_image_can_be_selected_to_paint(window: Window, phantom: Phantom) -> None:
    window.open(phantom.volume)
    one = window.controller.workspace
    window.widget.image.value = second_image(window, phantom)
    window.settle()
    window.viewer.layers.selection.active = one.labels
    window.settle()
    assert window.controller.workspace is one
    assert window.viewer.layers.selection.active is one.labels


def test_points_fit_a_small_image(window: Window) -> None:
    image = window.viewer.add_image(np.zeros((40, 50, 50), np.uint8), scale=(0.01,) * 3, units=("mm",) * 3)
    window.dock()
    (size,) = {float(layer.current_size) for layer in window.controller.workspace.points.values()}
    assert size * image.scale[0] == pytest.approx(0.02)


def test_a_ray_reads_no_more_of_a_lazy_array_than_lies_around_it() -> None:
    read: list[int] = []

    def block(block_info: dict[int, dict[str, tuple[int, ...]]] | None = None) -> np.ndarray:
        shape = block_info[None]["chunk-shape"]
        read.append(int(np.prod(shape)))
        return np.zeros(shape, np.uint8)

    data = da.map_blocks(block, chunks=((16,) * 16,) * 3, dtype=np.uint8, meta=np.empty((0,) * 3, np.uint8))
    image = Image(data, contrast_limits=(0, 1))
    direction = np.ones(3) / np.sqrt(3)
    read.clear()
    assert first_voxel_above(image, -10 * direction, direction, [0, 1, 2], 0.5) is None
    assert 0 < sum(read) < 0.15 * data.size


def test_a_clicks_layer_deleted_while_the_dock_was_closed_leaves_the_session(window: Window, phantom: Phantom) -> None:
    window.open(phantom.volume)
    segment(window, phantom, "liver")
    window.push("accept")
    workspace = window.controller.workspace
    window.viewer.window.remove_dock_widget(window.widget)
    window.viewer.layers.remove(workspace.points[False])
    window.dock()
    assert window.controller.workspace is workspace
    assert window.controller.current == 2
    assert workspace.points[False] in window.viewer.layers
    assert window.controller.next_kind()


def test_deleting_the_negative_clicks_leaves_the_next_click_positive(window: Window, phantom: Phantom) -> None:
    window.open(phantom.volume)
    segment(window, phantom, "liver")
    window.viewer.layers.remove(window.controller.workspace.points[False])
    window.settle()
    assert window.controller.next_kind()
    assert texts.NO_CLICKS not in window.widget.status.value
    segment(window, phantom, "spleen")
    assert [positive for _, positive in prompts_of(window)] == [True, True]


def test_a_refused_image_is_used_when_it_is_mended_and_chosen_again(window: Window, phantom: Phantom) -> None:
    image = window.viewer.add_image(np.zeros((8, 8, 8)), name="tiny", scale=(4e-6,) * 3, units=("mm",) * 3)
    with error_shown("Correct the voxel size"):
        window.dock()
    image.scale = (1, 1, 1)
    window.widget.image.native.activated.emit(0)
    assert window.controller.workspace.image is image


def test_what_is_no_volume_does_not_stand_in_the_way_of_one(window: Window, phantom: Phantom) -> None:
    window.viewer.add_image(np.zeros((2, 8, 8, 8), dtype=np.uint8), name="series")
    with error_shown("Split Stack"):
        window.dock()
    volume = second_image(window, phantom)
    window.settle()
    assert window.controller.workspace.image is volume
    window.viewer.layers.remove(volume)  # and nobody is told of the series again, which would be shown
    window.settle()
    assert window.controller.message == "Choose an image layer."
