"""How far a click on a given mask reaches."""

import numpy as np

from backend.inference.canvas import MaskPatch
from backend.inference.retouch import to_border_mm


def test_the_distance_to_a_masks_border_is_known_to_a_block() -> None:
    """Against every voxel, for masks in one piece and in many, and points in them and beside."""
    rng = np.random.default_rng(0)
    for _ in range(100):
        shape, start = rng.integers(1, 150, 3) // (1, 2, 4) + 1, rng.integers(0, 20, 3)
        mask = rng.random(shape) < rng.choice([0.01, 0.9])
        mask[0, 0, 0] = True
        spacing, point = rng.uniform(0.3, 3, 3), rng.uniform(-10, 100, 3)
        around = np.pad(mask, [(low + 12, 100) for low in start])
        at = tuple(np.rint(point).astype(int) + 12)
        others = np.argwhere(around != around[at]) - 12
        expected = np.linalg.norm((others - point) * spacing, axis=1).min()
        found = to_border_mm(MaskPatch(tuple(start.tolist()), mask), tuple(point.tolist()), tuple(spacing.tolist()))
        assert found <= expected + 1e-9
        assert expected - found <= np.linalg.norm(spacing * np.maximum(1, shape // 64 + 1))
