"""Clicks on a mask that was given: they change what is wrong around them, and nothing else."""

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from backend.inference.canvas import Floats, MaskPatch
from backend.inference.prompts import Point
from backend.inference.views import Bools, Points

# A click reaches so many times as far as the mask's border is from it, and at least so many voxels.
REACH, LEAST_REACH = 2.0, 3.0
# Into about so many blocks an axis a mask is divided where only about how far something is counts.
BLOCKS = 64


def retouched(before: Floats, answer: Floats, voxel: npt.ArrayLike, *, positive: bool) -> Floats:
    """Logits as they were, but as the answer says where the click can be meant.

    A positive click adds, a negative one takes away, one connected piece, no further from it than twice as far as the
    border is: one in the middle of a bump reaches across the bump, and not into the organ that bears it.

    Args:
        before: (S, S, S); above 0 is the mask.
        answer: (S, S, S), of a network.
        voxel: of the click in them (3,).
        positive: whether it belongs to the object.
    """
    mask = before > 0
    at = np.rint(voxel).astype(int).clip(0, len(mask) - 1)
    x, y, z = ((np.arange(len(mask)) - place) ** 2 for place in at)
    squares = x[:, None, None] + y[:, None] + z
    across = squares[mask != mask[tuple(at)]]
    reach = max(LEAST_REACH, REACH * float(np.sqrt(across.min()))) if len(across) else np.inf
    wrong = (mask != positive) & ((answer > 0) == positive) & (squares <= reach**2)
    pieces, _ = ndimage.label(wrong)
    piece = pieces[tuple(at)]
    return np.where((pieces == piece) & (piece > 0), answer, before)


def to_border_mm(given: MaskPatch, point: Point, spacing: tuple[float, float, float]) -> float:
    """About how far (mm) a mask's border is from a volume index: to the nearest block of voxels with some beyond it.

    Args:
        given: with a voxel set.
        point: continuous volume index.
        spacing: of the volume, in mm.
    """
    mask = np.pad(given.mask, 1)  # so that there is always something around it
    place = np.array(point) - np.array(given.start) + 1
    x, y, z = np.rint(place).astype(int).clip(0, np.array(mask.shape) - 1).tolist()
    beyond = mask != mask[x, y, z]
    squares = []
    for axis, (at, size) in enumerate(zip(place, spacing, strict=True)):
        firsts = np.arange(0, mask.shape[axis], max(1, mask.shape[axis] // BLOCKS))
        lasts = np.append(firsts[1:], mask.shape[axis]) - 1
        squares.append((np.maximum(np.maximum(firsts - at, at - lasts), 0) * size) ** 2)
        beyond = np.logical_or.reduceat(beyond, firsts, axis=axis)
    return float(np.sqrt((squares[0][:, None, None] + squares[1][:, None] + squares[2])[beyond].min()))


def edited(given: MaskPatch, now: MaskPatch, near: MaskPatch, *, positive: bool) -> MaskPatch:
    """A mask that was given with what a click changed in it, voxel for voxel as it was everywhere else.

    Args:
        given: on the volume's own grid.
        now: the object as the window has it, in its coarser voxels.
        near: where that is another than it was before the click, and a voxel of the window around.
        positive: whether the click adds; else it takes away.
    """
    pairs = [patch.slices for patch in ((given, now) if positive else (given,)) if patch.mask.size] or [given.slices]
    x, y, z = (slice(min(s.start for s in sides), max(s.stop for s in sides)) for sides in zip(*pairs, strict=True))
    mask, new, here = (patch.within((x, y, z)) for patch in (given, now, near))
    return MaskPatch((x.start, y.start, z.start), mask | (here & new) if positive else mask & ~(here & ~new))


def innermost(mask: Bools) -> Points:
    """The voxel (3,) of a mask that is furthest from its border."""
    depth = ndimage.distance_transform_edt(np.pad(mask, 1))
    return np.array(np.unravel_index(int(depth.argmax()), depth.shape), dtype=np.float64) - 1
