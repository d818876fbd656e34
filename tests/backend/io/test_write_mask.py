import os
import stat
import subprocess
import sys
import textwrap
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import samples
import SimpleITK as sitk  # noqa: N813 - its customary name

from backend.errors import ErrorCode, SamMed3DError, SamMed3DWarning
from backend.io import WRITABLE_SUFFIXES, check_writable, read_volume, write_mask
from backend.volume import Volume

pytestmark = pytest.mark.filterwarnings("ignore:.*TIFF has no place:backend.errors.SamMed3DWarning")

ROOT = Path(__file__).resolve().parents[3]
NIFTI = (".nii", ".nii.gz")
ITK = (".nrrd", ".mha")
KEPT_FIELDS = ["sform_code", "qform_code", "srow_x", "srow_y", "srow_z", "quatern_b", "quatern_c", "quatern_d"]
KEPT_FIELDS += ["qoffset_x", "qoffset_y", "qoffset_z", "xyzt_units"]


def volume_on(affine):
    return Volume(samples.voxels(), affine)


@pytest.mark.parametrize("suffix", WRITABLE_SUFFIXES)
@pytest.mark.parametrize(
    "types",
    [
        (bool, 1, np.uint8),
        (np.int64, 255, np.uint8),
        (np.int32, 256, np.uint16),
        (np.uint16, 65535, np.uint16),
        (np.int64, 65536, np.uint32),
        (np.int64, 2**32 - 1, np.uint32),
    ],
)
def test_labels_come_back_in_the_smallest_type(tmp_path, rng, suffix, types):
    given, highest, stored = types
    volume = volume_on(samples.orthogonal())
    mask = rng.integers(0, highest, samples.SHAPE, endpoint=True).astype(given)
    mask[2, 3, 4] = highest
    for order in "CF":
        write_mask(tmp_path / f"m{suffix}", np.asarray(mask, order=order), volume)
        read = read_volume(tmp_path / f"m{suffix}")
        assert read.array.dtype == stored
        np.testing.assert_array_equal(read.array, mask)
        np.testing.assert_allclose(read.spacing, volume.spacing, rtol=1e-6)
    assert [path.name for path in tmp_path.iterdir()] == [f"m{suffix}"]


@pytest.mark.parametrize("suffix", NIFTI + ITK)
def test_all_orientations(tmp_path, suffix):
    mask = samples.voxels(np.uint8)
    for affine in [*samples.signed_permutations(), samples.orthogonal()]:
        write_mask(tmp_path / f"m{suffix}", mask, volume_on(affine))
        read = read_volume(tmp_path / f"m{suffix}")
        np.testing.assert_allclose(read.affine, affine, rtol=0, atol=1e-9 if suffix in ITK else 1e-6)
        np.testing.assert_array_equal(read.array, mask)


@pytest.mark.parametrize("shape", [(1, 9, 10), (8, 1, 10), (8, 9, 1), (1, 1, 1), (3, 4, 3)])
@pytest.mark.parametrize("suffix", WRITABLE_SUFFIXES)
def test_thin_volumes(tmp_path, suffix, shape):
    mask = samples.voxels(np.uint8, shape)
    write_mask(tmp_path / f"m{suffix}", mask, Volume(mask, np.diag([0.5, 0.75, 5, 1])))
    read = read_volume(tmp_path / f"m{suffix}")
    np.testing.assert_array_equal(read.array, mask)
    assert read.spacing == (0.5, 0.75, 5)


