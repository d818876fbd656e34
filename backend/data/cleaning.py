"""The four cleaning steps of SA-Med3D-140K (SAM-Med3D paper, data cleaning), each a function of one target's mask.

All of it happens at the source's own resolution, in canonical orientation.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Annotated

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field
from scipy import ndimage

from backend.data.taxonomy import SYMMETRIC, is_sided, plain_name
from backend.geometry import Index3

Mask = npt.NDArray[np.bool_]

# Voxels that touch at a corner belong together: thin structures run along diagonals.
_NEIGHBOURS = ndimage.generate_binary_structure(3, 3)
# The larger of a pair's two sides is not this many times the smaller.
COMPARABLE = 5
# A header's voxel size is a rounded one: 15 voxels of 0.9999999 mm are 15 mm.
EXACT = 1 - 1e-4


class CleaningConfig(BaseModel):
    """Thresholds of the steps.

    Attributes:
        min_volume_ml: smaller targets are dropped (1 cm^3); 0 for none.
        min_extent_mm: targets shorter than this along any axis are dropped (1.5 cm); 0 for none.
        max_background_share: volumes with a greater share of background are dropped (99 %); 1 for none.
        keep_components: how many connected components of a target are kept, the largest ones; 0 for all.
        symmetric: names of pairs that are split into left and right; none for no splitting.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    min_volume_ml: Annotated[float, Field(ge=0)] = 1.0
    min_extent_mm: Annotated[float, Field(ge=0)] = 15.0
    max_background_share: Annotated[float, Field(ge=0, le=1)] = 0.99
    keep_components: Annotated[int, Field(ge=0)] = 5
    symmetric: tuple[str, ...] = SYMMETRIC


@dataclass(frozen=True, eq=False)
class Target:
    """The mask of one target, cut to its box.

    Attributes:
        name: what it shows.
        mask: (x, y, z) in canonical orientation; each side of the box touches the target.
        start: first voxel of the box in the volume.
        shape: of the volume.
        spacing: mm along the volume's axes.
        voxel_ml: volume of a voxel.
    """

    name: str
    mask: Mask = field(repr=False)
    start: Index3
    shape: Index3
    spacing: tuple[float, float, float]
    voxel_ml: float

    @property
    def volume_ml(self) -> float:
        """Of the target."""
        return int(np.count_nonzero(self.mask)) * self.voxel_ml

    @property
    def extent_mm(self) -> float:
        """Length of the target's box along its shortest axis."""
        return float(min(n * mm for n, mm in zip(self.mask.shape, self.spacing, strict=True)))

    def part(self, mask: Mask, name: str | None = None) -> "Target":
        """The target reduced to a non-empty mask on the same box, cut to its own."""
        box = ndimage.find_objects(mask.view(np.uint8))[0]
        x, y, z = (first + part.start for first, part in zip(self.start, box, strict=True))
        return replace(self, name=name or self.name, mask=mask[box].copy(), start=(x, y, z))


@dataclass(frozen=True)
class Verdict:
    """What a step made of a target: the targets that go on, the reason, and the number it goes by."""

    targets: tuple[Target, ...]
    reason: str
    number: float | None


def drop_small(target: Target, config: CleaningConfig) -> Verdict | None:
    """Drop a target under 1 cm^3 or shorter than 1.5 cm in any dimension (SAM-Med3D paper, target shape cleaning).

    Returns:
        the verdict, or None if the target is large enough.
    """
    volume, extent = target.volume_ml, target.extent_mm
    if volume < config.min_volume_ml * EXACT:
        return Verdict((), f"its volume of {volume:.3f} ml is under {config.min_volume_ml:g} ml", volume)
    if extent < config.min_extent_mm * EXACT:
        return Verdict((), f"its shortest side of {extent:.1f} mm is under {config.min_extent_mm:g} mm", extent)
    return None


def too_empty(background_share: float, config: CleaningConfig) -> Verdict | None:
    """Drop what is over 99 % background (SAM-Med3D paper, volume size cleaning).

    The published sentence is short and its unit is the volume: background is what no target of the volume covers,
    whichever files they are in. Read as the background of each mask alone, it would drop most organs of a
    full-body scan, adrenal glands and single vertebrae among them, which the published data has.

    Args:
        background_share: of the volume's voxels at the source's resolution.
        config: the threshold.

    Returns:
        the verdict on every target of the volume, or None if they stay.
    """
    limit = config.max_background_share
    if background_share <= limit:
        return None
    reason = f"{100 * background_share:.3f} % of the volume is background, more than {100 * limit:g} %"
    return Verdict((), reason, background_share)


