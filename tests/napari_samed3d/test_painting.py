"""Paint in the objects' layer: beside clicks, while an answer grows, under other labels, and taken back by napari."""

import numpy as np
import pytest
from driver import CORNER, MISSING, Window, asked, corner, dice, error_shown, grown, paint, segment, truth, world_of

from backend.inference.canvas import MaskPatch
from backend.inference.prompts import Click, InitialMask
from backend.phantom import Phantom
from napari_samed3d.worker import Answer, ModelChoice


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


def test_paint_goes_only_where_an_answer_was_asked_for(window: Window, phantom: Phantom) -> None:
    window.open(phantom.volume)
    assert not window.widget.buttons["accept"].enabled
    window.controller.workspace.labels.paint((10, 20, 20), 1)
    painted = window.mask().copy()
    assert painted.any()
    window.settle()
    assert window.widget.buttons["accept"].enabled
    for change in (window.controller.redo, lambda: window.controller.use_model(ModelChoice("region", "cpu"))):
        change()
        window.wait_idle()
        assert np.array_equal(window.mask(), painted)
    window.push("accept")
    segment(window, phantom, "liver")
    window.controller.workspace.labels.paint((2, 2, 2), 2)
    corrected = window.mask(2).copy()
    window.controller.use_model(ModelChoice("region", "auto"))
    window.wait_idle()
    assert np.array_equal(window.mask(2), corrected)
    assert np.array_equal(window.mask(1), painted)
    window.widget.objects.value = 1  # where paint may lie, too
    window.settle()
    window.click(world_of(window, phantom.middle_of("spleen")))
    window.controller.use_model(ModelChoice("region", "cpu"))  # before the click was answered
    window.wait_idle()
    assert dice(window.mask(1), truth(phantom, "spleen")) > 0.8


def test_paint_taken_back_or_brought_again_by_napari_is_seen(window: Window, phantom: Phantom) -> None:
    window.open(phantom.volume)
    labels = window.controller.workspace.labels
    segment(window, phantom, "liver")
    liver = window.mask().copy()
    labels.paint((2, 2, 2), 1)
    segment(window, phantom, "spleen")
    assert window.mask().sum() > liver.sum()
    labels.undo()  # of napari, which tells nobody
    segment(window, phantom, "kidney_left")
    assert not (window.mask() & (labels_ball(window) & ~liver)).any()
    labels.redo()
    window.push("reset")
    assert not window.controller.workspace.objects.array.any()


def kept_paint(window: Window) -> np.ndarray:
    """The mask that is among the open object's prompts."""
    (mask,) = (p.mask for p in window.controller.workspace.objects.history.prompts if isinstance(p, InitialMask))
    return mask


def labels_ball(window: Window) -> np.ndarray:
    """What a brush at (2, 2, 2) of the layer paints."""
    objects = window.controller.workspace.objects.array
    ball = np.zeros_like(objects)
    window.controller.workspace.frame.order.show(ball)[:6, :6, :6] = 1
    return ball.astype(bool)


def test_paint_made_while_the_dock_was_closed_stays(window: Window, phantom: Phantom) -> None:
    window.open(phantom.volume)
    segment(window, phantom, "liver")
    labels = window.controller.workspace.labels
    window.viewer.window.remove_dock_widget(window.widget)
    window.settle()
    labels.paint((2, 2, 2), 1)
    window.dock()
    painted = window.mask().copy()
    segment(window, phantom, "spleen")
    assert np.array_equal(kept_paint(window), painted)
    window.push("reset")
    assert not window.controller.workspace.objects.array.any()


def test_objects_of_another_type_are_taken_over(window: Window, phantom: Phantom) -> None:
    window.open(phantom.volume)
    segment(window, phantom, "liver")
    labels = window.controller.workspace.labels
    wider = labels.data.astype(np.int64)
    wider[0, 0, 0] = 1
    labels.data = wider  # as napari's own "convert data type"
    segment(window, phantom, "spleen")
    assert window.mask().sum() > np.count_nonzero(wider)  # which looks whether the layer shows the objects' own array
    assert window.controller.workspace.frame.order.show(kept_paint(window))[0, 0, 0]
    before = window.controller.workspace.objects.array.copy()
    labels.data = np.flip(labels.data, 0)  # the same memory, and another order
    assert np.array_equal(window.mask(), np.flip(before == 1, 2))
    labels.data = labels.data[2:]  # and others than there are
    assert labels.data.shape == window.controller.workspace.image.data.shape


def test_redo_is_not_offered_where_paint_took_its_place(window: Window, phantom: Phantom) -> None:
    window.open(phantom.volume)
    segment(window, phantom, "liver")
    segment(window, phantom, "spleen")
    window.push("undo")
    window.wait_idle()
    window.controller.workspace.labels.paint((2, 2, 2), 1)
    window.settle()
    window.push("redo")
    window.wait_idle()
    assert not window.widget.buttons["redo"].enabled


@pytest.mark.parametrize("how", ["brush", "script", "dock closed"])
def test_an_object_that_was_made_by_hand_is_opened_and_corrected(how: str, window: Window, phantom: Phantom) -> None:
    window.open(phantom.volume)
    labels = window.controller.workspace.labels
    if how == "brush":
        labels.selected_label = 3
        labels.paint((2, 2, 2), labels.selected_label)
    elif how == "script":
        labels.data = np.where(np.arange(labels.data.shape[0])[:, None, None] < 3, 3, labels.data)
    else:
        window.viewer.window.remove_dock_widget(window.widget)
        labels.data[:3] = 3
        window.dock()
    window.settle()
    made = window.mask(3).copy()
    assert made.any()
    assert 3 in window.widget.objects.choices
    window.widget.objects.value = 3
    window.settle()
    segment(window, phantom, "spleen")
    assert isinstance(window.controller.workspace.objects.history.prompts[0], InitialMask)
    assert dice(window.mask(3) & ~made, truth(phantom, "spleen")) > 0.8
