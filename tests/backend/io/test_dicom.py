import importlib
import sys

import numpy as np
import pydicom
import pytest
import samples
from pydicom.uid import BasicTextSRStorage, DeflatedExplicitVRLittleEndian

from backend.errors import ErrorCode, SamMed3DError, SamMed3DWarning
from backend.io import read_volume
from napari_samed3d import reader
from napari_samed3d.reader import read_volumes

pytestmark = pytest.mark.filterwarnings("ignore:.*TIFF has no place:backend.errors.SamMed3DWarning")

STORED = np.stack([100 * k + np.arange(20).reshape(5, 4) for k in range(4)])  # (slice, row, column)


def world(volume, index):
    return volume.affine @ [*index, 1]


def test_a_series_of_slices(tmp_path):
    folder = samples.dicom_series(tmp_path / "ct")
    (folder / "readme.txt").write_text("foreign files are passed over")
    (folder / "empty").touch()
    volume = read_volume(folder)
    assert volume.array.dtype == np.int16
    assert volume.shape == (4, 5, 4)
    assert volume.spacing == (0.6, 0.8, 3.0)
    to_voxel = np.linalg.inv(volume.affine)
    for k, row, column in np.ndindex(4, 5, 4):
        position = [20 - 0.6 * column, 30 - 0.8 * row, 3.0 * k, 1]  # in RAS+: the first two are negated
        x, y, z = np.rint(to_voxel @ position).astype(int)[:3]
        assert volume.array[x, y, z] == STORED[k, row, column] - 1024


def test_one_file_stands_for_its_series(tmp_path):
    folder = samples.dicom_series(samples.dicom_series(tmp_path / "ct"), "1.2.3.2", heights=(0, 3))
    with pytest.raises(SamMed3DError, match=r"'series 1' \(CT, 4 slices.*'series 2' \(CT, 2 slices"):
        read_volume(folder)
    assert read_volume(folder / "1.2.3.2-1.dcm").shape == (4, 5, 2)
    (folder / "1.2.3.1-0.dcm").rename(folder / "IM00001")
    assert read_volume(folder / "IM00001").shape == (4, 5, 4)


def test_a_slope_that_is_not_whole_gives_float32(tmp_path):
    volume = read_volume(samples.dicom_series(tmp_path / "pet", RescaleSlope=0.25, RescaleIntercept=0))
    assert volume.array.dtype == np.float32
    np.testing.assert_array_equal(np.sort(volume.array, axis=None), np.sort(STORED, axis=None) * 0.25)


def test_values_beyond_int16_stay_float32(tmp_path):
    volume = read_volume(samples.dicom_series(tmp_path / "big", RescaleSlope=1000))
    assert volume.array.dtype == np.float32


@pytest.mark.parametrize("heights", [(0, 3, 9, 12), (0, 3, 6, 12, 15)])
def test_missing_slices_are_counted(tmp_path, heights):
    with pytest.raises(SamMed3DError, match="1 slices are missing") as caught:
        read_volume(samples.dicom_series(tmp_path / "ct", heights=heights))
    assert caught.value.code is ErrorCode.VOLUME_GEOMETRY


def test_a_damaged_slice_is_named(tmp_path):
    folder = samples.dicom_series(tmp_path / "ct")
    path = folder / "1.2.3.1-2.dcm"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(SamMed3DError, match=r"1\.2\.3\.1-2\.dcm"):
        read_volume(folder)


def test_no_cut_of_a_slice_is_silent(tmp_path):
    folder = samples.dicom_series(tmp_path / "ct")
    good = read_volume(folder)
    path = folder / "1.2.3.1-3.dcm"
    content = path.read_bytes()
    for size in range(0, len(content), 13):
        path.write_bytes(content[:size])
        with pytest.raises(SamMed3DError, match=path.name):
            read_volume(folder)
    path.write_bytes(content)
    np.testing.assert_array_equal(read_volume(folder).array, good.array)


def test_a_single_slice_has_its_thickness(tmp_path):
    assert read_volume(samples.dicom_series(tmp_path / "a", heights=(0,))).spacing == (0.6, 0.8, 3.0)
    with pytest.warns(SamMed3DWarning, match="voxel size unknown along z"):
        volume = read_volume(samples.dicom_series(tmp_path / "b", heights=(0,), SliceThickness=None))
    assert volume.spacing == (0.6, 0.8, 1.0)


