"""Reader, writer, sample data and menus, as napari calls them."""

import hashlib
import pickle
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from driver import Window
from napari.layers import Image, Labels

from backend.errors import SamMed3DError
from backend.io import FramesError, read_volume
from backend.phantom import Phantom
from napari_samed3d import sample
from napari_samed3d.reader import contrast_limits, get_reader, read_volumes, volume_layer
from napari_samed3d.workspace import Workspace
from napari_samed3d.writer import write_labels

OBLIQUE = np.array([[0, -0.9, 0.3, 10], [0.1, 0.2, 2.9, -20], [-1.1, 0, 0.2, 30], [0, 0, 0, 1.0]])


@pytest.fixture
def oblique(tmp_path: Path) -> Path:
    """A NIfTI file whose axes are permuted, flipped and oblique."""
    path = tmp_path / "oblique.nii.gz"
    values = np.random.default_rng(0).integers(-1000, 1000, (6, 7, 8)).astype(np.int16)
    nib.save(nib.Nifti1Image(values, OBLIQUE), path)
    return path


def test_read_change_write_keeps_the_grid(oblique: Path, tmp_path: Path) -> None:
    reader = get_reader(str(oblique))
    assert reader is not None
    ((data, kwargs, kind),) = reader(str(oblique))
    assert kind == "image"
    # A labels layer on the image's grid, as the widget makes it, saved by napari's own dialog.
    labels = Labels(
        (data > 0).astype(np.uint8), **{k: v for k, v in kwargs.items() if k not in ("name", "contrast_limits")}
    )
    target = tmp_path / "mask.nii.gz"
    layer_data, meta, _ = labels.as_layer_data_tuple()
    assert write_labels(str(target), layer_data, meta) == [str(target)]
    image, mask = read_volume(oblique), read_volume(target)
    assert np.array_equal(mask.affine, image.affine)
    assert np.array_equal(np.asarray(mask.array), np.asarray(image.array) > 0)


def test_the_objects_of_the_widget_are_written_on_the_images_grid(oblique: Path, tmp_path: Path) -> None:
    """By napari's own dialog."""
    volume = read_volume(oblique)
    data, kwargs, _ = volume_layer(volume, "scan")
    workspace = Workspace.of(Image(data, **kwargs))
    workspace.objects.array[1:3, 2:6, 4:7] = 1
    target = tmp_path / "mask.nii.gz"
    layer_data, meta, _ = workspace.labels.as_layer_data_tuple()
    write_labels(str(target), layer_data, meta)
    mask = read_volume(target)
    np.testing.assert_array_equal(mask.affine, volume.affine)
    np.testing.assert_array_equal(mask.array, workspace.objects.array)


def test_each_channel_becomes_a_layer_and_a_long_series_is_refused(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 1000, (6, 7, 8, 9)).astype(np.int16)
    few, many = tmp_path / "few.nii.gz", tmp_path / "many.nii.gz"
    nib.save(nib.Nifti1Image(values[..., :3], OBLIQUE), few)
    nib.save(nib.Nifti1Image(values, OBLIQUE), many)
    layers = read_volumes(str(few))
    assert [kwargs["name"] for _, kwargs, _ in layers] == ["few [0]", "few [1]", "few [2]"]
    for frame, (data, _, kind) in enumerate(layers):
        assert kind == "image"
        assert np.array_equal(np.sort(data, axis=None), np.sort(values[..., frame], axis=None))
    with pytest.raises(FramesError, match=r"9 \(time points or channels\).*for napari") as caught:
        read_volumes(str(many))
    assert pickle.loads(pickle.dumps(caught.value)).frames == 9


def test_labels_written_as_floating_point_numbers_are_labels(tmp_path: Path) -> None:
    for name, values in {"whole": [0.0, 3.0], "share": [0.0, 0.5]}.items():
        image = nib.Nifti1Image(np.resize(np.array(values, np.float32), (4, 5, 6)), OBLIQUE)
        image.header.set_intent("label")
        nib.save(image, tmp_path / f"{name}.nii.gz")
    ((data, _, kind),) = read_volumes(str(tmp_path / "whole.nii.gz"))
    assert kind == "labels"
    assert set(np.unique(Labels(data).data)) == {0, 3}
    ((_, _, kind),) = read_volumes(str(tmp_path / "share.nii.gz"))
    assert kind == "image"


