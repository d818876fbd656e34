"""A file of labels on an image's grid, and the targets in it."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from backend.data.cleaning import Mask, Target
from backend.errors import ErrorCode, SamMed3DError
from backend.geometry import Index3, same_grid
from backend.io import read_volume
from backend.io.labels import holds_labels
from backend.volume import Volume

# Larger label values are renumbered, since SciPy lists a box for every number up to the largest.
LARGEST_LISTED = 2**16 - 1

# Files that scale their voxels, as NiBabel makes of real numbers, give whole numbers back only about as they were.
ROUNDED = 0.02


class LabelMap:
    """Labels (x, y, z) in canonical orientation.

    Attributes:
        values: the label values that occur, without 0.
    """

    def __init__(self, labels: Volume) -> None:
        array = np.asarray(labels.array)
        numbers = None
        if array.max() > LARGEST_LISTED:
            found, places = np.unique(array, return_inverse=True)
            numbers, array = np.unique([0, *found]), places + (found[0] != 0)
        few = numbers is None or len(numbers) <= LARGEST_LISTED + 1
        self._labels: npt.NDArray[Any] = array.astype(np.uint16 if few else np.int32).reshape(labels.shape)
        self._spacing = labels.spacing
        self._voxel_ml = abs(float(np.linalg.det(labels.affine[:3, :3]))) / 1000
        self._boxes = {
            index if numbers is None else int(numbers[index]): (index, box)
            for index, box in enumerate(ndimage.find_objects(self._labels), 1)
            if box is not None
        }
        self.values = set(self._boxes)

    def covered(self, values: Iterable[int]) -> Mask:
        """Where any of these values is."""
        table = np.zeros(int(self._labels.max()) + 1, dtype=np.bool_)
        table[[self._boxes[value][0] for value in values]] = True
        covered: Mask = table[self._labels]
        return covered

    def target(self, name: str, values: tuple[int, ...]) -> Target:
        """The target that these values, at least one, make up together."""
        indices, boxes = zip(*(self._boxes[value] for value in values), strict=True)
        box = tuple(
            slice(min(part.start for part in parts), max(part.stop for part in parts))
            for parts in zip(*boxes, strict=True)
        )
        x, y, z = (part.start for part in box)
        mask = np.isin(self._labels[box], indices)
        shape = (self._labels.shape[0], self._labels.shape[1], self._labels.shape[2])
        return Target(name, mask, (x, y, z), shape, self._spacing, self._voxel_ml)


def read_labels(path: Path, image: Volume) -> Volume:
    """Read the labels of an image, as uint32.

    Raises:
        SamMed3DError: what `read_volume` refuses; another grid than the image's; values that are not whole
            numbers from 0.
    """
    labels = read_volume(path)
    if not same_grid(image, labels):
        raise SamMed3DError(
            ErrorCode.DATA_SOURCE,
            f"The labels {path} are not on the grid of {image.source.path}: shape {labels.shape}, not {image.shape}, "
            f"and affine {labels.affine.round(3).tolist()}, not {image.affine.round(3).tolist()}.",
            "Resample one to the other.",
        )
    values = whole_numbers(labels, path)
    return Volume(values.astype(np.uint32, copy=False), labels.affine, labels.source)


def whole_numbers(labels: Volume, path: Path) -> npt.NDArray[Any]:
    """The voxels of a file of labels, rounded if they are stored as real numbers.

    Raises:
        SamMed3DError: DATA_SOURCE, they are not whole numbers from 0.
    """
    values: npt.NDArray[Any] = np.asarray(labels.array)
    with np.errstate(invalid="ignore"):  # the difference of infinities
        if values.dtype.kind == "f" and np.abs(values - np.rint(values)).max() < ROUNDED:
            values = np.rint(values)
    if not holds_labels(values):
        raise SamMed3DError(
            ErrorCode.DATA_SOURCE,
            f"The labels {path} are not whole numbers from 0: they run from {values.min()} to {values.max()}.",
            "Give a label map, not an image or a probability.",
        )
    return values


class PlacedMask:
    """A target's mask as the volume that it was cut from, read by window only."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self.shape: Index3 = target.shape
        self.dtype: np.dtype[Any] = np.dtype(np.bool_)

    def __getitem__(self, key: tuple[slice, slice, slice], /) -> Mask:
        bounds = [part.indices(n)[:2] for part, n in zip(key, self.shape, strict=True)]
        window = np.zeros([stop - start for start, stop in bounds], dtype=np.bool_)
        into, of = [], []
        for (start, stop), first, n in zip(bounds, self._target.start, self._target.mask.shape, strict=True):
            low, high = max(start, first), min(stop, first + n)
            into.append(slice(low - start, max(low, high) - start))
            of.append(slice(low - first, max(low, high) - first))
        window[tuple(into)] = self._target.mask[tuple(of)]
        return window
