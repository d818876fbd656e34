from pathlib import Path
from typing import Any

import dask.array
import nibabel as nib
import numpy as np
import numpy.typing as npt
import pytest
import torch
from inference.fakes import ORIENTATIONS, tilted_affine
from monai.data.meta_tensor import MetaTensor
from monai.transforms.spatial.array import Orientation
from scipy import ndimage

from backend.geometry import (
    RAS_TO_VIEWER,
    SLAB,
    DisplayOrder,
    Grid,
    ShownArray,
    apply_affine,
    canonical_grid,
    canonical_volume,
    check_inside,
    display_order,
    extract_crop,
    from_world,
    plain_order,
    same_grid,
    to_world,
)
from backend.inference.preprocess import normalise
from backend.io import read_volume
from backend.volume import Affine, Volume

SPACING = (0.7, 1.9, 5.0)
PUBLISHED = ("ct_ts_dicom20", "ct_msd_spleen2", "mr_fetal_brain_run3", "mr_torchio_t2_gif", "pet_sts_004")
orientations = pytest.mark.parametrize("orientation", ORIENTATIONS, ids=str)


def crop_affine(grid: Grid, start: tuple[int, int, int]) -> Affine:
    """4x4 from crop index to mm in RAS+, for a crop whose first voxel is the grid's `start`."""
    return grid.affine @ np.block([[np.eye(3), np.reshape(start, (3, 1))], [np.zeros((1, 3)), np.ones((1, 1))]])


def tilted(orientation: Any, shape: tuple[int, int, int] = (20, 13, 7), spacing: Any = SPACING) -> Volume:
    values = np.random.default_rng(1).normal(50, 30, shape).astype(np.float32)
    return Volume(values, tilted_affine(orientation, spacing))


@pytest.mark.parametrize("name", PUBLISHED)
def test_crop_is_the_published_one(shared: Path, name: str) -> None:
    reference = np.load(shared / "reference" / "preprocess.npz")
    volume = read_volume(shared / "data" / name / "image.nii.gz")
    grid = canonical_grid(volume, 1.5)
    x, y, z = grid.voxel_of(reference[f"{name}_click"])
    start = (x - 64, y - 64, z - 64)
    np.testing.assert_allclose(crop_affine(grid, start), reference[f"{name}_roi_affine"], atol=1e-5)
    crop = normalise(extract_crop(volume, grid, start, 128))
    difference = np.abs(crop[::4, ::4, ::4] - reference[f"{name}_roi_every_4th"])
    assert (difference < 1e-3).mean() >= 0.98
    assert difference.max() < 0.02
    statistics = [crop.mean(), crop.std(), crop.min(), crop.max()]
    np.testing.assert_allclose(statistics, reference[f"{name}_roi_stats"], atol=0.02)


@orientations
def test_volume_grid_crop_and_world_agree(orientation: Any) -> None:
    volume = tilted(orientation)
    grid = canonical_grid(volume, 1.5)
    points = np.random.default_rng(2).uniform(-0.5, np.array(volume.shape) - 0.5, (50, 3))
    world = to_world(volume, points)
    in_crop = grid.from_volume(points) - (-3, 4, 5)
    np.testing.assert_allclose(apply_affine(crop_affine(grid, (-3, 4, 5)), in_crop), world, atol=1e-9)
    np.testing.assert_allclose(grid.to_volume(grid.from_volume(points)), points, atol=1e-9)
    np.testing.assert_allclose(from_world(volume, world), points, atol=1e-9)