def test_slices_without_class_in_the_data_set(tmp_path):
    assert read_volume(samples.dicom_series(tmp_path / "ct", SOPClassUID="")).shape == (4, 5, 4)


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    folder = samples.dicom_series(tmp_path / "ct")
    monkeypatch.delitem(sys.modules, "backend.io.dicom", raising=False)
    monkeypatch.setitem(sys.modules, "highdicom", None)
    with pytest.raises(SamMed3DError, match=r'pip install "napari-samed3d\[dicom\]"') as caught:
        read_volume(folder)
    assert caught.value.code is ErrorCode.DEPENDENCY_MISSING


def test_the_real_series_is_the_nifti_made_from_it(shared_data):
    importlib.import_module("PIL")  # decodes the JPEG 2000 of this series
    series = read_volume(shared_data / "dicom" / "ts_example_ct_dicom")
    nifti = read_volume(shared_data / "ct_ts_dicom20" / "image.nii.gz")
    assert series.array.dtype == nifti.array.dtype
    between = np.linalg.inv(nifti.affine) @ series.affine  # voxel to voxel: mirrored, but nothing else
    np.testing.assert_allclose(between[:3, :3], np.diag(np.rint(np.diag(between))[:3]), atol=1e-5)
    flips = tuple(slice(None, None, int(np.rint(between[axis, axis]))) for axis in range(3))
    last = [size - 1 if flip.step < 0 else 0 for size, flip in zip(nifti.shape, flips, strict=True)]
    np.testing.assert_allclose(between[:3, 3], last, atol=1e-3)
    np.testing.assert_array_equal(series.array[flips], nifti.array)
    assert len(list((shared_data / "dicom" / "ts_example_ct_dicom").iterdir())) == series.shape[2]


def test_headers_that_are_no_images_are_passed_over(tmp_path):
    folder = samples.dicom_series(tmp_path / "ct")
    report = pydicom.dcmread(folder / "1.2.3.1-0.dcm")
    del report.Rows, report.Columns, report.PixelData
    report.SeriesInstanceUID = "1.2.3.7"
    report.file_meta.MediaStorageSOPClassUID = report.SOPClassUID = BasicTextSRStorage
    report.save_as(folder / "report.dcm")
    assert read_volume(folder).shape == (4, 5, 4)


def test_values_are_those_that_are_stored_also_where_white_is_shown_as_black(tmp_path):
    plain = read_volume(samples.dicom_series(tmp_path / "plain"))
    inverted = samples.dicom_series(
        tmp_path / "inverted", PhotometricInterpretation="MONOCHROME1", PresentationLUTShape="INVERSE"
    )
    np.testing.assert_array_equal(read_volume(inverted).array, plain.array)


def test_what_macos_leaves_beside_slices_is_passed_over(tmp_path):
    folder = samples.dicom_series(tmp_path / "ct")
    (folder / "._1.2.3.1-0.dcm").write_bytes(b"\0\5\x16\7" + bytes(200))
    assert read_volume(folder).shape == (4, 5, 4)


def test_slices_without_a_frame_of_reference(tmp_path):
    assert read_volume(samples.dicom_series(tmp_path / "ct", FrameOfReferenceUID=None)).shape == (4, 5, 4)


def test_slices_dropped_on_the_window_together_are_one_layer(tmp_path):
    folder = samples.dicom_series(samples.dicom_series(tmp_path / "ct"), "1.2.3.2", heights=(0, 3))
    files = sorted(map(str, folder.iterdir()))
    one_by_one = [layer for file in files for layer in read_volumes(file) if layer[0] is not None]
    assert [data.shape for data, _, _ in one_by_one] == [(4, 5, 4), (2, 5, 4)]
    assert [data.shape for data, _, _ in read_volumes(files)] == [(4, 5, 4), (2, 5, 4)]
    assert [data.shape for data, _, _ in read_volumes(files[0])] == [(4, 5, 4)]  # again, by intention
    assert [data.shape for data, _, _ in read_volumes(files[0])] == [(4, 5, 4)]


