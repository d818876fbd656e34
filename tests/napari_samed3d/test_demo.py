"""The demo: what it clicks, and the pictures it leaves."""

import sys
from itertools import pairwise
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image, ImageSequence

from backend.io import read_volume
from backend.phantom import torso
from napari_samed3d import demo


def test_the_demo_clicks_corrects_and_leaves_pictures(window, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("napari.Viewer", lambda **_: window.viewer)
    phantom = torso()
    inside, outside = phantom.middle_of("liver"), phantom.middle_of("spleen")
    options = ["--point", *map(str, inside), "--correct", *map(str, outside), "--correct", *map(str, outside)]
    monkeypatch.setattr(sys, "argv", ["demo", *options, "--screenshot", str(tmp_path / "out")])
    assert demo.main() == 0

    film = Image.open(tmp_path / "out/clicks.gif")
    frames = [np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(film)]
    assert len(frames) == 7  # before, and each of three clicks with its answer
    assert all((one != next_).any() for one, next_ in pairwise(frames))
    for name in ("window-2d.png", "window-3d.png"):
        assert Image.open(tmp_path / "out" / name).size[0] > 1000
    mask = read_volume(tmp_path / "out/mask.nii.gz").array
    assert mask[inside]
    assert not mask[outside]  # the first click there was positive, the second negative


@pytest.mark.usefixtures("window")
def test_without_a_place_it_is_the_middle_whatever_the_orientation(tmp_path: Path) -> None:
    """Of a sagittal file too, whose axes the viewer shows in another order."""
    path = tmp_path / "sagittal.nii.gz"
    affine = np.array([[0, 0, 3.0, 0], [-1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1]])
    nib.save(nib.Nifti1Image(np.zeros((40, 30, 6), np.float32), affine), path)
    assert demo.places_of(demo.parser().parse_args([str(path)]), read_volume(path)) == [(20, 15, 3)]


def test_a_place_beyond_the_volume_is_an_error_of_one_line(
    window, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("napari.Viewer", lambda **_: window.viewer)
    monkeypatch.setattr(sys, "argv", ["demo", "--point", "1", "1", "999"])
    assert demo.main() == 2
    assert "999" in capsys.readouterr().err
