"""Clicks on a mask that was given: they change what is wrong around them, and nothing else."""

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from backend.inference.canvas import Floats, MaskPatch
from backend.inference.views import Bools, Points

# A click reaches so many times as far as the mask's border is from it, and at least so many voxels.
REACH, LEAST_REACH = 2.0, 3.0


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
    at = _nearest(voxel, len(mask))
    reach = max(LEAST_REACH, REACH * to_border(mask, voxel))
    wrong = (mask != positive) & ((answer > 0) == positive) & (_squares(at, len(mask)) <= reach**2)
    pieces, _ = ndimage.label(wrong)
    piece = pieces[tuple(at)]
    return np.where((pieces == piece) & (piece > 0), answer, before)


def to_border(mask: Bools, voxel: npt.ArrayLike) -> float:
    """How far the nearest voxel is that is in a mask (S, S, S) if this one is not, or else not in it; in voxels."""
    at = _nearest(voxel, len(mask))
    squares = _squares(at, len(mask))[mask != mask[tuple(at)]]
    return float(np.sqrt(squares.min())) if len(squares) else np.inf


def _nearest(voxel: npt.ArrayLike, size: int) -> npt.NDArray[np.int_]:
    return np.rint(voxel).astype(int).clip(0, size - 1)


def _squares(at: npt.NDArray[np.int_], size: int) -> npt.NDArray[np.int_]:
    """Squared distances (S, S, S) from a voxel."""
    x, y, z = ((np.arange(size) - place) ** 2 for place in at)
    squares: npt.NDArray[np.int_] = x[:, None, None] + y[:, None] + z
    return squares


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
