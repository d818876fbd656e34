import zlib

import numpy as np
import pytest
import samples
import SimpleITK as sitk  # noqa: N813 - its customary name

from backend.errors import SamMed3DError, SamMed3DWarning
from backend.io import read_volume

DTYPES = (np.uint8, np.int8, np.int16, np.uint16, np.int32, np.uint32, np.float32, np.float64)
RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def itk_image(array, affine):
    image = sitk.GetImageFromArray(array.transpose(2, 1, 0))
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    image.SetSpacing(spacing)
    image.SetOrigin((RAS @ affine)[:3, 3])
    image.SetDirection(((RAS @ affine)[:3, :3] / spacing).ravel())
    return image


@pytest.mark.parametrize("suffix", [".nrrd", ".nhdr", ".mha", ".mhd"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_what_itk_writes_is_read(tmp_path, suffix, dtype):
    array, affine = samples.voxels(dtype), samples.orthogonal()
    for compressed in (False, True):
        path = tmp_path / f"a{suffix}"
        sitk.WriteImage(itk_image(array, affine), path, useCompression=compressed)
        volume = read_volume(path)
        assert volume.array.dtype == dtype
        np.testing.assert_array_equal(volume.array, array)
        np.testing.assert_allclose(volume.affine, affine, atol=1e-9)


@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
def test_all_orientations(tmp_path, suffix):
    for affine in samples.signed_permutations():
        path = tmp_path / f"a{suffix}"
        sitk.WriteImage(itk_image(samples.voxels(), affine), path)
        np.testing.assert_array_equal(read_volume(path).affine, affine)


def test_big_endian(tmp_path):
    data = samples.voxels().astype(">i2").tobytes(order="F")
    files = {
        "a.nrrd": samples.nrrd(content=data, endian="big"),
        "a.mha": samples.mha(content=data, BinaryDataByteOrderMSB="True"),
        "b.mha": samples.mha(content=zlib.compress(data), BinaryDataByteOrderMSB="True", CompressedData="True"),
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
        np.testing.assert_array_equal(read_volume(tmp_path / name).array, samples.voxels())


def test_the_space_of_a_nrrd_is_honoured(tmp_path):
    path = tmp_path / "a.nrrd"
    path.write_bytes(samples.nrrd(space="right-anterior-superior"))
    expected = np.diag([0.5, 0.75, 2, 1])
    expected[:3, 3] = (1, 2, 3)
    np.testing.assert_allclose(read_volume(path).affine, expected)


@pytest.mark.parametrize(("unit", "mm"), [("mm", 1), ("um", 1e-3), ("\u00b5m", 1e-3), ("microns", 1e-3), ("cm", 10)])
def test_the_units_of_a_nrrd_are_honoured(tmp_path, unit, mm):
    path = tmp_path / "a.nrrd"
    path.write_bytes(samples.nrrd(space_units=" ".join(3 * [f'"{unit}"'])))
    volume = read_volume(path)
    np.testing.assert_allclose(volume.spacing, np.multiply((0.5, 0.75, 2), mm))
    np.testing.assert_allclose(volume.affine[:3, 3], np.multiply((-1, -2, 3), mm))


def test_the_units_of_a_nrrd_without_orientation_are_honoured(tmp_path):
    path = tmp_path / "a.nrrd"
    spacings = {"space": None, "space_directions": None, "space_origin": None, "spacings": "500 750 2000"}
    path.write_bytes(samples.nrrd(**spacings, units='"um" "um" "um"'))
    np.testing.assert_allclose(read_volume(path).spacing, (0.5, 0.75, 2))


@pytest.mark.parametrize("units", ['"ell" "ell" "ell"', '"mm" "mm" "um"'])
def test_unknown_units_of_a_nrrd_are_told(tmp_path, units):
    path = tmp_path / "a.nrrd"
    path.write_bytes(samples.nrrd(space_units=units))
    with pytest.warns(SamMed3DWarning, match="taken as mm"):
        assert read_volume(path).spacing == (0.5, 0.75, 2)


def test_carriage_returns_in_a_nrrd_header(tmp_path):
    head, data = samples.nrrd().split(b"\n\n", 1)
    path = tmp_path / "a.nrrd"
    path.write_bytes(head.replace(b"\n", b"\r\n") + b"\r\n\r\n" + data)
    np.testing.assert_array_equal(read_volume(path).array, samples.voxels())


def test_an_unknown_voxel_size_is_told(tmp_path):
    files = {
        "a.nrrd": samples.nrrd(space=None, space_directions=None, space_origin=None),
        "a.mha": samples.mha(ElementSpacing=None),
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
        with pytest.warns(SamMed3DWarning, match="voxel size unknown"):
            assert read_volume(tmp_path / name).spacing == (1, 1, 1)


@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
def test_a_frame_of_many(tmp_path, suffix):
    array = samples.voxels(shape=(3, 4, 5, 6))
    path = tmp_path / f"a{suffix}"
    image = sitk.JoinSeries([itk_image(array[..., k], np.diag([2.0, 3.0, 4.0, 1.0])) for k in range(6)])
    sitk.WriteImage(image, path, useCompression=True)
    volume = read_volume(path, frame=4)
    np.testing.assert_array_equal(volume.array, array[..., 4])
    assert volume.spacing == (2, 3, 4)
    with pytest.raises(SamMed3DError, match="has 6"):
        read_volume(path)


@pytest.mark.parametrize("word", ["True", "true", "T", "1"])
def test_what_is_true_in_a_metaimage(tmp_path, word):
    array = samples.voxels(np.int16)
    content = array.astype(">i2").tobytes(order="F")
    fields = {"BinaryData": word, "BinaryDataByteOrderMSB": word, "CompressedData": word}
    (tmp_path / "a.mha").write_bytes(samples.mha(content=zlib.compress(content), **fields))
    np.testing.assert_array_equal(read_volume(tmp_path / "a.mha").array, array)


@pytest.mark.parametrize("word", ["LOCAL", "Local", "local"])
def test_voxels_behind_the_header_of_a_metaimage(tmp_path, word):
    path = tmp_path / "a.mha"
    path.write_bytes(samples.mha(ElementDataFile=word))
    np.testing.assert_array_equal(read_volume(path).array, samples.voxels())


def test_the_units_of_a_metaimage_are_honoured(tmp_path):
    (tmp_path / "a.mha").write_bytes(samples.mha(DistanceUnits="um"))
    assert read_volume(tmp_path / "a.mha").spacing == pytest.approx((0.0005, 0.00075, 0.002))
    (tmp_path / "b.mha").write_bytes(samples.mha(DistanceUnits="?"))
    assert read_volume(tmp_path / "b.mha").spacing == pytest.approx((0.5, 0.75, 2))


@pytest.mark.parametrize("axes", ["none (1,0,0) (0,1,0) (0,0,1)", "(1,0,0) (0,1,0) (0,0,1) none"])
def test_a_nrrd_with_an_axis_beside_space_says_what_to_do(tmp_path, axes):
    fields = {"dimension": "4", "kinds": None, "space_directions": axes}
    (tmp_path / "a.nrrd").write_bytes(samples.nrrd(samples.voxels(shape=(2, 3, 4, 2)), **fields))
    with pytest.raises(SamMed3DError, match=r"4 axes.*a file of its own"):
        read_volume(tmp_path / "a.nrrd")


def test_a_voxel_size_that_is_no_number_is_unknown(tmp_path):
    fields = {"space": None, "space_origin": None, "space_directions": None, "spacings": "2 3 nan"}
    (tmp_path / "a.nrrd").write_bytes(samples.nrrd(**fields))
    with pytest.warns(SamMed3DWarning, match="voxel size unknown"):
        read_volume(tmp_path / "a.nrrd")
