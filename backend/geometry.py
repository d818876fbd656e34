"""The one owner of axis order, canonical orientation, the resampled grid, crops and their inverse.

Frames, from the file to the network, each with its index order:

- volume: the voxels as stored, (x, y, z) = NIfTI's (i, j, k);
- canonical: the volume with axes permuted and flipped to be closest to RAS+; never stored, only a view;
- grid: the canonical volume resampled to cubic voxels (1.5 mm, or those of another level), sharing its centre;
- crop: a cube of the grid that may reach beyond it, where it is zero; this is what the network sees.

Between any two of them each axis maps by itself (`AxisMap`), whatever the affine: oblique and sheared
volumes are resampled along their own axes and only the affine knows of the angles. A viewer's index order,
napari's (z, y, x), is a `DisplayOrder`.
"""

from dataclasses import dataclass
from itertools import product
from typing import Any, TypeVar

import nibabel as nib
import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array

from backend.errors import ErrorCode, SamMed3DError
from backend.volume import Affine, Volume, VoxelArray

Floats = npt.NDArray[np.float64]
Index3 = tuple[int, int, int]
T = TypeVar("T", bound=np.generic)

# Planes of a volume that are averaged at once.
SLAB = 32
# Nearer than this to a tie between two voxels (in voxels) counts as the tie, whatever the rounding of the affine.
TIE = 1e-6


@dataclass(frozen=True)
class AxisMap:
    """Index along one axis of one frame from the index in another: `offset + step * index`."""

    offset: float
    step: float

    def __call__(self, index: npt.ArrayLike) -> Floats:
        """The indices in the other frame."""
        return self.offset + self.step * np.asarray(index, dtype=np.float64)

    def inverse(self) -> "AxisMap":
        """The map back."""
        return AxisMap(-self.offset / self.step, 1.0 / self.step)


@dataclass(frozen=True)
class Grid:
    """The resampled canonical grid of a volume, and the way between the two.

    Args:
        shape: voxels along the grid's (x, y, z).
        affine: 4x4, from grid index to mm in RAS+.
        axes: the volume's axis that runs along each grid axis.
        maps: along each grid axis, volume index from grid index (a negative step is a flip).
        extent: voxels of the volume along each grid axis, that is along `axes`.
    """

    shape: Index3
    affine: Affine
    axes: Index3
    maps: tuple[AxisMap, AxisMap, AxisMap]
    extent: Index3

    def from_volume(self, points: npt.ArrayLike) -> Floats:
        """Continuous grid indices (..., 3) of volume indices (..., 3)."""
        points = np.asarray(points, dtype=np.float64)
        return np.stack([m.inverse()(points[..., axis]) for m, axis in zip(self.maps, self.axes, strict=True)], -1)

    def to_volume(self, points: npt.ArrayLike) -> Floats:
        """Continuous volume indices (..., 3) of grid indices (..., 3)."""
        points = np.asarray(points, dtype=np.float64)
        out = np.empty_like(points)
        for grid_axis, (axis_map, axis) in enumerate(zip(self.maps, self.axes, strict=True)):
            out[..., axis] = axis_map(points[..., grid_axis])
        return out

    def voxel_of(self, point: npt.ArrayLike) -> Index3:
        """The grid voxel that stands for a click at the volume index `point` (3,).

        Quirk kept for compatibility: the published pipeline resamples (nearest) the 3x3x3 cube of voxels
        around the click, as far as it is in the volume, and takes the middle of what is left, the upper one
        of two. It is a voxel of the grid wherever in the volume the click is.
        """
        centre = self.from_volume(point)
        half = np.array([1.5 / abs(m.step) for m in self.maps])
        size = np.array(self.shape)
        below = np.clip(np.floor(centre - half + TIE), -1, size - 2)  # the last grid voxel before the cube
        last = np.clip(np.floor(centre + half + TIE), 0, size - 1)
        x, y, z = np.floor((below + last) / 2 + 1).astype(int).tolist()
        return x, y, z