def test_labels_of_unknown_origin_are_written_by_their_transform(tmp_path: Path) -> None:
    labels = Labels(np.arange(24, dtype=np.uint8).reshape(2, 3, 4), scale=(3, 2, 1), units=("mm",) * 3)
    data, meta, _ = labels.as_layer_data_tuple()
    write_labels(str(tmp_path / "a.nrrd"), data, meta)
    volume = read_volume(tmp_path / "a.nrrd")
    assert np.allclose(volume.spacing, (1, 2, 3))
    assert np.array_equal(volume.array, labels.data.transpose())


def test_of_a_pyramid_of_labels_the_finest_level_is_written(tmp_path: Path) -> None:
    fine = np.zeros((8, 8, 8), np.uint8)
    fine[2:6, 2:6, 2:6] = 1
    data, meta, _ = Labels([fine, fine[::2, ::2, ::2]], units=("mm",) * 3).as_layer_data_tuple()
    write_labels(str(tmp_path / "a.nrrd"), data, meta)
    volume = read_volume(tmp_path / "a.nrrd")
    assert np.allclose(volume.spacing, 1)
    assert np.count_nonzero(np.asarray(volume.array)) == 64


def test_the_reader_refuses_what_is_not_its_own() -> None:
    assert get_reader("picture.png") is None
    assert get_reader(["a.nii", "b.png"]) is None


def test_a_folder_of_another_kind_is_left_to_its_reader(tmp_path: Path) -> None:
    assert get_reader(str(tmp_path)) is not None
    (tmp_path / ".zgroup").touch()
    assert get_reader(str(tmp_path)) is None
    assert get_reader("x" * 300) is None


def test_a_constant_of_any_size_has_limits() -> None:
    low, high = contrast_limits(np.full((4, 4, 4), 1e16, np.float32))
    assert low < high


def test_a_bad_file_is_the_users_error(tmp_path: Path) -> None:
    path = tmp_path / "bad.nii.gz"
    path.write_bytes(b"not a volume")
    with pytest.raises(SamMed3DError):
        read_volumes(str(path))


def test_phantom_sample_and_menus(window: Window) -> None:
    (image,) = window.viewer.open_sample("napari-samed3d", "phantom")
    assert image.ndim == 3
    window.dock()
    assert window.controller.workspace.image == image


def test_the_widget_is_in_the_plugin_and_the_layers_menu(window: Window) -> None:
    def titles(menu: Any) -> list[str]:
        out = []
        for action in menu.actions():
            out.append(action.text().replace("&", ""))
            if action.menu() is not None:
                out += titles(action.menu())
        return out

    main = window.viewer.window
    main.plugins_menu.aboutToShow.emit()
    assert any("SAM-Med3D" in title for title in titles(main.plugins_menu))
    main.layers_menu.aboutToShow.emit()
    assert any("SAM-Med3D" in title for title in titles(main.layers_menu))


@pytest.fixture
def mirror(tmp_path: Path) -> Any:
    """A local server with the sample under its name, and what it holds."""
    folder = tmp_path / "served"
    folder.mkdir()
    values = np.zeros((4, 5, 6), dtype=np.uint8)
    nib.save(nib.Nifti1Image(values, np.eye(4)), folder / "example_ct.nii.gz")
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/example_ct.nii.gz", folder / "example_ct.nii.gz"
    server.shutdown()
    server.server_close()


def test_the_sample_ct_is_downloaded_once(mirror: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url, served = mirror
    monkeypatch.setattr(sample, "CT_URL", url)
    monkeypatch.setattr(sample, "CT_SHA256", hashlib.sha256(served.read_bytes()).hexdigest())
    monkeypatch.setattr("pooch.os_cache", lambda _: tmp_path / "cache")
    ((data, _, kind),) = sample.abdomen_ct()
    assert (data.shape, kind) == ((6, 5, 4), "image")
    served.unlink()
    assert sample.abdomen_ct()[0][0].shape == (6, 5, 4)


def test_a_changed_sample_is_refused(mirror: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sample, "CT_URL", mirror[0])
    monkeypatch.setattr("pooch.os_cache", lambda _: tmp_path / "cache")
    with pytest.raises(SamMed3DError, match="phantom"):
        sample.abdomen_ct()


def test_phantom_organs_are_where_it_says(phantom: Phantom) -> None:
    for name in phantom.names:
        x, y, z = phantom.middle_of(name)
        assert phantom.names[phantom.labels[x, y, z] - 1] == name
