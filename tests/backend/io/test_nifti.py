import gzip
import itertools

import nibabel as nib
import numpy as np
import pytest
import samples

from backend.errors import ErrorCode, SamMed3DError, SamMed3DWarning
from backend.io import read_volume

DTYPES = (np.uint8, np.int8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.float32, np.float64)


def put(folder, content, name="a.nii"):
    path = folder / name
    path.write_bytes(content)
    return path


def same(volume, image):
    """Whether a volume has the voxels, the affine and the native type that nibabel reads."""
    expected = np.asarray(image.dataobj)
    assert volume.array.dtype == expected.dtype.newbyteorder("=")
    assert volume.array.dtype.isnative
    np.testing.assert_array_equal(volume.array, expected)
    np.testing.assert_array_equal(volume.affine, image.affine)


@pytest.mark.parametrize("dtype", DTYPES)
def test_voxels_and_affine_are_those_of_nibabel(tmp_path, dtype):
    kinds = (nib.Nifti1Header, nib.Nifti2Header)
    for kind, order, packed in itertools.product(kinds, "<>", (False, True)):
        content = samples.nifti(samples.voxels(dtype), kind=kind, order=order)
        path = put(tmp_path, gzip.compress(content) if packed else content, f"a.nii{'.gz' * packed}")
        same(read_volume(path), nib.load(path))


def test_all_orientations_keep_their_affine(tmp_path):
    for affine in [*samples.signed_permutations(), samples.orthogonal(), samples.OBLIQUE]:
        path = tmp_path / "a.nii"
        nib.save(nib.Nifti1Image(samples.voxels(), affine), path)
        volume = read_volume(path)
        np.testing.assert_allclose(volume.affine, affine, atol=1e-5)
        same(volume, nib.load(path))


@pytest.mark.parametrize("codes", [(0, 1), (1, 1), (0, 0), (2, 0)])
def test_the_affine_is_chosen_as_nibabel_does(tmp_path, codes):
    fields = {"sform_code": codes[0], "qform_code": codes[1], "quatern_b": 0.5, "quatern_c": 0.3}
    pixdim = [-1, 0.5, 0.75, 5, 0, 0, 0, 0]
    path = put(tmp_path, samples.nifti(pixdim=pixdim, qoffset_x=11, **fields))
    same(read_volume(path), nib.load(path))


def test_scaling_gives_float32(tmp_path):
    path = put(tmp_path, samples.nifti(scl_slope=0.1, scl_inter=-1024))
    volume = read_volume(path)
    assert volume.array.dtype == np.float32
    np.testing.assert_allclose(volume.array, nib.load(path).get_fdata(), rtol=1e-6)


@pytest.mark.parametrize("slope", [0, 1, np.nan])
def test_no_scaling_keeps_the_type(tmp_path, slope):
    path = put(tmp_path, samples.nifti(scl_slope=slope, scl_inter=0))
    assert read_volume(path).array.dtype == np.int16


@pytest.mark.parametrize(("unit", "factor"), [(0, 1), (1, 1000), (2, 1), (3, 1e-3), (2 + 8, 1), (7, 1)])
def test_the_affine_is_in_mm(tmp_path, unit, factor):
    path = put(tmp_path, samples.nifti(xyzt_units=unit, srow_x=[0.2, 0, 0, 4], srow_z=[0, 0, 0.3, 1]))
    volume = read_volume(path)
    np.testing.assert_allclose(volume.affine[:3], nib.load(path).affine[:3] * factor)


def test_an_unknown_voxel_size_is_told(tmp_path):
    path = put(tmp_path, samples.nifti(sform_code=0, pixdim=[1, 0, 2, 3, 0, 0, 0, 0]))
    with pytest.warns(SamMed3DWarning, match="voxel size unknown"):
        volume = read_volume(path)
    assert volume.spacing == (1, 2, 3)


@pytest.mark.parametrize("shape", [(8, 9, 10, 1), (8, 9, 10, 1, 1), (8, 9, 1)])
def test_axes_of_one(tmp_path, shape):
    array = samples.voxels(shape=shape)
    volume = read_volume(put(tmp_path, samples.nifti(array)))
    np.testing.assert_array_equal(volume.array, array.reshape(shape[:3], order="F"))


def test_a_frame_of_many(tmp_path):
    array = samples.voxels(shape=(3, 4, 5, 6))
    path = put(tmp_path, gzip.compress(samples.nifti(array)), "a.nii.gz")
    for frame in range(6):
        np.testing.assert_array_equal(read_volume(path, frame=frame).array, array[..., frame])
    for frame in (None, -1, 6):
        with pytest.raises(SamMed3DError, match=r"6 \(time points.*from 0 to 5") as caught:
            read_volume(path, frame=frame)
        assert caught.value.code is ErrorCode.VOLUME_DIMENSIONS


def test_gzip_of_several_members_and_with_padding(tmp_path):
    content = samples.nifti()
    packed = b"".join(gzip.compress(content[i : i + 500]) for i in range(0, len(content), 500))
    for end in (b"", bytes(1000)):
        path = put(tmp_path, packed + end, "a.nii.gz")
        np.testing.assert_array_equal(read_volume(path).array, samples.voxels())


def test_padding_behind_the_voxels(tmp_path):
    path = put(tmp_path, samples.nifti() + bytes(1000))
    np.testing.assert_array_equal(read_volume(path).array, samples.voxels())


def test_no_flip_and_no_truncation_is_silent(tmp_path, rng):
    array = rng.normal(100, 20, (12, 11, 10)).astype(np.int16)
    content = gzip.compress(samples.nifti(np.asfortranarray(array)))
    good = read_volume(put(tmp_path, content, "good.nii.gz"))
    flips, cuts = rng.integers(0, 8 * len(content), 200), rng.integers(0, len(content), 200)
    refused = 0
    for damaged in [*(_flipped(content, bit) for bit in flips), *(content[:size] for size in cuts)]:
        path = put(tmp_path, damaged, "bad.nii.gz")
        try:
            volume = read_volume(path)
        except SamMed3DError:
            refused += 1
            continue
        np.testing.assert_array_equal(volume.array, good.array)
        np.testing.assert_array_equal(volume.affine, good.affine)
    assert refused >= 390  # some of the ten bytes of the gzip header harm nothing


def _flipped(content, bit):
    damaged = bytearray(content)
    damaged[bit // 8] ^= 1 << (bit % 8)
    return bytes(damaged)


@pytest.mark.parametrize(
    "name", ["ct_msd_spleen2", "mr_pyradiomics_breast1", "mr_torchio_t2_gif", "mr_msd_hippocampus_156", "pet_sts_017"]
)
def test_real_volumes_are_read_as_nibabel_reads_them(shared_data, name):
    for file in ("image.nii.gz", "label.nii.gz"):
        path = shared_data / name / file
        same(read_volume(path), nib.load(path))


def test_voxels_do_not_begin_in_the_header(tmp_path):
    (tmp_path / "a.nii").write_bytes(samples.nifti(vox_offset=0))
    np.testing.assert_array_equal(read_volume(tmp_path / "a.nii").array, samples.voxels())
