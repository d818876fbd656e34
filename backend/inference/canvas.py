"""The logits of one object: one window or several, merged, and painted on the volume's own grid.

A window is a crop of `size` grid voxels with `cells` logits an axis, so a cell is `size / cells` voxels
wide. All windows of an object start a whole number of cells apart, so that merging needs no resampling.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from backend.geometry import AxisMap, Grid, Index3, interpolate_axis

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Window:
    """Logits (cells, cells, cells) of the crop whose first voxel is the grid's `start`.

    `prompted` windows were opened or answered for a person's prompt; the others only follow the object.
    """

    start: Index3
    logits: Floats = field(repr=False)
    prompted: bool


@dataclass(frozen=True, eq=False)
class MaskPatch:
    """The box of the volume that holds an object: `mask` (x, y, z) bool, its first voxel at index `start`."""

    start: Index3
    mask: npt.NDArray[np.bool_] = field(repr=False)

    @property
    def slices(self) -> tuple[slice, slice, slice]:
        """Where the patch lies in an array of the volume's shape."""
        x, y, z = (slice(s, s + n) for s, n in zip(self.start, self.mask.shape, strict=True))
        return x, y, z

    def within(self, box: tuple[slice, slice, slice]) -> npt.NDArray[np.bool_]:
        """As it lies in a box of the volume: cut off there, and False where it has nothing."""
        out = np.zeros([side.stop - side.start for side in box], dtype=bool)
        both = [(max(a.start, b.start), min(a.stop, b.stop)) for a, b in zip(self.slices, box, strict=True)]
        if all(first < last for first, last in both):
            source, target = (
                tuple(slice(f - side.start, e - side.start) for (f, e), side in zip(both, sides, strict=True))
                for sides in (self.slices, box)
            )
            out[target] = self.mask[source]
        return out


EMPTY_PATCH = MaskPatch((0, 0, 0), np.zeros((0, 0, 0), dtype=bool))