def keep_largest(target: Target, config: CleaningConfig) -> Verdict | None:
    """Keep the five largest connected components (SAM-Med3D paper, denoising).

    Returns:
        the verdict, or None if there are no more than that.
    """
    limit = config.keep_components or target.mask.size
    labels, count = ndimage.label(target.mask, _NEIGHBOURS)
    if count <= limit:
        return None
    sizes = np.bincount(labels.ravel())[1:]
    largest = 1 + np.argsort(-sizes, kind="stable")[:limit]
    kept = target.part(np.isin(labels, largest))
    lost = target.volume_ml - kept.volume_ml
    return Verdict((kept,), f"{count - limit} of {count} components, {lost:.3f} ml, are left out", lost)


def split_sides(target: Target, config: CleaningConfig) -> Verdict | None:
    """Split a target that is one of a pair of the body into left and right (SAM-Med3D paper, disambiguation).

    Each component goes to the side of its centroid. The midline is half way between the two largest components if
    they lie side by side, else the middle of the image, which must then not run through the target: what
    cannot be told is left whole.

    Returns:
        the verdict, with targets named `kidney_left` and `kidney_right`; None for a target that is no pair
        or whose name tells its side.
    """
    pairs = {plain_name(name) for name in config.symmetric}
    if is_sided(target.name) or plain_name(target.name) not in pairs:
        return None
    labels, count = ndimage.label(target.mask, _NEIGHBOURS)
    sizes = np.bincount(labels.ravel())[1:]
    spans = [(box[0].start, box[0].stop) for box in ndimage.find_objects(labels)]
    centres = [centre[0] for centre in ndimage.center_of_mass(target.mask, labels, range(1, count + 1))]
    midline = _midline(target, sizes, spans, centres)
    if midline is None:
        return Verdict((target,), "left whole: the image's middle runs through it", None)
    right = np.isin(labels, [number for number, centre in enumerate(centres, 1) if centre > midline])
    sides = {"right": right, "left": target.mask & ~right}
    parts = tuple(target.part(mask, f"{target.name}_{side}") for side, mask in sides.items() if mask.any())
    position = (target.start[0] + midline) * target.spacing[0]
    return Verdict(parts, f"split at {position:.1f} mm from the left into {len(parts)}", position)


def _midline(
    target: Target, sizes: npt.NDArray[np.intp], spans: list[tuple[int, int]], centres: list[float]
) -> float | None:
    """Where left ends, along the box's first axis (which runs to the Right); None where that is unclear."""
    if len(sizes) > 1:
        first, second = np.argsort(-sizes, kind="stable")[:2].tolist()
        width = sum(stop - start for start, stop in (spans[first], spans[second])) / 2
        # A stray speck is no other side. Two pieces of one lung lie above each other; two lungs lie side by side,
        # even if their tips overlap.
        if COMPARABLE * sizes[second] > sizes[first] and abs(centres[first] - centres[second]) > width / 2:
            return float(centres[first] + centres[second]) / 2
    middle = (target.shape[0] - 1) / 2 - target.start[0]
    return None if 0 <= middle <= target.mask.shape[0] - 1 else middle


_STEPS = {"components": keep_largest, "sides": split_sides, "size": drop_small}


def clean(target: Target, config: CleaningConfig, record: Callable[[str, str, Verdict], None]) -> list[Target]:
    """What is left of a target after the steps that look at one target.

    The size is looked at last, so that what is stored keeps the thresholds: without the specks that lengthen a
    box, and for each side by itself.

    Args:
        target: as in the source.
        config: thresholds.
        record: told each target that a step changed or dropped, the step's name and its verdict.
    """
    targets = [target]
    for name, step in _STEPS.items():
        following: list[Target] = []
        for one in targets:
            verdict = step(one, config)
            if verdict is not None:
                record(one.name, name, verdict)
            following += (one,) if verdict is None else verdict.targets
        targets = following
    return targets
