"""The random walker (Grady 2006): a cell belongs where a random walk from it, slowed down by edges, ends."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from skimage.segmentation import random_walker

Floats = npt.NDArray[np.float64]
Seeds = npt.NDArray[np.int32]

# How much an edge holds the walk up, for intensities of unit standard deviation and cells in mm. Chosen on the phantom
# and on six of the volumes that the project is measured on.
BETA = 10_000.0
OBJECT, BACKGROUND = 1, 2


def standardised(cells: Floats) -> Floats:
    """Clipped to the central 99 % and scaled to unit standard deviation (0 if constant)."""
    cells = cells.clip(*np.quantile(cells, (0.005, 0.995)))
    spread = float(cells.std())
    return (cells - cells.mean()) / spread if spread > 0 else np.zeros_like(cells)


def seed_clicks(
    seeds: Seeds, cells: npt.ArrayLike, positive: Sequence[bool], radius: float, spacing: npt.ArrayLike
) -> None:
    """Let the walk end within `radius` of clicks, as the nearest of them says; of equally near ones the last.

    Args:
        seeds: (X, Y, Z), changed in place.
        cells: of the clicks (N, 3).
        positive: (N) of these.
        radius: in the unit of `spacing`.
        spacing: between cells.
    """
    places = np.ogrid[tuple(slice(n) for n in seeds.shape)]
    nearest = np.full(seeds.shape, radius**2)
    for cell, kind in zip(np.asarray(cells, dtype=np.float64), positive, strict=True):
        apart = (((p - c) * s) ** 2 for p, c, s in zip(places, cell, np.asarray(spacing), strict=True))
        squares = np.broadcast_to(sum(apart), seeds.shape)
        nearer = squares <= nearest
        seeds[nearer] = OBJECT if kind else BACKGROUND
        nearest[nearer] = squares[nearer]


def walk(image: Floats, seeds: Seeds, spacing: npt.ArrayLike) -> Floats:
    """Probability (cells) that a walk ends on the object.

    Where there is nothing to weigh (one kind of seed, one intensity) or the linear system is not solved, the
    nearest seed decides.

    Args:
        image: (X, Y, Z), `standardised`.
        seeds: (X, Y, Z), OBJECT or BACKGROUND where a walk ends, 0 elsewhere.
        spacing: mm between cells.
    """
    if not (seeds == BACKGROUND).any() or not (seeds == OBJECT).any() or not image.any() or seeds.all():
        return _nearest(seeds, spacing)
    # The tolerance of the solver may leave [0, 1] a little, which is no reason to warn.
    both = random_walker(
        image, seeds, beta=BETA, mode="cg_j", tol=1e-3, spacing=spacing, return_full_prob=True, prob_tol=np.inf
    )
    found: Floats = np.asarray(both[0])
    return found.clip(0, 1) if np.isfinite(found).all() else _nearest(seeds, spacing)


def _nearest(seeds: Seeds, spacing: npt.ArrayLike) -> Floats:
    index = ndimage.distance_transform_edt(seeds == 0, spacing, return_distances=False, return_indices=True)
    return np.where(seeds[tuple(index)] == OBJECT, 1.0, 0.0)