def canonical_grid(volume: Volume, spacing_mm: float, *, thin: bool = True) -> Grid:
    """Lay a grid of `spacing_mm` over the canonical (closest to RAS+) volume, both with the same centre.

    It has floor(size * spacing / spacing_mm) voxels an axis, at least 1 (design of the published inference).

    Args:
        volume: what it is laid over.
        spacing_mm: of its voxels.
        thin: a single slice is one voxel thick (the same design), and not as thick as it says.
    """
    orientation = nib.orientations.io_orientation(volume.affine)
    axes = [int(np.flatnonzero(orientation[:, 0] == axis)[0]) for axis in range(3)]
    maps, sizes = [], []
    for axis in axes:
        count, spacing = volume.shape[axis], volume.spacing[axis]
        # float32, as published: a header's 1.1249999 mm must not cost a voxel.
        size = 1 if thin and count == 1 else max(1, int(np.float32(count * spacing / spacing_mm)))
        step = spacing_mm / spacing * orientation[axis, 1]
        maps.append(AxisMap((count - 1) / 2 - step * (size - 1) / 2, step))
        sizes.append(size)
    to_volume = np.zeros((4, 4))
    to_volume[3, 3] = 1
    for grid_axis, axis in enumerate(axes):
        to_volume[axis, grid_axis] = maps[grid_axis].step
        to_volume[axis, 3] = maps[grid_axis].offset
    return Grid(
        shape=(sizes[0], sizes[1], sizes[2]),
        affine=volume.affine @ to_volume,
        axes=(axes[0], axes[1], axes[2]),
        maps=(maps[0], maps[1], maps[2]),
        extent=(volume.shape[axes[0]], volume.shape[axes[1]], volume.shape[axes[2]]),
    )


def same_grid(volume: Volume, other: Volume) -> bool:
    """Whether two volumes have the same shape, and no voxel of one is half a voxel or more from the other's.

    Headers round their affines, by hundredths of a millimetre across an image; small voxels are as far apart as that.
    """
    if volume.shape != other.shape:
        return False
    corners = np.array(list(product(*((0, n - 1) for n in volume.shape))))
    apart = np.linalg.norm(to_world(volume, corners) - to_world(other, corners), axis=1).max()
    return bool(apart < min(volume.spacing) / 2)


def check_inside(volume: Volume, point: npt.ArrayLike) -> Floats:
    """Return `point` (x, y, z; a continuous volume index) as floats, refusing what is not in the volume."""
    try:
        given = np.asarray(point)
    except ValueError as error:  # ragged
        raise _bad_point(volume, point) from error
    if given.shape != (3,) or given.dtype.kind not in "iuf":
        raise _bad_point(volume, point)
    index = given.astype(np.float64)
    if not ((index >= -0.5) & (index < np.array(volume.shape) - 0.5)).all():  # NaN is neither
        raise _bad_point(volume, point)
    return index


def _plain(point: object) -> object:
    """Numbers without digits that say nothing, for a message."""
    if isinstance(point, np.ndarray) and point.dtype.kind in "iuf":
        return [round(number, 3) for number in point.ravel().tolist()]
    return point


def _bad_point(volume: Volume, point: object) -> SamMed3DError:
    x, y, z = volume.shape
    return SamMed3DError(
        ErrorCode.PROMPT_INVALID,
        f"The point {_plain(point)} is not a voxel (x, y, z) of this volume of {x} x {y} x {z} voxels.",
        f"Choose three finite numbers from 0 0 0 to {x - 1} {y - 1} {z - 1}.",
    )


def apply_affine(affine: npt.NDArray[np.floating], points: npt.ArrayLike) -> Floats:
    """The points (..., 3) mapped by a 4x4 affine."""
    mapped: Floats = np.asarray(points, dtype=np.float64) @ affine[:3, :3].T + affine[:3, 3]
    return mapped


def from_world(volume: Volume, point_mm: npt.ArrayLike) -> Floats:
    """Continuous volume index (..., 3) of points in mm, RAS+."""
    return apply_affine(np.linalg.inv(volume.affine), point_mm)


def to_world(volume: Volume, points: npt.ArrayLike) -> Floats:
    """mm in RAS+ (..., 3) of volume indices (..., 3)."""
    return apply_affine(volume.affine, points)