@pytest.mark.parametrize("suffix", ITK)
def test_a_sheared_grid_needs_nifti(tmp_path, suffix):
    mask = samples.voxels(np.uint8)
    with pytest.raises(SamMed3DError, match=r"sheared.*\.nii\.gz") as caught:
        write_mask(tmp_path / f"m{suffix}", mask, volume_on(samples.OBLIQUE))
    assert caught.value.code is ErrorCode.VOLUME_GEOMETRY
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(SamMed3DError, match="sheared"):
        check_writable(tmp_path / f"m{suffix}", volume_on(samples.OBLIQUE))
    check_writable(tmp_path / "m.nii", volume_on(samples.OBLIQUE))
    write_mask(tmp_path / "m.nii", mask, volume_on(samples.OBLIQUE))
    np.testing.assert_allclose(read_volume(tmp_path / "m.nii").affine, samples.OBLIQUE, atol=1e-6)


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("kind", [nib.Nifti1Header, nib.Nifti2Header])
@pytest.mark.parametrize("codes", [(1, 0), (0, 1), (2, 1), (4, 3), (0, 0)])
def test_a_nifti_header_is_kept(tmp_path, kind, order, codes):
    fields = {"sform_code": codes[0], "qform_code": codes[1], "quatern_b": 0.5, "quatern_c": 0.3, "qoffset_x": 11}
    fields |= {"pixdim": [-1, 500, 750, 900, 2, 0, 0, 0], "xyzt_units": 3 + 8, "scl_slope": 2, "cal_max": 400}
    fields |= dict(zip(("srow_x", "srow_y", "srow_z"), samples.OBLIQUE * 100, strict=False))
    image, mask = tmp_path / "a.nii", tmp_path / "m.nii.gz"
    image.write_bytes(samples.nifti(samples.voxels(shape=(*samples.SHAPE, 2)), kind=kind, order=order, **fields))
    volume = read_volume(image, frame=1)
    write_mask(mask, samples.voxels(), volume)
    before, after = nib.load(image), nib.load(mask)
    assert after.shape == samples.SHAPE
    np.testing.assert_array_equal(after.affine, before.affine)
    for field in KEPT_FIELDS:
        np.testing.assert_array_equal(after.header[field], before.header[field])
    assert after.header["cal_max"] == 0
    assert after.header.get_intent()[0] == "label"
    assert after.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(np.asarray(after.dataobj), samples.voxels())
    np.testing.assert_array_equal(read_volume(mask).affine, volume.affine)


def test_a_header_that_no_longer_fits_is_not_used(tmp_path):
    (tmp_path / "a.nii").write_bytes(samples.nifti())
    source = read_volume(tmp_path / "a.nii").source
    moved = Volume(samples.voxels(), samples.orthogonal(), source)
    write_mask(tmp_path / "m.nii", samples.voxels(), moved)
    np.testing.assert_allclose(read_volume(tmp_path / "m.nii").affine, moved.affine, atol=1e-6)


@pytest.mark.parametrize(
    "name",
    ["ct_msd_spleen2", "mr_pyradiomics_breast1", "mr_torchio_t2_gif", "mr_msd_hippocampus_156", "mr_sct_cord_t1"],
)
def test_masks_of_real_volumes(shared_data, tmp_path, name):
    image = shared_data / name / "image.nii.gz"
    volume, label = read_volume(image), nib.load(shared_data / name / "label.nii.gz")
    expected = np.asarray(label.dataobj)
    for suffix in (".nii.gz", ".nrrd", ".ome.tif"):
        write_mask(tmp_path / f"m{suffix}", expected, volume)
        read = read_volume(tmp_path / f"m{suffix}")
        np.testing.assert_array_equal(read.array, expected)
        if suffix != ".ome.tif":
            np.testing.assert_allclose(read.affine, volume.affine, atol=1e-6)
    np.testing.assert_array_equal(nib.load(tmp_path / "m.nii.gz").affine, nib.load(image).affine)


def test_a_mask_of_a_dicom_series(tmp_path):
    volume = read_volume(samples.dicom_series(tmp_path / "ct"))
    mask = np.arange(80).reshape(volume.shape)
    for suffix in (".nii.gz", ".mha", ".tif"):
        write_mask(tmp_path / f"m{suffix}", mask, volume)
        np.testing.assert_array_equal(read_volume(tmp_path / f"m{suffix}").array, mask)


