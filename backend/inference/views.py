"""Windows of any voxel size on a volume: where they lie, and how points and logits go from one to another."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from backend.geometry import Index3, interpolate_axis
from backend.inference.canvas import Canvas, Floats
from backend.inference.predictor import Predictor, spacing_of

Points = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

# The object's longest side as a share of a window's that is fitted to it.
FILL = 0.7
# A box is taken to be a voxel of 1.5 mm wider than from one voxel's centre to another's, but so many voxels at most.
MOST_VOXELS_MORE = 4
# An object goes on beyond a face of its window if it has so many cells there.
FACE_CELLS = 8


class View(NamedTuple):
    """Where a window lies: its first voxel on the grid of a level; see `spacing_of`."""

    level: int
    start: Index3


class Span(NamedTuple):
    """A box by its ends, continuous volume indices (3,) each."""

    low: Points
    high: Points


def view_of(canvas: Canvas) -> View | None:
    """Where the canvas's only window lies, if it has one."""
    return View(canvas.level, canvas.windows[0].start) if canvas.windows else None


class Views:
    """The windows of one volume.

    Args:
        predictor: model and volume.
    """

    def __init__(self, predictor: Predictor) -> None:
        self._predictor = predictor
        # Below half the finest voxel of the volume there is nothing more to see.
        self.finest = level_of(min(predictor.volume.spacing) / 2)

    @property
    def size(self) -> int:
        """Voxels an axis."""
        return self._predictor.size

    def around(self, centre: npt.ArrayLike, side_mm: float) -> View:
        """At least `side_mm` wide, with the volume index `centre` in its middle."""
        level = max(self.finest, level_of(side_mm / self.size))
        middle = self._predictor.grid_at(level).from_volume(centre)
        x, y, z = np.rint(middle - (self.size - 1) / 2).astype(int).tolist()
        return View(level, (x, y, z))

    def fitted(self, span: Span) -> View:
        """Filled by a box as much as it should be."""
        ends = self._predictor.grid.from_volume(np.stack(span))
        voxel_mm = min(spacing_of(0), MOST_VOXELS_MORE * min(self._predictor.volume.spacing))
        side_mm = np.abs(ends[1] - ends[0]).max() * spacing_of(0) + voxel_mm
        return self.around((span.low + span.high) / 2, side_mm / FILL)

    def voxels(self, view: View, points: Points) -> Points:
        """Continuous voxels of a window (N, 3) of volume indices (N, 3)."""
        voxels: Points = self._predictor.grid_at(view.level).from_volume(points) - np.array(view.start)
        return voxels

    def points(self, view: View, voxels: Points) -> Points:
        """Volume indices (N, 3) of continuous voxels of a window (N, 3)."""
        return self._predictor.grid_at(view.level).to_volume(voxels + np.array(view.start))

    def inside(self, voxels: Points, margin: int = 0) -> Bools:
        """Which voxels (N, 3) lie in the window, at least `margin` from its faces."""
        off_centre: Points = np.abs(voxels - (self.size - 1) / 2).max(axis=1)
        return off_centre < self.size / 2 - margin

    def seen(self, canvas: Canvas, view: View) -> Floats:
        """The logits of a canvas as they lie in a window (S, S, S); 0, undecided, where it has none.

        Where it was seen in finer windows, theirs.
        """
        own = view_of(canvas)
        if own is None:
            return np.zeros((self.size,) * 3, dtype=np.float32)
        logits = canvas.windows[0].logits
        if own != view:
            moved, there = self.moved(logits, own, view)
            logits = np.where(there, moved, np.float32(0))
        if canvas.finer is not None:
            finer, corner, _ = canvas.finer.merged()
            moved, there = self.moved(finer, View(canvas.finer.level, corner), view)
            logits = np.where(there, moved, logits)
        return logits

    def moved(self, logits: Floats, own: View, view: View) -> tuple[Floats, Bools]:
        """Logits that begin where `own` does as they lie in a window, and where that is (S, S, S) both."""
        diagonal = np.repeat(np.arange(self.size, dtype=np.float64)[:, None], 3, axis=1)
        at = self.voxels(own, self.points(view, diagonal))
        shape = np.array(logits.shape)
        for axis in range(3):
            logits = interpolate_axis(logits, at[:, axis].clip(0, shape[axis] - 1), axis)
        x, y, z = ((at > -0.5) & (at < shape - 0.5)).T
        return logits, x[:, None, None] & y[:, None] & z

    def beyond(self, view: View, mask: Bools) -> Bools:
        """Whether a mask (S, S, S) reaches each face (3 axes, low and high) behind which the volume goes on."""
        cells: npt.NDArray[np.int_] = np.array(
            [[np.count_nonzero(mask.take(side, axis)) for side in (0, -1)] for axis in range(3)]
        )
        start, shape = np.array(view.start), np.array(self._predictor.grid_at(view.level).shape)
        more: Bools = np.stack([start > 0, start + self.size < shape], axis=1)
        return np.logical_and(cells >= FACE_CELLS, more)


def level_of(spacing_mm: float) -> int:
    """The finest level whose voxels are at least so wide."""
    return int(np.ceil(2 * np.log2(spacing_mm / spacing_of(0)) - 1e-6))
