"""An image and its targets brought to the canonical grid and written."""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import ndimage

from backend.data.cases import SourceCase
from backend.data.cleaning import Mask, Target
from backend.data.findings import Findings
from backend.data.index import IndexEntry
from backend.data.jobs import file_name
from backend.data.labelmap import PlacedMask
from backend.data.stages import stages_of
from backend.data.store import SUFFIX, stored_type, write_array
from backend.data.taxonomy import structure_of
from backend.geometry import Grid, Index3, canonical_grid, canonical_volume, extract_crop
from backend.io.boundary import writing
from backend.io.guard import check_memory
from backend.volume import Volume

# Hounsfield units that CT is clamped to (published training code).
CT_RANGE = (-1000.0, 1000.0)
# Memory for a voxel of the grid: resampled, clamped, as it is stored.
_WORKING_BYTES = 10


@dataclass(frozen=True)
class Place:
    """Where the files of one image of a job go.

    Attributes:
        out: the prepared folder.
        job: id of the job.
        number: of the image in the job, from 0.
    """

    out: Path
    job: str
    number: int

    @property
    def image(self) -> str:
        """The image's file, from `out`."""
        return f"images/{self.job}{f'.{self.number}' if self.number else ''}{SUFFIX}"

    def mask(self, target: str) -> str:
        """A target's file, from `out`."""
        return f"masks/{self.job}/{file_name(target)}{SUFFIX}"

    def ready(self, name: str) -> Path:
        """The full path of one of these files, its folder made."""
        path = self.out / name
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        return path


def store_volume(
    image: Volume, targets: list[tuple[SourceCase, Target]], place: Place, spacing: float, findings: Findings
) -> None:
    """Resample and write an image and its targets, and list what is stored.

    CT is clamped to -1000 to 1000 HU, by the modality that the source declares. A mask's voxels are those of
    which the target takes at least half.

    Args:
        image: as in the source.
        targets: at least one, with the case that each is of, in the canonical orientation of `image`.
        place: where to.
        spacing: mm of the grid.
        findings: where the entries and decisions go.

    Raises:
        SamMed3DError: FILE_WRITE or DEPENDENCY_MISSING; VOLUME_TOO_LARGE, its voxels are so large, or so many, that
            the grid does not fit into memory.
    """
    volume = canonical_volume(image)
    grid = canonical_grid(volume, spacing)
    check_memory(targets[0][0].image, _WORKING_BYTES * math.prod(grid.shape))
    voxels = extract_crop(volume, grid, (0, 0, 0), grid.shape)
    if targets[0][0].modality == "CT":
        voxels = voxels.clip(*CT_RANGE)
    write_array(place.ready(place.image), stored_type(voxels))
    taken = {entry.target for entry in findings.entries}
    for case, target in targets:
        resampled = resample_target(target, volume, grid)
        if target.name in taken:
            findings.decide(case, target.name, "labels", kept=False, reason="this volume has such a target already")
        elif resampled is None:
            findings.decide(case, target.name, "grid", kept=False, reason=f"nothing is left of it at {spacing:g} mm")
        else:
            taken.add(target.name)
            mask, start = resampled
            write_array(place.ready(place.mask(target.name)), mask.view(np.uint8), grid.shape, start)
            entry = _entry(
                case,
                target.name,
                mask,
                start,
                place=place,
                grid=grid,
                source_spacing=image.spacing,
                spacing=spacing,
            )
            findings.entries.append(entry)
            findings.decide(case, target.name, "stored", kept=True, reason=entry.mask, number=entry.volume_ml)


def resample_target(target: Target, volume: Volume, grid: Grid) -> tuple[Mask, Index3] | None:
    """A target's mask on the grid, cut to its box.

    Returns:
        the mask, and the box's first grid voxel; None if no voxel of the grid is half of the target.
    """
    first, size = np.array(target.start), np.array(target.mask.shape)
    corners = grid.from_volume([first - 1, first + size])
    low = np.clip(np.floor(corners[0]), 0, None).astype(int)
    high = np.minimum(np.ceil(corners[1]).astype(int) + 1, grid.shape)
    x, y, z = low.tolist()
    width, height, depth = (high - low).tolist()
    share = extract_crop(Volume(PlacedMask(target), volume.affine), grid, (x, y, z), (width, height, depth))
    mask = share >= 0.5
    boxes = ndimage.find_objects(mask.view(np.uint8))
    if not boxes:
        return None
    along_x, along_y, along_z = boxes[0]
    return mask[boxes[0]], (x + along_x.start, y + along_y.start, z + along_z.start)


def _entry(
    case: SourceCase,
    target: str,
    mask: Mask,
    start: Index3,
    *,
    place: Place,
    grid: Grid,
    source_spacing: tuple[float, float, float],
    spacing: float,
) -> IndexEntry:
    stages = stages_of(case.dataset)
    x, y, z = (first + n - 1 for first, n in zip(start, mask.shape, strict=True))
    return IndexEntry(
        id=file_name(case.dataset, case.name, target),
        image=place.image,
        mask=place.mask(target),
        case=case.name,
        subject=case.subject,
        dataset=case.dataset,
        modality=case.modality,
        target=target,
        structure=structure_of(target, case.modality),
        spacing=spacing,
        source_spacing=source_spacing,
        affine=tuple(tuple(row) for row in grid.affine.tolist()),
        shape=grid.shape,
        box=(start, (x, y, z)),
        volume_ml=int(np.count_nonzero(mask)) * spacing**3 / 1000,
        pretrain=stages.pretrain,
        finetune=stages.finetune,
        split="train",  # until all subjects are known, see `backend.data.split`
    )
