"""Clicks on a mask that was given: they change what is wrong around them, and nothing else."""

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from backend.inference.canvas import Floats
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
    at = np.rint(voxel).astype(int).clip(0, len(mask) - 1)
    squares = sum((axis - place) ** 2 for axis, place in zip(np.ogrid[tuple(map(slice, mask.shape))], at, strict=True))
    across = squares[mask != mask[tuple(at)]]
    reach = max(LEAST_REACH, REACH * float(np.sqrt(across.min()))) if len(across) else np.inf
    wrong = (mask != positive) & ((answer > 0) == positive) & (squares <= reach**2)
    pieces, _ = ndimage.label(wrong)
    piece = pieces[tuple(at)]
    return np.where((pieces == piece) & (piece > 0), answer, before)


def innermost(mask: Bools) -> Points:
    """The voxel (3,) of a mask that is furthest from its border."""
    depth = ndimage.distance_transform_edt(np.pad(mask, 1))
    return np.array(np.unravel_index(int(depth.argmax()), depth.shape), dtype=np.float64) - 1
