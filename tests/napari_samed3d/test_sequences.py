"""What people do between clicks: close the dock, rotate, crop, cancel, open a second panel."""

import numpy as np
import pytest
from driver import Window, asked, close_dock, dice, error_shown, grown, segment, truth, world_of
from napari.layers import Image
from qtpy.QtCore import Qt

from backend.errors import ErrorCode, SamMed3DError
from backend.geometry import to_world
from backend.inference.canvas import MaskPatch
from backend.phantom import Phantom
from backend.volume import Volume
from napari_samed3d import texts
from napari_samed3d.frames import frame_of
from napari_samed3d.picking import first_voxel_above
from napari_samed3d.reader import volume_layer
from napari_samed3d.widget import SegmentWidget
from napari_samed3d.worker import Answer, Failure

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


def test_a_mask_that_grew_until_an_error_is_accepted_as_far_as_it_came(window: Window, phantom: Phantom) -> None:
    controller, answer = grown(window, phantom)
    with error_shown("slice 7"):
        controller._on_failure(
            Failure(answer.generation, SamMed3DError(ErrorCode.FILE_READ, "slice 7", "Copy it again."))
        )
    controller.accept()
    assert (controller.current, window.mask(1).sum()) == (2, 64)