@orientations
def test_grid_is_closest_to_ras_with_the_centre_of_the_volume(orientation: Any) -> None:
    volume = tilted(orientation)
    grid = canonical_grid(volume, 1.5)
    np.testing.assert_array_equal(nib.orientations.io_orientation(grid.affine), [[0, 1], [1, 1], [2, 1]])
    np.testing.assert_allclose(np.linalg.norm(grid.affine[:3, :3], axis=0), 1.5)
    middle = grid.to_volume((np.array(grid.shape) - 1) / 2)
    np.testing.assert_allclose(middle, (np.array(volume.shape) - 1) / 2)
    lengths = np.array(volume.shape)[list(grid.axes)] * np.array(SPACING)[list(grid.axes)]
    np.testing.assert_array_equal(grid.shape, (lengths + 1e-6) // 1.5)


@pytest.mark.parametrize(("thin", "thickness"), [(True, 1), (False, 3)])
def test_a_single_slice(thin: bool, thickness: int) -> None:
    volume = Volume(np.arange(100.0).reshape(10, 1, 10), np.diag([1.5, 5, 1.5, 1]))
    grid = canonical_grid(volume, 1.5, thin=thin)
    assert grid.shape == (10, thickness, 10)
    for crop in extract_crop(volume, grid, (0, 0, 0), grid.shape).transpose(1, 0, 2):
        np.testing.assert_array_equal(crop, volume.array[:, 0])


@orientations
def test_grid_of_the_same_spacing_is_monais_canonical_volume(orientation: Any) -> None:
    volume = tilted(orientation, spacing=(1.5, 1.5, 1.5))
    grid = canonical_grid(volume, 1.5)
    tensor = MetaTensor(torch.from_numpy(np.asarray(volume.array))[None], affine=torch.from_numpy(volume.affine.copy()))
    expected: Any = Orientation(axcodes="RAS", labels=None)(tensor)
    np.testing.assert_allclose(grid.affine, expected.affine, atol=1e-9)
    assert grid.shape == expected.shape[1:]
    x, y, z = grid.shape
    np.testing.assert_allclose(extract_crop(volume, grid, (0, 0, 0), 20)[:x, :y, :z], expected[0], atol=1e-4)


@orientations
def test_crop_is_scipys_inside_the_grid_and_zero_outside(orientation: Any) -> None:
    volume = tilted(orientation)
    grid = canonical_grid(volume, 1.5)
    x, y, z = np.random.default_rng(3).integers(-12, 6, 3).tolist()
    voxels = np.array([x, y, z]) + np.moveaxis(np.indices((24, 24, 24)), 0, -1)
    inside = ((voxels >= 0) & (voxels < grid.shape)).all(axis=-1)
    assert inside.any()
    assert not inside.all()
    at = np.moveaxis(grid.to_volume(voxels), -1, 0)
    expected = np.where(inside, ndimage.map_coordinates(volume.array, at, order=1, mode="nearest"), 0)
    np.testing.assert_allclose(extract_crop(volume, grid, (x, y, z), 24), expected, atol=1e-3)


def test_crop_beyond_the_volume_is_zero() -> None:
    volume = tilted(ORIENTATIONS[0])
    assert not extract_crop(volume, canonical_grid(volume, 1.5), (500, 0, 0), 8).any()


@pytest.mark.parametrize("shape", [(1, 30, 30), (30, 1, 30), (30, 30, 1), (1, 1, 1)])
def test_one_voxel_thick_volume_is_seen(shape: tuple[int, int, int]) -> None:
    volume = tilted(ORIENTATIONS[0], shape)
    grid = canonical_grid(volume, 1.5)
    assert min(grid.shape) >= 1
    voxel = grid.voxel_of([(n - 1) / 2 for n in shape])
    assert ((np.array(voxel) >= 0) & (np.array(voxel) < grid.shape)).all()
    assert extract_crop(volume, grid, voxel, 1).any()


@orientations
def test_voxel_of_any_click_is_in_the_grid_and_next_to_it(orientation: Any) -> None:
    volume = tilted(orientation)
    grid = canonical_grid(volume, 1.5)
    corners = np.stack(np.meshgrid(*[(0, (n - 1) // 2, n - 1) for n in volume.shape]), axis=-1).reshape(-1, 3)
    for point in corners:
        voxel = np.array(grid.voxel_of(point))
        assert ((voxel >= 0) & (voxel < grid.shape)).all()
    middle = (np.array(volume.shape) - 1) // 2
    assert (np.abs(grid.voxel_of(middle) - grid.from_volume(middle)) < 1 + 1e-9).all()


class Watched:
    """An array too large to exist; what is read of it is recorded."""

    shape = (40_000, 30_000, 20_000)
    dtype = np.dtype(np.int16)

    def __init__(self) -> None:
        self.keys: list[tuple[slice, slice, slice]] = []

    def __getitem__(self, key: tuple[slice, slice, slice], /) -> npt.NDArray[np.int16]:
        self.keys.append(key)
        sizes = [part.stop - part.start for part in key]
        assert np.prod(sizes) < 1e6
        return np.ones(sizes, dtype=np.int16)


def test_crop_reads_only_its_window() -> None:
    array = Watched()
    volume = Volume(array, np.diag([-0.75, 3, 1.5, 1]))
    grid = canonical_grid(volume, 1.5)
    start = grid.voxel_of((20_000, 15_000, 10_000))
    crop = extract_crop(volume, grid, start, 32)
    assert (crop == 1).all()
    (key,) = array.keys
    sizes = [part.stop - part.start for part in key]
    assert np.all(np.array(sizes) <= (31 * 2 + 2, 31 / 2 + 2, 31 + 2))
    corners = grid.to_volume(np.array([start, np.array(start) + 31]))
    assert np.all([part.start for part in key] <= corners.min(axis=0))
    assert np.all([part.stop - 1 for part in key] >= corners.max(axis=0))


def pair(values: list[Any], dtype: Any) -> npt.NDArray[np.float32]:
    """Two voxels of 3 mm, resampled to four at -1/4, 1/4, 3/4 and 5/4."""
    volume = Volume(np.array(values, dtype=dtype).reshape(2, 1, 1), np.diag([3, 1.5, 1.5, 1]))
    crop: npt.NDArray[np.float32] = extract_crop(volume, canonical_grid(volume, 1.5), (0, 0, 0), 4)[:, 0, 0]
    return crop


@pytest.mark.parametrize(
    ("values", "dtype", "expected"),
    [
        ([0, 2], "i2", [0, 0, 1, 2]),
        ([0, -2], "i2", [0, 0, -1, -2]),
        ([200, 255], "u1", [200, 213, 241, 255]),
        ([0, 2], "f4", [0, 0.5, 1.5, 2]),
        ([False, True], "?", [0, 0.25, 0.75, 1]),
        ([0, 2], ">i2", [0, 0, 1, 2]),
        ([np.nan, 2], "f4", [np.nan, np.nan, np.nan, 2]),
        ([5, np.inf], "f8", [5, np.nan, np.nan, np.nan]),
    ],
)
def test_resampled_values(values: list[Any], dtype: str, expected: list[float]) -> None:
    np.testing.assert_array_equal(pair(values, dtype), np.array(expected, dtype=np.float32))


def test_the_mean_over_wide_voxels_has_less_noise_and_the_same_content() -> None:
    noise = np.random.default_rng(0).normal(100, 10, (60, 60, 60))
    volume = Volume(noise, np.diag([1.0, 1, 1, 1]))
    grid = canonical_grid(volume, 4.0)
    single, mean = (extract_crop(volume, grid, (2, 2, 2), 11, average=average) for average in (False, True))
    assert single.std() > 3
    assert mean.std() < 1.5
    assert mean.mean() == pytest.approx(100, abs=0.2)
    same = canonical_grid(volume, 1.0)
    crop = extract_crop(volume, same, (3, 4, 5), 8, average=True)
    np.testing.assert_array_equal(crop, extract_crop(volume, same, (3, 4, 5), 8))


@orientations
def test_the_mean_is_that_of_all_voxels_in_a_voxel(orientation: Any) -> None:
    """In a window that takes several slabs to read, of voxels of 3 x 4 x 5 finer ones."""
    axes, signs = (np.array(part) for part in orientation)
    fine = np.random.default_rng(0).normal(size=(18, 20, 3 * SLAB + 4)).astype(np.float32)
    fine[2, 3, 4] = np.nan
    coarse = fine.reshape(6, 3, 5, 4, -1, 5).mean((1, 3, 5))
    affine = np.eye(4)
    affine[:3, :3] = (np.eye(3)[axes] * (signs * np.array([0.5, 0.375, 0.3])[axes])[:, None]).T
    volume = Volume(fine.transpose(axes)[tuple(slice(None, None, sign) for sign in signs)], affine)
    crop = extract_crop(volume, canonical_grid(volume, 1.5), (0, 0, 0), coarse.shape, average=True)
    np.testing.assert_allclose(crop, coarse, atol=1e-5)
    assert np.isnan(crop).sum() == 1


def test_a_bad_neighbour_of_no_weight_does_not_count() -> None:
    values = np.ones((5, 5, 5), dtype=np.float32)
    values[2, 2, 2] = np.nan
    volume = Volume(values, np.diag([1.5, 1.5, 1.5, 1]))
    crop = extract_crop(volume, canonical_grid(volume, 1.5), (0, 0, 0), 5)
    np.testing.assert_array_equal(crop, values)


def test_border_of_the_volume() -> None:
    volume = tilted(ORIENTATIONS[0], (4, 5, 6))
    for good in ((-0.5, 0, 0), (3.49, 4.49, 5.49)):
        np.testing.assert_array_equal(check_inside(volume, good), good)


@orientations
def test_display_order_is_head_up_face_up_and_comes_back(orientation: Any) -> None:
    volume = tilted(orientation)
    order = display_order(volume)
    array = np.asarray(volume.array)
    shown = order.show(array)
    assert np.shares_memory(shown, array)
    viewer_affine = order.viewer_affine(volume.affine)
    np.testing.assert_array_equal(nib.orientations.io_orientation(viewer_affine), [[0, 1], [1, 1], [2, 1]])
    np.testing.assert_allclose(order.volume_affine(viewer_affine), volume.affine, atol=1e-9)
    indices = np.argwhere(np.ones(volume.shape, dtype=bool))
    seen_at = order.to_viewer(indices)
    np.testing.assert_array_equal(shown[tuple(seen_at.T.astype(int))], array[tuple(indices.T)])
    np.testing.assert_allclose(order.to_volume(seen_at), indices, atol=1e-12)
    world = apply_affine(RAS_TO_VIEWER, to_world(volume, indices))
    np.testing.assert_allclose(apply_affine(viewer_affine, seen_at), world, atol=1e-9)


def test_plain_order_is_the_reverse() -> None:
    assert plain_order((5, 6, 7)) == DisplayOrder((2, 1, 0), (False, False, False), (7, 6, 5))
    array = np.arange(24).reshape(2, 3, 4)
    np.testing.assert_array_equal(plain_order((4, 3, 2)).show(array), array.T)


WINDOWS = [
    (slice(None), slice(None), slice(None)),
    (slice(3, 9), slice(0, 1), slice(2, 7)),
    (slice(-5, None), slice(None, -4), slice(1, 100)),
]


@orientations
@pytest.mark.parametrize("lazy", [False, True])
def test_shown_array_reads_windows_of_the_volume(orientation: Any, lazy: bool) -> None:
    volume = tilted(orientation)
    array = np.asarray(volume.array)
    order = display_order(volume)
    shown = order.show(array)
    seen = ShownArray(dask.array.from_array(shown, chunks=5) if lazy else shown, order)
    assert (seen.shape, seen.dtype) == (array.shape, array.dtype)
    for window in WINDOWS:
        np.testing.assert_array_equal(seen[window], array[window])
    if not lazy:
        return
    grid = canonical_grid(volume, 1.5)
    crop = extract_crop(Volume(seen, volume.affine), grid, (-2, 3, 4), 10)
    np.testing.assert_array_equal(crop, extract_crop(volume, grid, (-2, 3, 4), 10))


@orientations
def test_a_box_of_any_shape_is_part_of_the_whole_resampled_volume(orientation: Any) -> None:
    volume = tilted(orientation)
    grid = canonical_grid(volume, 1.5)
    whole = extract_crop(volume, grid, (0, 0, 0), grid.shape)
    assert whole.shape == grid.shape
    start, size = (1, 2, 3), (4, 3, 2)
    box = extract_crop(volume, grid, start, size)
    np.testing.assert_array_equal(box, whole[1:5, 2:5, 3:5])
    beyond = extract_crop(volume, grid, (-2, 0, 0), (grid.shape[0] + 5, grid.shape[1], grid.shape[2]))
    np.testing.assert_array_equal(beyond, np.pad(whole, ((2, 3), (0, 0), (0, 0))))


@orientations
def test_the_canonical_volume_has_every_voxel_where_it_was(orientation: Any) -> None:
    volume = tilted(orientation)
    canonical = canonical_volume(volume)
    np.testing.assert_array_equal(nib.orientations.io_orientation(canonical.affine), [[0, 1], [1, 1], [2, 1]])
    assert np.shares_memory(np.asarray(canonical.array), np.asarray(volume.array))
    for index in ((0, 0, 0), (19, 12, 6), (3, 11, 2)):
        at = tuple(np.rint(from_world(canonical, to_world(volume, index))).astype(int).tolist())
        np.testing.assert_allclose(to_world(canonical, at), to_world(volume, index), atol=1e-9)
        assert canonical.array[at] == volume.array[index]
    grids = canonical_grid(volume, 1.5), canonical_grid(canonical, 1.5)
    np.testing.assert_allclose(grids[0].affine, grids[1].affine, atol=1e-9)
    assert grids[0].shape == grids[1].shape


@pytest.mark.parametrize("spacing", [0.002, 0.7, 5.0])
def test_grids_are_the_same_if_all_voxels_are(spacing: float) -> None:
    affine = np.diag([spacing, spacing, spacing, 1.0])
    volume = Volume(np.zeros((500, 400, 30), np.uint8), affine)

    def at(changed: Any) -> Volume:
        return Volume(volume.array, changed)

    assert same_grid(volume, at(np.diag([1 + 1e-4] * 3 + [1.0]) @ affine))  # a twentieth of a voxel at the far end
    assert not same_grid(volume, at(np.diag([0.988] * 3 + [1.0]) @ affine))
    assert not same_grid(volume, at(np.diag([-1.0, 1, 1, 1]) @ affine))
    shifted = affine.copy()
    shifted[1, 3] = 0.6 * spacing
    assert not same_grid(volume, at(shifted))
    assert not same_grid(volume, Volume(np.zeros((500, 400, 31), np.uint8), affine))
