"""A volume: voxels, where they lie in the patient, and where they came from."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from backend.errors import ErrorCode, SamMed3DError

Affine = npt.NDArray[np.float64]

# Outside these, a voxel size is a mistake of the header, not a scanner (mm). Micro-CT reaches 1e-3 mm.
SPACING_RANGE_MM = (1e-4, 1e3)


class VoxelArray(Protocol):
    """What a crop needs of an array, so that dask and zarr arrays are read by window only."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Voxels along each axis."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the voxels."""

    def __getitem__(self, key: Any, /) -> Any:
        """The window that three slices cut out."""


@dataclass(frozen=True)
class Source:
    """Where a volume came from: the file, its format, and what its header said beyond the affine.

    `header` is the reader's own header object; a writer of the same format takes from it what a
    `Volume` does not hold (for NIfTI the qform and sform codes and the units).
    """

    path: Path | None = None
    format: str = "array"
    header: Any = field(default=None, repr=False)


@dataclass(frozen=True, eq=False)
class Volume:
    """A scalar volume in voxel index order (x, y, z), that is NIfTI's (i, j, k).

    Args:
        array: real-valued voxels, shape (X, Y, Z).
        affine: 4x4, from voxel index to mm in RAS+ (first axis to the patient's Right, then
            Anterior, then Superior), float64.
        source: where it came from.

    Raises:
        SamMed3DError: not three axes, an empty axis, not real numbers, or an affine that is not
            finite, is singular, or has a voxel size outside `SPACING_RANGE_MM`.
    """

    array: VoxelArray = field(repr=False)
    affine: Affine
    source: Source = Source()

    def __post_init__(self) -> None:
        check_array(self.array)
        object.__setattr__(self, "affine", checked_affine(self.affine))

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along (x, y, z)."""
        x, y, z = self.array.shape
        return x, y, z

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Distance in mm between neighbouring voxels along (x, y, z): the affine's column norms."""
        x, y, z = np.linalg.norm(self.affine[:3, :3], axis=0).tolist()
        return x, y, z


def check_array(array: VoxelArray) -> None:
    """Refuse what is not a non-empty, real-valued array with three axes."""
    if len(array.shape) != 3:
        raise SamMed3DError(
            ErrorCode.VOLUME_DIMENSIONS,
            f"A volume has 3 axes, but this array has {len(array.shape)}: shape {tuple(array.shape)}.",
            "Choose one frame or channel of it, or stack the slices into a volume.",
        )
    if 0 in array.shape:
        raise SamMed3DError(
            ErrorCode.VOLUME_DIMENSIONS,
            f"The volume is empty: shape {tuple(array.shape)}.",
            "Export the image again with at least one voxel along every axis.",
        )
    if array.dtype.kind not in "biuf":
        raise SamMed3DError(
            ErrorCode.VOLUME_DTYPE,
            f"Voxels must be real numbers, but these are of type {array.dtype}.",
            "Convert the image to one intensity a voxel (its magnitude, or one colour channel).",
        )


def checked_affine(affine: npt.ArrayLike) -> Affine:
    """Return the affine as a read-only float64 4x4 matrix, refusing one that places no voxels."""
    matrix: Affine = np.array(affine, dtype=np.float64)
    if matrix.shape != (4, 4) or not np.isfinite(matrix).all() or not np.array_equal(matrix[3], [0, 0, 0, 1]):
        raise SamMed3DError(
            ErrorCode.VOLUME_GEOMETRY,
            f"The affine must be 4x4, finite and end in 0 0 0 1, but it is {matrix.tolist()}.",
            "Repair the header's orientation (for NIfTI its sform and qform), or export the image again.",
        )
    spacing = np.linalg.norm(matrix[:3, :3], axis=0)
    low, high = SPACING_RANGE_MM
    if (spacing < low * (1 - 1e-6)).any() or (spacing > high * (1 + 1e-6)).any():  # files round to float32
        raise SamMed3DError(
            ErrorCode.VOLUME_GEOMETRY,
            f"The voxel size {spacing.tolist()} mm is outside {low} to {high} mm.",
            "Correct the voxel size in the header or in the layer's scale.",
        )
    # Of the unit directions, so that the test does not depend on the voxel size.
    if abs(np.linalg.det(matrix[:3, :3] / spacing)) < 1e-3:
        raise SamMed3DError(
            ErrorCode.VOLUME_GEOMETRY,
            f"The affine is singular (its axes lie in one plane): {matrix.tolist()}.",
            "Repair the header's orientation, or export the image again.",
        )
    matrix.setflags(write=False)
    return matrix