def test_slices_of_a_series_that_takes_long_to_read_are_one_layer(tmp_path, monkeypatch):
    clock = [1000.0]

    def slow(path, layers=reader._layers):
        clock[0] += 60
        return layers(path)

    monkeypatch.setattr(reader, "monotonic", lambda: clock[0])
    monkeypatch.setattr(reader, "_layers", slow)
    files = sorted(map(str, samples.dicom_series(tmp_path / "ct", "1.2.3.3").iterdir()))
    assert [len(read_volumes(file)[0]) for file in files] == [3, 1, 1, 1]
    clock[0] += 60
    assert len(read_volumes(files[1])[0]) == 3  # later, it is wanted again


@pytest.mark.parametrize("degrees", [0.0, 1.0, 2.5, 10.0])
def test_a_gantry_tilt_is_read_as_it_is_or_refused(tmp_path, degrees):
    heights = tuple(5.0 * k for k in range(20))
    folder = samples.dicom_series(tmp_path / "ct", heights=heights)
    for path in folder.iterdir():
        dataset = pydicom.dcmread(path)
        x, y, z = dataset.ImagePositionPatient
        dataset.ImagePositionPatient = [x, round(y + z * np.tan(np.deg2rad(degrees)), 4), z]
        dataset.save_as(path)
    if degrees > 2.6:
        with pytest.raises(SamMed3DError, match="tilt"):
            read_volume(folder)
        return
    volume = read_volume(folder)
    for k, z in enumerate(heights):
        expected = [20, 30 - z * np.tan(np.deg2rad(degrees)), z]
        # The last comes first, as in the other tests.
        np.testing.assert_allclose(world(volume, (0, 0, len(heights) - 1 - k))[:3], expected, atol=1e-3)


def test_slices_of_series_dropped_together_in_any_order_are_a_layer_each(tmp_path):
    """Of two series in one folder, and of one series in two folders."""
    one = samples.dicom_series(samples.dicom_series(tmp_path / "a", "1.2.3.4"), "1.2.3.5", heights=(0, 3))
    other = samples.dicom_series(tmp_path / "b", "1.2.3.4", heights=(0, 3, 6))
    files = sorted([*one.iterdir(), *other.iterdir()], key=lambda path: path.name[::-1])
    layers = [layer for file in files for layer in read_volumes(str(file)) if layer[0] is not None]
    assert sorted(data.shape[0] for data, *_ in layers) == [2, 3, 4]


def test_a_deflated_series(tmp_path):
    """Of even voxels, whose files are smaller than their slices."""
    folder = samples.dicom_series(tmp_path / "ct", Rows=64, Columns=64, PixelData=bytes(2 * 64 * 64))
    for path in folder.iterdir():
        dataset = pydicom.dcmread(path)
        dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
        dataset.save_as(path, enforce_file_format=True)
    volume = read_volume(folder)
    assert volume.shape == (64, 64, 4)
    assert (volume.array == -1024).all()


@pytest.mark.parametrize(
    ("tags", "said"),
    [
        ({"PixelSpacing": [0.8, 0.6001]}, "differ in PixelSpacing"),
        ({"FrameOfReferenceUID": "1.2.3.99"}, "differ in FrameOfReferenceUID"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "has a palette"),
    ],
)
def test_slices_that_do_not_belong_together_say_why(tmp_path, tags, said):
    folder = samples.dicom_series(tmp_path / "ct")
    path = folder / "1.2.3.1-2.dcm"
    dataset = pydicom.dcmread(path)
    for name, value in tags.items():
        setattr(dataset, name, value)
    dataset.save_as(path)
    with pytest.raises(SamMed3DError, match=said):
        read_volume(folder)


def test_what_is_rounded_in_one_slice_tilts_none(tmp_path):
    folder = samples.dicom_series(tmp_path / "ct")
    straight = read_volume(folder)
    path = folder / "1.2.3.1-3.dcm"
    dataset = pydicom.dcmread(path)
    dataset.ImagePositionPatient = [-20.0, -29.99, 9.0]
    dataset.PixelSpacing = ["0.80", "0.60"]
    dataset.save_as(path)
    np.testing.assert_array_equal(read_volume(folder).affine[:3, :3], straight.affine[:3, :3])
