"""Shapes from label-map files: a random piece of one, turned, scaled and bent, in a procedural surrounding."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage
from torch import Tensor

from backend.data.cases import is_image
from backend.data.labelmap import whole_numbers
from backend.data.synthetic.chance import Chance
from backend.data.synthetic.shapes import grid
from backend.errors import ErrorCode, SamMed3DError
from backend.geometry import Grid, canonical_grid
from backend.io import WRITABLE_SUFFIXES, read_volume

# Labels that a map may have beside those of its surrounding; the numbers of both fit into a byte.
MOST_LABELS = 200
# Maps are kept no finer than this (mm).
FINEST_MM = 1.0
# How often a map is seen as anatomy: nearly upright, and as wide as the window that is put around a first click, which
# lies somewhere in the object. Else the crop is fitted to the object, and half the time turned anyhow.
AS_ANATOMY = 0.6
# The width of such a window (mm): about that of `zooming.FIRST_MM`, and those next to it.
NARROWEST_MM, WIDEST_MM = 60.0, 160.0
# Entries of a matrix that turns by about ten degrees.
TILT = 0.12


class _View(NamedTuple):
    """Where a crop lies in a map: its centre (3,) and width in voxels of the map, and its axes' directions (3, 3)."""

    centre: Tensor
    width: float
    turn: Tensor


class LabelMap:
    """A map of labels at a spacing that is the same along all axes.

    Args:
        labels: (X, Y, Z) uint8, canonical order: 0 where nothing is known, then 1, 2, ... without gaps.
        spacing: millimetres from voxel to voxel.
    """

    def __init__(self, labels: Tensor, spacing: float) -> None:
        self.labels = labels
        self.spacing = spacing
        spans = ndimage.find_objects(labels.cpu().numpy())
        ends = [[(axis.start, axis.stop - 1) for axis in span] for span in spans]
        self._boxes = torch.tensor(ends, dtype=torch.float32, device=labels.device).mT  # first and last voxel (L, 2, 3)

    def placed(self, surrounding: Tensor, chance: Chance) -> tuple[Tensor, float]:
        """Labels (S, S, S): a piece of the map around one of its labels, and `surrounding` where nothing is known.

        The label that it is around comes last. With it comes how many voxels of the labels a voxel of the map fills.
        """
        chosen = chance.integer(1, len(self._boxes))
        view = self._anatomy(chosen, chance) if chance.maybe(AS_ANATOMY) else self._fitted(chosen, chance)
        piece = self._piece(view, len(surrounding), chance)
        offset = int(surrounding.max())
        out = torch.where(piece > 0, piece + offset, surrounding)
        out[piece == chosen] = int(out.max()) + 1
        return out, len(surrounding) / view.width

    def _anatomy(self, chosen: int, chance: Chance) -> _View:
        """A window around a voxel of a label, nearly upright, the left at times at the right."""
        low, high = self._boxes[chosen - 1]
        x, y, z = (slice(int(first), int(last) + 1) for first, last in zip(low, high, strict=True))
        inside = torch.nonzero(self.labels[x, y, z] == chosen)
        centre = low + inside[chance.integer(0, len(inside) - 1)] + chance.vector(-0.5, 0.5)
        width = chance.log_uniform(NARROWEST_MM, WIDEST_MM) / self.spacing
        turn = chance.rotation(TILT)
        if chance.maybe(0.5):
            turn[:, 0] *= -1
        return _View(centre, width, turn)

    def _fitted(self, chosen: int, chance: Chance) -> _View:
        """A window that the box of a label fills from a tenth to more than all of, at times turned."""
        low, high = self._boxes[chosen - 1]
        centre = (low + high) / 2 + chance.vector(-0.25, 0.25) * (high - low)
        width = (float((high - low).max()) + 1) / chance.log_uniform(0.09, 2)
        return _View(centre, width, chance.rotation(None if chance.maybe(0.5) else TILT))

    def _piece(self, view: _View, size: int, chance: Chance) -> Tensor:
        at = grid(size, self.labels.device) + 0.05 * chance.smooth(size, chance.uniform(1.5, 4), channels=3)
        turned = torch.einsum("ij,jxyz->ixyz", view.turn, at)
        return _nearest(self.labels, turned * view.width / 2 + view.centre.view(3, 1, 1, 1))


