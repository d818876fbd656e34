"""A baseline that needs no training: the random walker (Grady 2006), from the same clicks as every model."""

from dataclasses import dataclass
from itertools import product

import numpy as np
import numpy.typing as npt
from skimage.measure import block_reduce

from backend.evaluation.metrics import Bools
from backend.geometry import interpolate_axis
from backend.random_walk import BACKGROUND, Floats, Seeds, seed_clicks, standardised, walk
from backend.volume import Volume

# How far around the box of all clicks the walk goes (mm).
REACH_MM = 60.0
# Cells of the coarsened window: a click then takes under a second of one core.
MAX_CELLS = 32_000
# How far around a click its own side is certain (mm): from a single cell the walk hardly gets away. As the strength of
# edges chosen on the phantom and on six of the volumes that the project is measured on, so this baseline is, if
# anything, favoured.
SEED_RADIUS_MM = 5.0


@dataclass(frozen=True)
class Window:
    """A box of the volume, in cells of `factors` voxels along (x, y, z).

    Args:
        start: first voxel.
        stop: one after the last.
        factors: voxels a cell.
        spacing: mm between the centres of cells.
        cut: for each axis whether there is volume before the window, and after it.
    """

    start: tuple[int, int, int]
    stop: tuple[int, int, int]
    factors: tuple[int, int, int]
    spacing: tuple[float, float, float]
    cut: tuple[tuple[bool, bool], ...]

    @property
    def slices(self) -> tuple[slice, slice, slice]:
        """The box in the volume's array."""
        x, y, z = (slice(a, b) for a, b in zip(self.start, self.stop, strict=True))
        return x, y, z

    @property
    def shape(self) -> tuple[int, int, int]:
        """Cells along (x, y, z)."""
        x, y, z = (-(-(b - a) // f) for a, b, f in zip(self.start, self.stop, self.factors, strict=True))
        return x, y, z

    def cell(self, voxel: npt.ArrayLike) -> tuple[int, int, int]:
        """The cell of a voxel (x, y, z) of the volume."""
        x, y, z = ((np.rint(voxel).astype(int) - self.start) // self.factors).tolist()
        return x, y, z


class RandomWalker:
    """Each voxel goes to the object if a random walk from it, slowed down by edges, meets a positive click first.

    Negative clicks and the faces of a window around the clicks stop the walk as background; along the window's
    shortest side only where there is volume beyond, so that objects which fill a thin slab are not cut off. The walk is
    computed on coarse cells and its probability interpolated to voxels. A box is a click at its centre.
    """

    def __init__(self) -> None:
        self._volume: Volume | None = None
        self._clicks: list[tuple[Floats, bool]] = []

    def start(self, volume: Volume) -> None:
        """Begin a new object."""
        self._volume, self._clicks = volume, []

    def click(self, point: npt.ArrayLike, positive: bool) -> Bools:
        """The mask (X, Y, Z) after a click at a voxel (x, y, z)."""
        if self._volume is None:
            raise RuntimeError("start() comes first")
        self._clicks.append((np.asarray(point, dtype=np.float64), positive))
        window = window_around([point for point, _ in self._clicks], self._volume)
        seeds = place_seeds(window, self._clicks)
        image = coarse_image(self._volume, window)
        return paint(walk(image, seeds, window.spacing), window, self._volume.shape)

    def box(self, corner: npt.ArrayLike, opposite: npt.ArrayLike) -> Bools:
        """The mask (X, Y, Z) after a positive click at the centre of a box."""
        return self.click((np.asarray(corner) + np.asarray(opposite)) / 2, True)


def window_around(points: list[Floats], volume: Volume) -> Window:
    """The box of all clicks and what lies `REACH_MM` around, in the finest nearly cubic cells that are not too many."""
    spacing, size = np.array(volume.spacing), np.array(volume.shape)
    reach = np.ceil(REACH_MM / spacing)
    start = np.maximum(0, np.floor(np.min(points, axis=0) - reach)).astype(int)
    stop = np.minimum(size, np.ceil(np.max(points, axis=0) + reach).astype(int) + 1)
    cell_mm = float(spacing.min())
    factors = _factors(cell_mm, spacing)
    while np.prod(np.ceil((stop - start) / factors)) > MAX_CELLS:
        cell_mm *= 1.1
        factors = _factors(cell_mm, spacing)
    return Window(
        start=tuple(start.tolist()),
        stop=tuple(stop.tolist()),
        factors=tuple(factors.tolist()),
        spacing=tuple((factors * spacing).tolist()),
        cut=tuple(zip((start > 0).tolist(), (stop < size).tolist(), strict=True)),
    )


def _factors(cell_mm: float, spacing: Floats) -> npt.NDArray[np.int_]:
    return np.maximum(1, np.rint(cell_mm / spacing)).astype(int)


def place_seeds(window: Window, clicks: list[tuple[Floats, bool]]) -> Seeds:
    """OBJECT and BACKGROUND in cells where the walk ends, 0 elsewhere."""
    seeds = np.zeros(window.shape, dtype=np.int32)
    extents = [n * s for n, s in zip(window.shape, window.spacing, strict=True)]
    for axis, side in product(range(3), range(2)):
        if axis != int(np.argmin(extents)) or window.cut[axis][side]:
            seeds[(slice(None),) * axis + (-side,)] = BACKGROUND
    cells, positive = [window.cell(point) for point, _ in clicks], [positive for _, positive in clicks]
    seed_clicks(seeds, cells, positive, SEED_RADIUS_MM, window.spacing)
    return seeds


def coarse_image(volume: Volume, window: Window) -> Floats:
    """The mean of each cell, clipped to the central 99 % and scaled to unit standard deviation (0 if constant)."""
    voxels = np.nan_to_num(np.asarray(volume.array[window.slices], dtype=np.float32), posinf=0, neginf=0)
    padding = [(0, -n % f) for n, f in zip(voxels.shape, window.factors, strict=True)]
    return standardised(block_reduce(np.pad(voxels, padding, mode="edge"), window.factors, np.mean).astype(float))


def paint(probability: Floats, window: Window, shape: tuple[int, int, int]) -> Bools:
    """The voxels (X, Y, Z) where the probability, interpolated between the cells' centres, is above a half."""
    values = probability.astype(np.float32)
    for axis, factor in enumerate(window.factors):
        voxels = np.arange(window.stop[axis] - window.start[axis])
        centres = (voxels - (factor - 1) / 2) / factor
        values = interpolate_axis(values, centres.clip(0, window.shape[axis] - 1), axis)
    mask = np.zeros(shape, dtype=bool)
    mask[window.slices] = values > 0.5
    return mask
