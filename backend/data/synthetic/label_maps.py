"""Shapes from label-map files: a random piece of one, turned, scaled and bent, in a procedural surrounding."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage
from torch import Tensor

from backend.data.synthetic.chance import Chance
from backend.data.synthetic.shapes import grid
from backend.errors import ErrorCode, SamMed3DError
from backend.geometry import canonical_grid
from backend.io import READABLE_SUFFIXES, read_volume

# Labels that a map may have beside those of its surrounding; the numbers of both fit into a byte.
MOST_LABELS = 200
# Maps are kept no finer than this (mm).
FINEST_MM = 1.0


class LabelMap:
    """A map of labels at a spacing that is the same along all axes.

    Args:
        labels: (X, Y, Z) uint8, canonical order: 0 where nothing is known, then 1, 2, ... without gaps.
    """

    def __init__(self, labels: Tensor) -> None:
        self.labels = labels
        spans = ndimage.find_objects(labels.cpu().numpy())
        ends = [[(axis.start, axis.stop - 1) for axis in span] for span in spans]
        self._boxes = torch.tensor(ends, dtype=torch.float32, device=labels.device).mT  # first and last voxel (L, 2, 3)

    def placed(self, surrounding: Tensor, chance: Chance) -> tuple[Tensor, float]:
        """Labels (S, S, S): a piece of the map around one of its labels, and `surrounding` where nothing is known.

        The label that it is around comes last. With it comes how many voxels of the labels a voxel of the map fills.
        """
        chosen = chance.integer(1, len(self._boxes))
        low, high = self._boxes[chosen - 1]
        # Voxels of the map across the crop: the object fills from a tenth of it to more than all.
        width = (float((high - low).max()) + 1) / chance.log_uniform(0.09, 2)
        piece = self._piece(chosen, width, len(surrounding), chance)
        offset = int(surrounding.max())
        out = torch.where(piece > 0, piece + offset, surrounding)
        out[piece == chosen] = int(out.max()) + 1
        return out, len(surrounding) / width

    def _piece(self, chosen: int, width: float, size: int, chance: Chance) -> Tensor:
        low, high = self._boxes[chosen - 1]
        centre = (low + high) / 2 + chance.vector(-0.25, 0.25) * (high - low)
        at = grid(size, self.labels.device) + 0.05 * chance.smooth(size, chance.uniform(1.5, 4), channels=3)
        turned = torch.einsum(
            "ij,jxyz->ixyz", chance.rotation() if chance.maybe(0.5) else torch.eye(3, device=at.device), at
        )
        voxels = turned * width / 2 + centre.view(3, 1, 1, 1)
        return _nearest(self.labels, voxels)


def _nearest(labels: Tensor, voxels: Tensor) -> Tensor:
    """The labels at continuous voxels (3, S, S, S), 0 beyond the map."""
    index = voxels.round().long()
    limits = torch.tensor(labels.shape, device=labels.device).view(3, 1, 1, 1)
    inside = ((index >= 0) & (index < limits)).all(0)
    x, y, z = index.clamp_min(0).minimum(limits - 1)
    return labels[x, y, z] * inside


def read_label_maps(paths: Iterable[Path], device: torch.device) -> list[LabelMap]:
    """The label maps of files, and of all readable files in folders, at their finest voxel size or 1 mm.

    Raises:
        SamMed3DError: DATA_SOURCE where there is none, or one is empty or has too many labels; as `read_volume`.
    """
    files = [file for path in paths for file in (sorted(path.rglob("*")) if path.is_dir() else [path])]
    files = [file for file in files if file.is_file() and file.name.lower().endswith(READABLE_SUFFIXES)]
    if not files:
        raise SamMed3DError(
            ErrorCode.DATA_SOURCE,
            f"There is no label map in {', '.join(map(str, paths))}.",
            f"Name files, or folders of files, that end in one of {', '.join(READABLE_SUFFIXES)}.",
        )
    return [LabelMap(torch.from_numpy(_read(file)).to(device)) for file in files]


def _read(path: Path) -> npt.NDArray[np.uint8]:
    volume = read_volume(path)
    grid_ = canonical_grid(volume, max(FINEST_MM, min(volume.spacing)))
    taps = [
        np.clip(np.rint(axis_map(np.arange(count))), 0, extent - 1).astype(int)
        for axis_map, count, extent in zip(grid_.maps, grid_.shape, grid_.extent, strict=True)
    ]
    array = np.asarray(volume.array).transpose(grid_.axes)[np.ix_(*taps)]
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
    return numbered
