"""A synthetic CT-like torso with known organs, to try things on where there is no data."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from backend.volume import Source, Volume

# Centre and radii in mm from the middle of the volume (RAS+), and Hounsfield units.
ORGANS: dict[str, tuple[tuple[float, float, float], tuple[float, float, float], float]] = {
    "body": ((0, 0, 0), (150, 105, 400), 20),
    "lung_right": ((72, 10, 75), (48, 62, 70), -800),
    "lung_left": ((-72, 10, 75), (44, 60, 70), -800),
    "liver": ((55, 15, -45), (68, 58, 48), 110),
    "spleen": ((-95, -35, -35), (26, 34, 40), 130),
    "kidney_right": ((55, -50, -90), (22, 24, 42), 190),
    "kidney_left": ((-55, -50, -85), (22, 24, 42), 190),
    "aorta": ((-8, -38, 0), (11, 11, 400), 260),
    "vertebrae": ((0, -70, 0), (20, 18, 400), 420),
}


@dataclass(frozen=True, eq=False)
class Phantom:
    """A volume and what is in it.

    Args:
        volume: int16 Hounsfield units, (x, y, z), LPS-oriented as CT scanners write it.
        labels: uint8, the same grid; 1 is the first of `names`.
        names: of the labels.
    """

    volume: Volume
    labels: npt.NDArray[np.uint8]
    names: tuple[str, ...]

    def middle_of(self, name: str) -> tuple[int, int, int]:
        """The voxel (x, y, z) of an organ that lies deepest inside it."""
        depth = ndimage.distance_transform_edt(self.labels == self.names.index(name) + 1)
        x, y, z = (int(i) for i in np.unravel_index(int(depth.argmax()), depth.shape))
        return x, y, z


def torso(
    shape: tuple[int, int, int] = (160, 120, 80), spacing: tuple[float, float, float] = (2.0, 2.0, 3.5)
) -> Phantom:
    """Ellipsoids in air, blurred as by a scanner, with noise; the same at every call."""
    affine = np.diag([-spacing[0], -spacing[1], spacing[2], 1.0])
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    x, y, z = (affine[a, a] * np.arange(n) + affine[a, 3] for a, n in enumerate(shape))
    labels = np.zeros(shape, dtype=np.uint8)
    image = np.full(shape, -1000.0, dtype=np.float32)
    for label, (centre, radii, intensity) in enumerate(ORGANS.values(), start=1):
        inside = sum(
            ((axis - c) / r)[tuple(slice(None) if a == i else None for a in range(3))] ** 2
            for i, (axis, c, r) in enumerate(zip((x, y, z), centre, radii, strict=True))
        )
        labels[inside < 1] = label
        image[inside < 1] = intensity
    image = ndimage.gaussian_filter(image, 0.7)
    image += np.random.default_rng(0).normal(0, 12, shape).astype(np.float32)
    return Phantom(Volume(image.astype(np.int16), affine, Source(format="phantom")), labels, tuple(ORGANS))
