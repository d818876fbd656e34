"""Where finer windows lie on a large object, whose border a window as wide as the object shows in coarse voxels."""

from itertools import product
from math import floor

import numpy as np
from scipy import ndimage

from backend.inference.canvas import Canvas, Floats, Window
from backend.inference.views import Bools, Points, View, Views, view_of

# Voxels become half as wide (two levels), and not finer than 1.5 mm (level 0): finer ones gained nothing.
FINER, FINEST = 2, 0
# At half the voxel size an object that fits its window needs two an axis.
MOST_WINDOWS = 8
# Voxels of which windows at least overlap, and reach beyond the object as it was found.
OVERLAP, MARGIN = 8, 4
# They start at multiples of so many, so that most are the same after the next click. No more than what they overlap by,
# and half of it no more than the margin.
STEP = 8


def finer_windows(views: Views, canvas: Canvas) -> Canvas | None:
    """An object in finer windows that cover it, as it was found in its one window; None where that is fine enough.

    Those that hold some of its border are not `prompted` yet: there is something to see anew.
    """
    view = view_of(canvas)
    found = np.argwhere(canvas.windows[0].logits > 0) if view else np.zeros((0, 3))
    if view is None or not len(found):
        return None
    ends = views.points(view, np.stack([found.min(0), found.max(0)]).astype(np.float64))
    for level in range(max(view.level - FINER, FINEST, views.finest), view.level):
        tiles = _tiles(views, ends, level)
        if len(tiles) <= MOST_WINDOWS:
            seen = [(tile.start, views.seen(canvas, tile)) for tile in tiles]
            windows = (Window(start, logits, bool((logits > 0).all())) for start, logits in seen if (logits > 0).any())
            return Canvas(canvas.size, canvas.cells, tuple(windows), level)
    return None


def _tiles(views: Views, ends: Points, level: int) -> list[View]:
    """Windows of a level that cover a box, whose ends (2, 3) are volume indices."""
    voxels = views.voxels(View(level, (0, 0, 0)), ends)
    low, high = np.floor(voxels.min(0)) - MARGIN, np.ceil(voxels.max(0)) + MARGIN + 1
    starts = (_starts(first, last, views.size) for first, last in zip(low, high, strict=True))
    return [View(level, (x, y, z)) for x, y, z in product(*starts)]


def _starts(low: float, high: float, size: int) -> list[int]:
    """First voxels of windows from `low` to `high`; of several, that overlap as much as they can."""
    count = max(1, int(np.ceil((high - low - OVERLAP) / (size - OVERLAP))))
    ends = [(low + high - size) / 2] if count == 1 else np.linspace(low, high - size, count)
    return sorted({STEP * floor(float(start) / STEP + 0.5) for start in ends})  # round() could take two apart


def without_islands(logits: Floats, before: Bools) -> Floats:
    """Logits (S, S, S) without the pieces that nothing of the mask before is in."""
    pieces, _ = ndimage.label(logits > 0)
    kept = np.isin(pieces, np.unique(pieces[before]))
    return np.where(kept, logits, -np.abs(logits))