@pytest.mark.parametrize(
    ("mask", "code"),
    [
        (np.zeros((8, 9, 11), bool), ErrorCode.VOLUME_DIMENSIONS),
        (np.zeros((10, 9, 8), bool), ErrorCode.VOLUME_DIMENSIONS),
        (np.zeros(samples.SHAPE, np.float32), ErrorCode.VOLUME_DTYPE),
        (np.full(samples.SHAPE, -1), ErrorCode.VOLUME_DTYPE),
        (np.full(samples.SHAPE, 2**32), ErrorCode.VOLUME_DTYPE),
    ],
)
def test_unfit_masks(tmp_path, mask, code):
    with pytest.raises(SamMed3DError) as caught:
        write_mask(tmp_path / "m.nii.gz", mask, volume_on(np.eye(4)))
    assert caught.value.code is code
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["m.png", "m", "m.nhdr", "m.dcm"])
def test_unknown_endings(tmp_path, name):
    with pytest.raises(SamMed3DError, match=r"\.nii\.gz") as caught:
        write_mask(tmp_path / name, samples.voxels(), volume_on(np.eye(4)))
    assert caught.value.code is ErrorCode.FILE_FORMAT


@pytest.mark.parametrize("name", ["M.MHA", "M.Nii", "M.NII.GZ", "M.NRRD", "M.OME.TIF"])
def test_endings_in_capitals(tmp_path, name):
    write_mask(tmp_path / name, samples.voxels() > 0, volume_on(samples.orthogonal()))
    np.testing.assert_array_equal(read_volume(tmp_path / name).array, samples.voxels() > 0)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_missing_folder(tmp_path):
    with pytest.raises(SamMed3DError, match="nowhere") as caught:
        write_mask(tmp_path / "nowhere" / "m.nii", samples.voxels(), volume_on(np.eye(4)))
    assert caught.value.code is ErrorCode.FILE_WRITE


@pytest.mark.parametrize("suffix", ITK)
def test_what_itk_wrote_is_verified(tmp_path, monkeypatch, suffix):
    path = tmp_path / f"m{suffix}"
    path.write_bytes(b"old")
    write = sitk.WriteImage

    def lose_the_end(image, name, **options):
        write(image, name, **options)
        Path(name).write_bytes(Path(name).read_bytes()[:-20])

    monkeypatch.setattr(sitk, "WriteImage", lose_the_end)
    with pytest.raises(SamMed3DError, match=path.name) as caught:
        write_mask(path, samples.voxels(), volume_on(np.eye(4)))
    assert caught.value.code is ErrorCode.FILE_WRITE
    assert path.read_bytes() == b"old"


@pytest.mark.skipif(os.name != "posix", reason="links need rights on Windows")
def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "real.nii").write_bytes(b"old")
    (tmp_path / "m.nii").symlink_to("real.nii")
    write_mask(tmp_path / "m.nii", samples.voxels(), volume_on(np.eye(4)))
    assert (tmp_path / "m.nii").is_symlink()
    np.testing.assert_array_equal(read_volume(tmp_path / "real.nii").array, samples.voxels())


FULL_DISK = """
    import resource, sys
    import numpy as np
    from backend.errors import SamMed3DError
    from backend.io import write_mask
    from backend.volume import Volume

    mask = np.random.default_rng(0).integers(0, 250, (40, 40, 40))
    volume = Volume(mask, np.eye(4))
    for path in sys.argv[1:]:
        write_mask(path, mask // 200, volume)
    old = [open(path, "rb").read() for path in sys.argv[1:]]
    resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))
    for path, before in zip(sys.argv[1:], old):
        try:
            write_mask(path, mask, volume)
        except SamMed3DError as error:
            assert error.code == "file.write", error
            assert path in error.problem, error
        else:
            raise AssertionError(f"{path} was written")
        assert open(path, "rb").read() == before, path
"""


