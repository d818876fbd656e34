"""A whole volume made to fit the network's input (supplement, C.2)."""

import numpy as np
import numpy.typing as npt

from backend.geometry import interpolate_axis


def resize_pair(
    image: npt.NDArray[np.generic], mask: npt.NDArray[np.bool_], size: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """Pad the axes shorter than `size` with zeros on both sides, and shrink longer ones by trilinear interpolation.

    Each axis by itself, as published: the aspect changes where only some are longer. A mask's voxels are those
    of which the object takes half; an object too small for that keeps the voxels that it touches.

    Args:
        image: (X, Y, Z).
        mask: (X, Y, Z).
        size: of the result along each axis.

    Returns:
        the image (size, size, size) float32, and the mask, empty only if it was empty.
    """
    small = _resized(mask, size) >= 0.5
    if not small.any() and mask.any():
        shape = np.minimum(mask.shape, size)
        voxels = np.argwhere(mask) * shape // mask.shape + (size - shape) // 2
        small[tuple(voxels.T)] = True
    return _resized(image, size), small


def _resized(values: npt.NDArray[np.generic], size: int) -> npt.NDArray[np.float32]:
    for axis, count in enumerate(values.shape):
        if count > size:
            at = np.clip((np.arange(size) + 0.5) * count / size - 0.5, 0, count - 1)
            values = interpolate_axis(values, at, axis)
    margins = [((size - count) // 2, size - count - (size - count) // 2) for count in values.shape]
    return np.pad(values, margins).astype(np.float32, copy=False)
