"""The window stays alive while the model thinks, and shows what was asked last."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from driver import Window, world_of
from qtpy.QtCore import QTimer

from backend.inference.engine import Engine
from backend.models.config import VIT_B_ORI
from backend.models.sam_med3d import SamMed3D
from backend.phantom import Phantom

ACTIONS = ("click", "click", "click", "negative", "undo", "redo", "reset", "accept", "cancel", "wait", "wait")


@pytest.fixture
def full_size(monkeypatch: pytest.MonkeyPatch) -> Engine:
    """The full-size network with seeded random weights, in the place of whatever model is asked for."""
    torch.manual_seed(0)
    engine = Engine(SamMed3D(VIT_B_ORI).eval(), torch.device("cpu"))
    monkeypatch.setattr("napari_samed3d.worker.load_engine", lambda *_, **__: engine)
    return engine


@contextmanager
def watch_event_loop() -> Iterator[list[float]]:
    """Collect how long (s) the event loop took between two turns of a timer of 5 ms."""
    gaps: list[float] = []
    last = time.perf_counter()

    def tick() -> None:
        nonlocal last
        now = time.perf_counter()
        gaps.append(now - last)
        last = now

    timer = QTimer()
    timer.timeout.connect(tick)
    timer.start(5)
    yield gaps
    timer.stop()


@pytest.mark.usefixtures("full_size")
def test_the_event_loop_is_never_blocked_for_100_ms(window: Window, phantom: Phantom) -> None:
    window.viewer.window.resize(700, 500)
    window.open(phantom.volume)
    targets = [world_of(window, phantom.middle_of(name)) for name in ("aorta", "lung_left", "kidney_right")]
    window.widget.follow.value = False
    window.click(world_of(window, phantom.middle_of("spleen")))  # after this, what is done only once is done
    window.wait_idle()
    window.widget.follow.value = True  # random weights fill every window, so that this goes on and on
    # A turn that our code makes too long is too long every time; one that another process makes too long is not.
    assert any(_longest_turn(window, target) < 0.1 for target in targets)


def _longest_turn(window: Window, target: np.ndarray) -> float:
    """The longest turn of the event loop (s) while a click is answered by four windows, some seconds long."""
    controller = window.controller
    controller.reset()
    window.wait_idle()
    start = time.perf_counter()
    with watch_event_loop() as gaps:
        window.click(target)
        window.qtbot.waitUntil(lambda: "4 windows" in controller.message, timeout=60_000)
    seconds = time.perf_counter() - start
    controller.cancel()
    if seconds < 1:
        pytest.skip("the prediction is too short on this machine to say anything")
    print(f"longest turn of the event loop {1000 * max(gaps):.0f} ms in {seconds:.1f} s")
    return max(gaps)


def test_a_storm_of_clicks_and_edits(window: Window, phantom: Phantom) -> None:
    """Random clicks, undo, redo, reset, accept and cancel; at the end the mask is that of the last prompts."""
    window.viewer.window.resize(700, 500)
    window.open(phantom.volume)
    window.widget.follow.value = False
    controller, rng = window.controller, np.random.default_rng(0)
    accepted: dict[int, np.ndarray] = {}
    for event in range(500):
        workspace = controller.workspace
        action = rng.choice(ACTIONS)
        if action in ("click", "negative"):
            kind = action == "click" or not workspace.objects.history.prompts
            index = rng.uniform(-2, np.array(phantom.volume.shape) + 1)
            workspace.points[kind].add(workspace.frame.order.to_viewer(index))
        elif action == "accept":
            window.wait_idle() if event % 5 == 0 else None
            label = controller.current
            mask = window.mask(label).copy()
            controller.accept()
            if controller.current != label:
                accepted[label] = mask
        elif action == "wait":
            window.qtbot.wait(5)
        else:
            getattr(controller, action)()
        for label, mask in accepted.items():
            assert np.array_equal(window.mask(label), mask)
    window.settle()
    controller.run()
    window.wait_idle()
    shown = window.mask(controller.current).copy()
    controller.run()
    window.wait_idle()
    assert np.array_equal(window.mask(controller.current), shown)


@pytest.mark.usefixtures("full_size")
def test_cancel_keeps_the_window_usable(window: Window, phantom: Phantom) -> None:
    window.open(phantom.volume)
    window.widget.follow.value = False
    workspace = window.controller.workspace
    workspace.points[True].add(workspace.frame.order.to_viewer(phantom.middle_of("liver")))
    window.qtbot.waitUntil(lambda: window.controller.busy)
    window.push("cancel")
    assert not window.controller.busy
    assert window.controller.message == "Cancelled."
    window.qtbot.wait(2500)  # whatever was under way arrives, and is stale
    assert not window.mask().any()
    window.push("run")
    window.wait_idle()
    assert window.controller.message.startswith("Object 1: ")


@pytest.mark.usefixtures("full_size")
def test_closing_the_viewer_while_the_model_works(window: Window, phantom: Phantom) -> None:
    window.open(phantom.volume)
    workspace = window.controller.workspace
    workspace.points[True].add(workspace.frame.order.to_viewer(phantom.middle_of("liver")))
    window.qtbot.waitUntil(lambda: window.controller.busy)
    window.viewer.close()
