"""Clicks of a simulated user on one volume: where the prediction is wrong."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import ndimage

Mask = npt.NDArray[np.bool_]
Index3 = tuple[int, int, int]


class ErrorClick(NamedTuple):
    """A voxel where prediction and object differ.

    Attributes:
        point: its index, in the axis order of the arrays.
        positive: whether it is of the object, so that the prediction must grow there.
    """

    point: Index3
    positive: bool


def random_error_click(prediction: Mask, mask: Mask, rng: np.random.Generator) -> ErrorClick | None:
    """A voxel drawn evenly from all that are wrong (SAM-Med3D paper, section 3.3); None where none is.

    Args:
        prediction: bool, any three dimensions; all False before the first click, which so falls into the object.
        mask: bool, the object, the same shape.
        rng: what decides.
    """
    wrong = np.flatnonzero(prediction != mask)
    if not len(wrong):
        return None
    return _click(np.unravel_index(int(rng.choice(wrong)), mask.shape), mask)


def centre_error_click(
    prediction: Mask, mask: Mask, spacing: tuple[float, float, float] | None = None
) -> ErrorClick | None:
    """The voxel deepest inside the largest connected error; None where there is no error.

    As in the CVPR 2025 challenge on interactive 3D segmentation: missing and surplus voxels together, connected
    by faces, edges and corners; depth is the distance to the nearest voxel outside the component. What lies outside
    the array is outside the component. Of equals, the first in the order of the array.

    Args:
        prediction: bool, three dimensions.
        mask: bool, the object, the same shape.
        spacing: of the voxels, along each axis, in which depth is measured; by default every voxel is a cube.
    """
    wrong = prediction != mask
    around = _box(wrong)
    if around is None:
        return None
    components, _ = ndimage.label(wrong[around], structure=np.ones((3, 3, 3)))
    largest = int(np.bincount(components.ravel())[1:].argmax()) + 1
    within = ndimage.find_objects(components, max_label=largest)[largest - 1]
    component = np.pad(components[within] == largest, 1)
    depth = ndimage.distance_transform_edt(component, sampling=spacing)
    deepest = np.unravel_index(int(depth.argmax()), depth.shape)
    start = [outer.start + inner.start - 1 for outer, inner in zip(around, within, strict=True)]
    return _click(tuple(a + b for a, b in zip(start, deepest, strict=True)), mask)


def _box(wrong: Mask) -> tuple[slice, ...] | None:
    """The smallest window that holds every True voxel."""
    found = ndimage.find_objects(wrong.view(np.uint8))
    return found[0] if found else None


def _click(point: tuple[np.intp, ...], mask: Mask) -> ErrorClick:
    x, y, z = (int(index) for index in point)
    return ErrorClick((x, y, z), bool(mask[x, y, z]))