@dataclass(frozen=True, eq=False)
class Canvas:
    """The windows of one object.

    Args:
        size: grid voxels of a window along each axis.
        cells: logits of a window along each axis.
        windows: oldest first.
        level: of the grid that the windows lie on.
        finer: the same object in finer windows, if they were looked at: what is shown.
        given: a mask that was given, with what clicks changed in it: what is shown of it.
    """

    size: int
    cells: int
    windows: tuple[Window, ...] = ()
    level: int = 0
    finer: "Canvas | None" = None
    given: MaskPatch | None = None

    @property
    def looks(self) -> int:
        """How many windows were looked at, the finer ones among them."""
        return len(self.windows) + (sum(window.prompted for window in self.finer.windows) if self.finer else 0)

    @property
    def nbytes(self) -> int:
        """The memory that it takes."""
        more = (self.finer.nbytes if self.finer else 0) + (self.given.mask.nbytes if self.given else 0)
        return sum(window.logits.nbytes for window in self.windows) + more

    @property
    def stride(self) -> int:
        """Grid voxels a cell."""
        return self.size // self.cells

    def with_window(self, window: Window) -> "Canvas":
        """The same with one window added, or put in the place of the one with the same start."""
        others = tuple(w for w in self.windows if w.start != window.start)
        return replace(self, windows=(*others, window), finer=None, given=None)

    def prompted_only(self) -> "Canvas":
        """The same without the windows that only follow the object."""
        return replace(self, windows=tuple(w for w in self.windows if w.prompted))

    def containing(self, voxel: Index3) -> list[Window]:
        """The windows that see a grid voxel."""
        return [w for w in self.windows if all(0 <= v - s < self.size for v, s in zip(voxel, w.start, strict=True))]

    def align(self, start: Index3) -> Index3:
        """The nearest start that lies whole cells away from the windows there are."""
        if not self.windows:
            return start
        first = np.array(self.windows[0].start)
        x, y, z = (first + self.stride * np.rint((np.array(start) - first) / self.stride).astype(int)).tolist()
        return x, y, z

    def read(self, start: Index3) -> Floats:
        """The logits in a window at `start` (aligned): its own, else the merged ones, 0 (undecided) where none are."""
        out = np.zeros((self.cells,) * 3, dtype=np.float32)
        if not self.windows:
            return out
        own = next((w.logits for w in self.windows if w.start == start), None)
        if own is not None:
            return own
        merged, corner, covered = self.merged()
        offset = [(s - c) // self.stride for s, c in zip(start, corner, strict=True)]
        source = tuple(
            slice(max(0, o), max(0, min(o + self.cells, n))) for o, n in zip(offset, merged.shape, strict=True)
        )
        target = tuple(slice(s.start - o, s.stop - o) for s, o in zip(source, offset, strict=True))
        if all(s.stop > s.start for s in source):
            out[target] = np.where(covered[source], merged[source], 0)
        return out

    def merged(self) -> tuple[Floats, Index3, npt.NDArray[np.bool_]]:
        """Mean of the windows' logits, weighted down towards their faces; the grid voxel of its corner; its cover.

        A cell near a face was seen with little around it, so the window in whose middle it lies decides.
        """
        starts = np.array([w.start for w in self.windows])
        corner = starts.min(axis=0)
        shape = (starts.max(axis=0) - corner) // self.stride + self.cells
        tent = np.minimum(np.arange(self.cells) + 1, self.cells - np.arange(self.cells)).astype(np.float32)
        weight = tent[:, None, None] * tent[:, None] * tent
        total = np.zeros(shape, dtype=np.float32)
        weights = np.zeros(shape, dtype=np.float32)
        for window in self.windows:
            first = (np.array(window.start) - corner) // self.stride
            box = tuple(slice(f, f + self.cells) for f in first)
            total[box] += weight * window.logits
            weights[box] += weight
        covered = weights > 0
        merged = np.divide(total, weights, out=np.full(shape, -1, dtype=np.float32), where=covered)
        merged[~covered] = min(-1.0, float(merged.min()))
        x, y, z = corner.tolist()
        return merged, (x, y, z), covered

    def touches(self, window: Window, min_cells: int) -> Iterator[Index3]:
        """The directions, as steps of -1, 0, 1 an axis, in which at least `min_cells` of the object reach a face."""
        for axis in range(3):
            for side, step in ((0, -1), (-1, 1)):
                if np.count_nonzero(window.logits.take(side, axis) > 0) >= min_cells:
                    x, y, z = (step if a == axis else 0 for a in range(3))
                    yield x, y, z

    def paint(self, grid: Grid, threshold: float = 0.0) -> MaskPatch:
        """The mask on the volume's own grid: logits interpolated at the voxels' centres, then thresholded.

        Only the box of cells above the threshold is interpolated, so the cost goes with the object.
        """
        if not self.windows:
            return EMPTY_PATCH
        merged, corner, _ = self.merged()
        above = np.argwhere(merged > threshold)
        if not len(above):
            return EMPTY_PATCH
        low, high = above.min(axis=0), above.max(axis=0)
        values: npt.NDArray[np.float32] = merged
        starts, taps = [], []
        for axis in range(3):
            first, at = self._volume_taps(grid, axis, corner[axis], merged.shape[axis], (low[axis], high[axis]))
            starts.append(first)
            taps.append(at)
        for axis in (2, 1):
            values = interpolate_axis(values, taps[axis], axis)
        mask = _interpolate_and_threshold(values, taps[0], threshold)
        back = np.argsort(grid.axes)  # canonical order to the volume's
        x, y, z = (starts[a] for a in back)
        return MaskPatch((x, y, z), mask.transpose(back))

    def _volume_taps(
        self, grid: Grid, axis: int, corner: int, count: int, span: tuple[int, int]
    ) -> tuple[int, npt.NDArray[np.float64]]:
        """First volume index and the cell coordinate of each volume voxel along a grid axis, inside `span` cells."""
        to_grid = grid.maps[axis].inverse()
        voxels = to_grid(np.arange(grid.extent[axis]))
        cells = AxisMap((0.5 - corner) / self.stride - 0.5, 1 / self.stride)(voxels)
        # The grid stops up to a voxel short of the volume: what lies beyond its last voxel belongs to that one.
        begin = -np.inf if corner <= 0 else -0.5
        end = np.inf if corner + count * self.stride >= grid.shape[axis] else count - 0.5
        low = begin if span[0] == 0 else span[0] - 1
        high = end if span[1] == count - 1 else span[1] + 1
        index = np.flatnonzero((cells >= low) & (cells <= high))
        first = int(index[0]) if len(index) else 0
        return first, np.clip(cells[index], 0, count - 1)


def _interpolate_and_threshold(
    values: npt.NDArray[np.float32], at: npt.NDArray[np.float64], threshold: float
) -> npt.NDArray[np.bool_]:
    """`interpolate_axis` along axis 0 and a comparison, a plane at a time: the logits are never held at full size."""
    mask = np.empty((len(at), *values.shape[1:]), dtype=bool)
    for plane, position in enumerate(at):
        mask[plane] = interpolate_axis(values, np.array([position]), 0)[0] > threshold
    return mask
