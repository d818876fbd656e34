"""What may be written as a mask."""

from typing import Any

import numpy as np
import numpy.typing as npt

from backend.errors import ErrorCode, SamMed3DError
from backend.volume import Volume

_TYPES = (np.uint8, np.uint16, np.uint32)


def holds_labels(array: npt.NDArray[Any]) -> bool:
    """Whether voxels, of whatever type, are whole numbers from 0; many programs write labels as real numbers."""
    if array.dtype.kind not in "bu" and array.size and array.min() < 0:
        return False
    return array.dtype.kind in "bui" or bool((array == np.rint(array)).all() and np.isfinite(array).all())


def label_array(mask: npt.ArrayLike, volume: Volume) -> npt.NDArray[Any]:
    """Return a mask as the smallest unsigned type that holds its labels.

    Args:
        mask: bool or integers from 0, shape (X, Y, Z) of the volume.
        volume: the volume that it labels.

    Raises:
        SamMed3DError: another shape, real numbers, a negative label, or one beyond 32 bits.
    """
    array = np.asarray(mask)
    if array.shape != volume.shape:
        raise SamMed3DError(
            ErrorCode.VOLUME_DIMENSIONS,
            f"The mask has shape {array.shape}, but its volume has {volume.shape}.",
            "Give the mask in the order (x, y, z), on the volume's own grid.",
        )
    if array.dtype.kind not in "biu":
        raise SamMed3DError(
            ErrorCode.VOLUME_DTYPE,
            f"A mask holds whole numbers, but this one is of type {array.dtype}.",
            "Threshold or round it first.",
        )
    lowest, highest = int(array.min()), int(array.max())
    for kind in _TYPES:
        if lowest >= 0 and highest <= np.iinfo(kind).max:
            return array.astype(kind)
    raise SamMed3DError(
        ErrorCode.VOLUME_DTYPE,
        f"The mask's labels run from {lowest} to {highest}, but 0 to {np.iinfo(_TYPES[-1]).max} can be written.",
        "Number the objects from 1 upwards, with 0 for the background.",
    )
