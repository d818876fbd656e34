"""Saving: when, in which order, under which name, and what the person is told."""

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from driver import CORNER, Window, close_dock, grown, paint, segment
from qtpy.QtWidgets import QApplication, QFileDialog, QMessageBox

from backend.io import read_volume, write_mask
from backend.phantom import Phantom
from backend.volume import Volume
from napari_samed3d import saving
from napari_samed3d.widget import with_ending


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