def extract_crop(
    volume: Volume, grid: Grid, start: Index3, size: int | Index3, *, average: bool = False
) -> npt.NDArray[np.float32]:
    """Resample a box of grid voxels from `start`, reading only its own window of the volume.

    Linear between voxel centres, clamped at the outermost ones, zero outside the grid. Integer voxels are
    truncated towards zero once resampled (design of the published inference: it resamples in the
    volume's own integer type, which keeps values between 0 and 1 out of the statistics). A bool volume,
    that is a mask, gives the share of it in each voxel.

    Args:
        volume: what to resample.
        grid: its grid.
        start: the box's first grid voxel; the box may reach beyond the grid.
        size: of the box, or of a cube; `start` (0, 0, 0) and the grid's shape are the whole volume.
        average: where a grid voxel is wider than the volume's, take the mean over its width along each axis, not
            the value in its middle, which has the noise of single voxels. Integers are not truncated then.

    Returns:
        float32 of that size in grid order (x, y, z); where a voxel is not finite, neither is the result.
    """
    shape = (size, size, size) if isinstance(size, int) else size
    crop = np.zeros(shape, dtype=np.float32)
    inside = inside_grid(grid, start, shape)
    if any(part.start >= part.stop for part in inside):
        return crop
    window: list[slice] = [slice(0)] * 3
    taps = []
    for part, s, axis_map, axis, count in zip(inside, start, grid.maps, grid.axes, grid.extent, strict=True):
        at = _taps(axis_map, np.arange(part.start, part.stop) + s, average)
        at = np.clip(at, 0, count - 1)
        first, last = int(at.min()), int(np.ceil(at.max()))
        window[axis] = slice(first, last + 1)
        taps.append(at - first)
    if average:
        crop[inside] = _means(volume.array, window, [taps[grid.axes.index(axis)] for axis in range(3)]).transpose(
            grid.axes
        )
        return crop
    values = np.asarray(volume.array[tuple(window)]).transpose(grid.axes)
    truncate = values.dtype.kind in "iu"
    for axis, at in enumerate(taps):
        values = interpolate_axis(values, at[0], axis)
    crop[inside] = np.trunc(values) if truncate else values
    return crop


def inside_grid(grid: Grid, start: Index3, shape: Index3) -> tuple[slice, slice, slice]:
    """Which part of a box of that shape from `start` lies in a grid."""
    x, y, z = (slice(max(0, -s), min(length, n - s)) for s, length, n in zip(start, shape, grid.shape, strict=True))
    return x, y, z


def _means(array: VoxelArray, window: list[slice], taps: list[Floats]) -> npt.NDArray[np.float32]:
    """The means over taps (n, V) along each axis of a window, float32 (V, V, V).

    A window of a fine volume may be as large as the volume: it is read in slabs along its last axis.
    """
    sizes = [part.stop - part.start for part in window]
    means = [_mean_of(at, n) for at, n in zip(taps, sizes, strict=True)]
    x, y, z = (mean.shape[0] for mean in means)
    out = np.zeros((z, y * x), dtype=np.float32)
    for first in range(0, sizes[2], SLAB):
        last = min(first + SLAB, sizes[2])
        planes = slice(window[2].start + first, window[2].start + last)
        slab = np.asarray(array[window[0], window[1], planes], dtype=np.float32)
        along_x = (means[0] @ slab.reshape(sizes[0], -1)).reshape(x, sizes[1], -1)
        along_y = means[1] @ along_x.transpose(1, 0, 2).reshape(sizes[1], -1)
        out += means[2][:, first:last] @ along_y.reshape(y * x, -1).T
    return out.reshape(z, y, x).transpose(2, 1, 0)


def _mean_of(at: Floats, count: int) -> csr_array:
    """The matrix (V, count) that takes the mean of the values at continuous indices (n, V) along an axis."""
    low = np.floor(at).astype(np.intp)
    share = at - low
    rows = np.broadcast_to(np.arange(at.shape[1]), at.shape)
    weights = np.concatenate([1 - share, share]).ravel() / len(at)
    columns = np.concatenate([low, np.ceil(at).astype(np.intp)]).ravel()
    there = weights > 0  # a neighbour of no weight does not count, even where it is not finite
    places = np.concatenate([rows, rows]).ravel()[there], columns[there]
    return csr_array((weights[there].astype(np.float32), places), shape=(at.shape[1], count))


def _taps(axis_map: AxisMap, voxels: npt.NDArray[np.intp], average: bool) -> Floats:
    """Where along an axis of the volume grid voxels (V,) are read: (taps, V) indices, evenly across each voxel."""
    taps = max(1, round(abs(axis_map.step))) if average else 1
    inside = (np.arange(taps) + 0.5) / taps - 0.5
    return axis_map(voxels + inside[:, None])


def interpolate_axis(values: npt.NDArray[np.generic], at: Floats, axis: int) -> npt.NDArray[np.float32]:
    """Linear interpolation of `values` at the continuous indices `at` (within its size) along one axis, float32."""
    low = np.floor(at).astype(np.intp)
    high = np.ceil(at).astype(np.intp)  # at a voxel that voxel itself: a neighbour that is not finite does not count
    shape = [1] * values.ndim
    shape[axis] = len(at)
    weight = (at - low).astype(np.float32).reshape(shape)
    below = values.take(low, axis).astype(np.float32, copy=False)
    out = values.take(high, axis).astype(np.float32, copy=False)
    with np.errstate(invalid="ignore"):  # inf - inf
        out -= below
        out *= weight
        out += below
    return out