@pytest.mark.skipif(sys.platform == "win32", reason="the size of files is limited by setrlimit, which Windows lacks")
def test_a_full_disk_leaves_the_old_file(tmp_path):
    names = [f"m{suffix}" for suffix in (*NIFTI, *ITK, ".ome.tif")]
    child = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(FULL_DISK), *(str(tmp_path / name) for name in names)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert child.returncode == 0, child.stderr[-2000:]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)


def test_a_tiff_warns_of_what_it_cannot_keep(tmp_path, recwarn):
    mask = np.ones((3, 4, 5), dtype=bool)
    placed = Volume(mask, np.array([[1, 0, 0, 7], [0, 2, 0, 8], [0, 0, 3, 9], [0, 0, 0, 1.0]]))
    with pytest.warns(SamMed3DWarning, match="The mask keeps the voxel size"):
        write_mask(tmp_path / "a.tif", mask, placed)
    recwarn.clear()
    write_mask(tmp_path / "b.tif", mask, read_volume(tmp_path / "a.tif"))
    assert not recwarn.list


@pytest.mark.skipif(os.name != "posix", reason="links need privileges")
@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".ome.tif"])
def test_a_link_to_a_file_of_another_name_keeps_its_own_format(tmp_path, suffix):
    (tmp_path / "obj123").touch()
    (tmp_path / f"m{suffix}").symlink_to("obj123")
    mask = np.ones((3, 4, 5), dtype=bool)
    write_mask(tmp_path / f"m{suffix}", mask, Volume(mask, np.diag([-1.0, -1, -1, 1])))
    assert (tmp_path / f"m{suffix}").is_symlink()
    np.testing.assert_array_equal(read_volume(tmp_path / f"m{suffix}").array, mask)
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.skipif(os.name != "posix", reason="elsewhere a folder cannot be forced to the disk")
def test_a_file_is_on_the_disk_before_it_takes_its_place_and_its_name_after(tmp_path, monkeypatch):
    done, fsync, replace = [], os.fsync, Path.replace

    def noted_fsync(descriptor):
        done.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        fsync(descriptor)

    def noted_replace(path, target):
        done.append("replace")
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(Path, "replace", noted_replace)
    mask = np.ones((3, 4, 5), dtype=bool)
    write_mask(tmp_path / "m.nii", mask, Volume(mask, np.eye(4)))
    assert done == ["file", "replace", "folder"]


def test_a_folder_that_cannot_be_forced_to_the_disk_is_no_error(tmp_path, monkeypatch):
    real = os.fsync

    def fsync(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(22, "Invalid argument")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    mask = np.ones((3, 4, 5), dtype=bool)
    write_mask(tmp_path / "m.nii", mask, Volume(mask, np.eye(4)))
    assert [path.name for path in tmp_path.iterdir()] == ["m.nii"]


def test_the_smallest_voxels_come_back(tmp_path):
    mask = np.ones((3, 4, 5), dtype=bool)
    write_mask(tmp_path / "m.nii.gz", mask, Volume(mask, np.diag([1e-4, 1e-4, 1e-4, 1])))
    assert read_volume(tmp_path / "m.nii.gz").spacing == pytest.approx((1e-4,) * 3)


def test_a_tiff_warns_of_small_voxels_too(tmp_path):
    mask = np.ones((3, 4, 5), dtype=bool)
    with pytest.warns(SamMed3DWarning, match="TIFF has no place"):
        write_mask(tmp_path / "a.tif", mask, Volume(mask, np.diag([5e-4, 5e-4, 5e-4, 1])))


def test_a_folder_whose_name_no_file_system_has_is_refused(tmp_path):
    mask = np.ones((3, 4, 5), dtype=bool)
    with pytest.raises(SamMed3DError, match="no folder"):
        write_mask(tmp_path / ("x" * 300) / "m.nii", mask, Volume(mask, np.eye(4)))
