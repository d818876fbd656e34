import importlib.util
import struct

import numpy as np
import pytest
import samples
import tifffile

from backend.errors import ErrorCode, SamMed3DError, SamMed3DWarning
from backend.io import FramesError, read_volume

pytestmark = pytest.mark.filterwarnings("ignore:.*TIFF has no place:backend.errors.SamMed3DWarning")

STACK = samples.voxels(np.uint16).transpose(2, 1, 0)
GRAY = {"photometric": "minisblack"}


def sizes(x, y, z, unit):
    values = {"PhysicalSizeX": x, "PhysicalSizeY": y, "PhysicalSizeZ": z}
    return {"axes": "ZYX", **values, **{f"{name}Unit": unit for name in values}}


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.float32, np.float64])
def test_stacks_of_every_type(tmp_path, dtype):
    array = samples.voxels(dtype)
    path = tmp_path / "a.tif"
    for options in ({}, {"compression": "zlib"}, {"byteorder": ">"}, {"tile": (16, 16), "compression": "zlib"}):
        metadata = sizes(0.5, 0.75, 2, "mm")
        tifffile.imwrite(path, array.transpose(2, 1, 0), ome=True, metadata=metadata, **GRAY, **options)
        volume = read_volume(path)
        assert volume.array.dtype == dtype
        np.testing.assert_array_equal(volume.array, array)
        np.testing.assert_array_equal(volume.affine, np.diag([-0.5, -0.75, -2, 1]))


@pytest.mark.parametrize(("unit", "factor"), [("mm", 1), ("\u00b5m", 1e-3), ("cm", 10), (None, 1e-3)])
def test_units_of_ome(tmp_path, unit, factor):
    path = tmp_path / "a.ome.tif"
    metadata = {key: value for key, value in sizes(60, 70, 80, unit).items() if value is not None}
    tifffile.imwrite(path, STACK, metadata=metadata, **GRAY)
    np.testing.assert_allclose(read_volume(path).spacing, np.array([60, 70, 80]) * factor)


@pytest.mark.parametrize(
    ("unit", "factor"), [("mm", 1), ("um", 1e-3), ("micron", 1e-3), ("\\u00B5m", 1e-3), ("cm", 10)]
)
def test_spacing_of_imagej(tmp_path, unit, factor):
    path = tmp_path / "a.tif"
    metadata = {"axes": "ZYX", "spacing": 3.5, "unit": unit}
    tifffile.imwrite(path, STACK, imagej=True, resolution=(2, 4), metadata=metadata)
    volume = read_volume(path)
    np.testing.assert_allclose(volume.spacing, np.array([0.5, 0.25, 3.5]) * factor)
    np.testing.assert_array_equal(volume.array, samples.voxels())


def test_plain_stack_with_a_resolution(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, STACK, resolution=(20, 40), resolutionunit="CENTIMETER", metadata=None, **GRAY)
    with pytest.warns(SamMed3DWarning, match="voxel size unknown along z"):
        volume = read_volume(path)
    np.testing.assert_allclose(volume.spacing, (0.5, 0.25, 1))
    np.testing.assert_array_equal(volume.array, samples.voxels())


@pytest.mark.parametrize("options", [{}, {"imagej": True}, {"ome": True}, {"bigtiff": True}])
def test_no_voxel_size_is_told(tmp_path, options):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, STACK, metadata={"axes": "ZYX"}, **({} if "imagej" in options else GRAY), **options)
    with pytest.warns(SamMed3DWarning, match="voxel size unknown along x, y, z"):
        volume = read_volume(path)
    assert volume.spacing == (1, 1, 1)
    np.testing.assert_array_equal(volume.array, samples.voxels())


def test_frames_of_time_and_channel(tmp_path):
    array = samples.voxels(np.uint8, (2, 3, 4, 5, 6))
    path = tmp_path / "a.ome.tif"
    tifffile.imwrite(path, array, metadata={**sizes(1, 1, 1, "mm"), "axes": "TZCYX"}, **GRAY)
    with pytest.raises(SamMed3DError, match="has 8"):
        read_volume(path)
    for time, channel in np.ndindex(2, 4):
        volume = read_volume(path, frame=time * 4 + channel)
        np.testing.assert_array_equal(volume.array, array[time, :, channel].transpose(2, 1, 0))


def test_one_slice_is_a_volume_if_its_thickness_is_known(tmp_path):
    path = tmp_path / "a.ome.tif"
    tifffile.imwrite(path, STACK[:1], metadata=sizes(1, 1, 5, "mm"), **GRAY)
    volume = read_volume(path)
    assert volume.spacing == (1, 1, 5)
    np.testing.assert_array_equal(volume.array, samples.voxels()[..., :1])


@pytest.mark.skipif(importlib.util.find_spec("imagecodecs") is not None, reason="imagecodecs is installed")
def test_a_missing_codec_is_named(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, STACK, compression="zlib", **GRAY)
    with tifffile.TiffFile(path) as tif:
        places = [page.tags["Compression"].valueoffset for page in tif.pages]
    content = bytearray(path.read_bytes())
    for place in places:
        content[place : place + 2] = struct.pack("<H", 5)  # LZW
    path.write_bytes(content)
    with pytest.raises(SamMed3DError, match=r"compressed by LZW.*pip install imagecodecs") as caught:
        read_volume(path)
    assert caught.value.code is ErrorCode.DEPENDENCY_MISSING


@pytest.mark.skipif(importlib.util.find_spec("imagecodecs") is not None, reason="imagecodecs is installed")
def test_a_missing_predictor_is_named(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, STACK.astype(np.int16), compression="zlib", predictor=2, **GRAY)
    with tifffile.TiffFile(path) as tif:
        places = [page.tags["Predictor"].valueoffset for page in tif.pages]
    content = bytearray(path.read_bytes())
    for place in places:
        content[place : place + 2] = struct.pack("<H", 3)
    path.write_bytes(content)
    with pytest.raises(SamMed3DError, match=r"compressed by FLOATINGPOINT.*pip install imagecodecs") as caught:
        read_volume(path)
    assert caught.value.code is ErrorCode.DEPENDENCY_MISSING


def test_of_two_axes_without_a_name_the_last_is_z_and_no_frame_holds_the_others(tmp_path):
    array = samples.voxels(np.uint8, (3, 4, 5, 6))
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, array, **GRAY)
    with pytest.raises(FramesError, match="has 3"):
        read_volume(path)
    for frame in range(3):
        with pytest.warns(SamMed3DWarning, match="voxel size unknown"):
            volume = read_volume(path, frame)
        np.testing.assert_array_equal(volume.array, array[frame].transpose(2, 1, 0))
        assert volume.array.base is None or volume.array.base.nbytes == volume.array.nbytes


@pytest.mark.parametrize("options", [{}, {"compression": "zlib"}, {"ome": True}])
def test_voxels_of_one_bit(tmp_path, options):
    mask = samples.voxels(shape=(6, 5, 13)) > 50
    tifffile.imwrite(tmp_path / "a.tif", mask, metadata={"axes": "ZYX"}, **options)
    with pytest.warns(SamMed3DWarning, match="voxel size unknown"):
        volume = read_volume(tmp_path / "a.tif")
    np.testing.assert_array_equal(volume.array, mask.transpose(2, 1, 0))
    content = (tmp_path / "a.tif").read_bytes()
    (tmp_path / "b.tif").write_bytes(content[:-20])
    with pytest.raises(SamMed3DError):
        read_volume(tmp_path / "b.tif")