# The viewer's world, mm along (Inferior, Posterior, Left), from mm in RAS+. So slices look as in radiology, head up
# and face up with the patient's left on the right, along all three axes; and since napari's 3D view takes its axes
# as right-handed in this order, the body is not mirrored there.
RAS_TO_VIEWER = np.array([[0.0, 0, -1, 0], [0, -1, 0, 0], [-1, 0, 0, 0], [0, 0, 0, 1]])


@dataclass(frozen=True)
class DisplayOrder:
    """How a viewer shows a volume's voxels: its axes permuted, some of them flipped.

    Args:
        axes: the volume's axis shown as each of the viewer's axes.
        flips: whether it runs against that axis.
        shape: of the volume, (x, y, z).
    """

    axes: Index3
    flips: tuple[bool, bool, bool]
    shape: Index3

    def show(self, array: npt.NDArray[T]) -> npt.NDArray[T]:
        """A view, in the viewer's order, of an array (x, y, z) of the volume's shape."""
        return array.transpose(self.axes)[tuple(slice(None, None, -1 if flip else None) for flip in self.flips)]

    @property
    def matrix(self) -> Affine:
        """4x4 from the volume's index to the index in the shown array."""
        out = np.zeros((4, 4))
        out[3, 3] = 1
        for shown, (axis, flip) in enumerate(zip(self.axes, self.flips, strict=True)):
            out[shown, axis] = -1 if flip else 1
            out[shown, 3] = self.shape[axis] - 1 if flip else 0
        return out

    def to_viewer(self, points: npt.ArrayLike) -> Floats:
        """Indices (..., 3) in the shown array of volume indices (..., 3)."""
        return apply_affine(self.matrix, points)

    def to_volume(self, points: npt.ArrayLike) -> Floats:
        """Volume indices (..., 3) of indices (..., 3) in the shown array."""
        return apply_affine(np.linalg.inv(self.matrix), points)

    def viewer_affine(self, affine: Affine) -> Affine:
        """4x4 from index in the shown array to the viewer's world, of the volume's affine."""
        return RAS_TO_VIEWER @ affine @ np.linalg.inv(self.matrix)

    def volume_affine(self, viewer_affine: Affine) -> Affine:
        """The inverse of `viewer_affine`: 4x4 from volume index to mm in RAS+."""
        return np.linalg.inv(RAS_TO_VIEWER) @ viewer_affine @ self.matrix


def plain_order(shown_shape: Index3) -> DisplayOrder:
    """The order of a viewer's array (z, y, x) of which nothing else is known: the volume is its reverse."""
    return DisplayOrder((2, 1, 0), (False, False, False), (shown_shape[2], shown_shape[1], shown_shape[0]))


def display_order(volume: Volume) -> DisplayOrder:
    """The order nearest to (Inferior, Posterior, Left); see `RAS_TO_VIEWER`."""
    return _nearest_order(RAS_TO_VIEWER @ volume.affine, volume.shape)


def _nearest_order(affine: Affine, shape: Index3) -> DisplayOrder:
    """The order whose axes run nearest to those of the world that `affine` maps volume indices to."""
    orientation = nib.orientations.io_orientation(affine)
    axes = [int(np.flatnonzero(orientation[:, 0] == axis)[0]) for axis in range(3)]
    flips = [bool(orientation[axis, 1] < 0) for axis in axes]
    return DisplayOrder((axes[0], axes[1], axes[2]), (flips[0], flips[1], flips[2]), shape)


def canonical_volume(volume: Volume) -> Volume:
    """The same voxels at the same places, with the axes permuted and flipped to be closest to RAS+; a view."""
    order = _nearest_order(volume.affine, volume.shape)
    affine = volume.affine @ np.linalg.inv(order.matrix)
    return Volume(order.show(np.asarray(volume.array)), affine, volume.source)


class ShownArray:
    """A viewer's array, `shown`, seen in the volume's order (x, y, z), read by window only: it may be dask or zarr."""

    def __init__(self, shown: VoxelArray, order: DisplayOrder) -> None:
        self.shown = shown
        self._order = order
        self.shape = order.shape
        self.dtype = shown.dtype

    def __getitem__(self, key: tuple[slice, slice, slice], /) -> npt.NDArray[Any]:
        window, flip = [], []
        for axis, flipped in zip(self._order.axes, self._order.flips, strict=True):
            start, stop, _ = key[axis].indices(self.shape[axis])
            count = self.shape[axis]
            window.append(slice(count - stop, count - start) if flipped else slice(start, stop))
            flip.append(slice(None, None, -1 if flipped else None))
        values = np.asarray(self.shown[tuple(window)])[tuple(flip)]
        return values.transpose(np.argsort(self._order.axes))