def _nearest(labels: Tensor, voxels: Tensor) -> Tensor:
    """The labels at continuous voxels (3, S, S, S), 0 beyond the map."""
    index = voxels.round().long()
    limits = torch.tensor(labels.shape, device=labels.device).view(3, 1, 1, 1)
    inside = ((index >= 0) & (index < limits)).all(0)
    x, y, z = index.clamp_min(0).minimum(limits - 1)
    return labels[x, y, z] * inside


def read_label_maps(paths: Iterable[Path], device: torch.device) -> list[list[LabelMap]]:
    """The label maps of files, and of all readable files in folders, at their finest voxel size or 1 mm.

    Those of a path make a group; a path that is given twice, to be seen twice as often, is read once.

    Raises:
        SamMed3DError: as `label_files`, or DATA_SOURCE where one is no label map, is empty or too small, or has too
            many labels; as `read_volume`.
    """
    paths = list(paths)
    groups = {path: [_read(file, device) for file in label_files(path)] for path in dict.fromkeys(paths)}
    return [groups[path] for path in paths]


def label_files(path: Path) -> list[Path]:
    """The label-map files of a path: all in a folder, or itself.

    Raises:
        SamMed3DError: FILE_MISSING; DATA_SOURCE where there is none.
    """
    if not path.exists():
        raise SamMed3DError(ErrorCode.FILE_MISSING, f"{path} does not exist.", "Check the path of the label maps.")
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    # Not DICOM, of which each slice would be read as the whole series.
    files = [file for file in files if file.is_file() and is_image(file) and file.suffix.lower() != ".dcm"]
    if not files:
        raise SamMed3DError(
            ErrorCode.DATA_SOURCE,
            f"There is no label map in {path}.",
            f"Name files, or folders of files, that end in one of {', '.join(WRITABLE_SUFFIXES)}.",
        )
    return files


def _read(path: Path, device: torch.device) -> LabelMap:
    volume = read_volume(path)
    spacing = max(FINEST_MM, min(volume.spacing))
    whole = whole_numbers(volume, path)
    array = _resampled(whole, canonical_grid(volume, spacing, thin=False))
    if whole.any() and (array.size == 1 or not array.any()):
        raise SamMed3DError(
            ErrorCode.DATA_SOURCE,
            f"At {spacing:g} mm, nothing is left of the labels of {path}.",
            "Give a map of something larger, and check its voxel size.",
        )
    values = np.unique(array)
    values = values[values != 0]
    count = len(values)
    if not 0 < count <= MOST_LABELS:
        raise SamMed3DError(
            ErrorCode.DATA_SOURCE,
            f"{path} has {count} labels.",
            f"Give a label map with 0 for the background and 1 to {MOST_LABELS} other labels.",
        )
    numbered: npt.NDArray[np.uint8] = np.where(array != 0, np.searchsorted(values, array) + 1, 0).astype(np.uint8)
    return LabelMap(torch.from_numpy(numbered).to(device), spacing)


def _resampled(labels: npt.NDArray[Any], onto: Grid) -> npt.NDArray[Any]:
    """The nearest labels at the voxels of a grid."""
    taps = [
        np.clip(np.rint(axis_map(np.arange(count))), 0, extent - 1).astype(int)
        for axis_map, count, extent in zip(onto.maps, onto.shape, onto.extent, strict=True)
    ]
    resampled: npt.NDArray[Any] = labels.transpose(onto.axes)[np.ix_(*taps)]
    return resampled
