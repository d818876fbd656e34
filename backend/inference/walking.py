"""What the brightness alone says of a window: the answer of a network averaged with that of a random walk."""

import numpy as np
from skimage.measure import block_reduce

from backend.geometry import interpolate_axis
from backend.inference.canvas import Floats
from backend.inference.views import Bools, Points
from backend.random_walk import BACKGROUND, Seeds, seed_clicks, standardised, walk

# The walk is computed in cells of so many voxels an axis, in 75 ms of one core for windows of 64.
CELL = 2
# As if every window of 32 cells were 96 mm wide, so that scale makes no difference: the width of a cell, and how far
# around a click its own side is certain (mm).
CELL_MM, SEED_RADIUS_MM = 3.0, 5.0
# So many clicks leave the walk its whole share of the answer; of more clicks a network makes more than the walk does.
FULL_SHARE_CLICKS = 3
# Found is what has a half, less so much of the walk's share: where the two disagree, most of what one finds is right.
LENIENT = 0.2
SURE = 1e-4
# Below this logit the network is sure that there is no object, and the walk is not asked: in a small body in air every
# walk that gets off the clicked organ ends nowhere else.
NOWHERE = -3.0


def share_of(most: float, clicks: int) -> float:
    """The walk's share of the answer to so many clicks, of at `most` so much."""
    return most * min(1.0, FULL_SHARE_CLICKS / clicks)


def walked(crop: Floats, inside: tuple[slice, slice, slice], voxels: Points, labels: Bools) -> Floats | None:
    """Probability (S, S, S) that a random walk in a crop ends at a positive click; None where all is equally bright.

    It ends at negative ones and at the window's faces, too. Where a face lies beyond the volume, the volume goes on as
    it ends: an edge there would keep all walks in it.

    Args:
        crop: (S, S, S), finite or not; what is not counts as 0.
        inside: which part of it lies in the volume.
        voxels: of the window, the clicks (N, 3).
        labels: (N) of these, true for positive ones.
    """
    finite = np.nan_to_num(crop[inside], posinf=0, neginf=0).astype(np.float64)
    beyond = [(side.start, n - side.stop) for side, n in zip(inside, crop.shape, strict=True)]
    cells = standardised(block_reduce(np.pad(finite, beyond, mode="edge"), (CELL,) * 3, np.mean))
    if not cells.any():
        return None
    seeds: Seeds = np.full(cells.shape, BACKGROUND, dtype=np.int32)
    seeds[1:-1, 1:-1, 1:-1] = 0
    spacing = (CELL_MM,) * 3
    seed_clicks(seeds, np.floor((voxels + 0.5) / CELL), labels.tolist(), SEED_RADIUS_MM, spacing)
    found = walk(cells, seeds, spacing).astype(np.float32)
    at = ((np.arange(len(crop)) + 0.5) / CELL - 0.5).clip(0, len(cells) - 1)
    for axis in range(3):
        found = interpolate_axis(found, at, axis)
    return found


def averaged(logits: Floats, found: Floats, share: float) -> Floats:
    """Logits (S, S, S) of a network with a share of a walk's probability (S, S, S) in them."""
    least = 0.5 - LENIENT * share
    both = ((1 - share) / (1 + np.exp(-logits)) + share * found).clip(SURE, 1 - SURE)
    out: Floats = (np.log(both / (1 - both)) - np.log(least / (1 - least))).astype(np.float32)
    return np.where(logits < NOWHERE, np.minimum(logits, out), out)
