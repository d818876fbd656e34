"""One synthetic volume and one object in it, from a seed."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from backend.data.synthetic.chance import Chance
from backend.data.synthetic.label_maps import LabelMap
from backend.data.synthetic.looks import Look, Seen, choose_look, paint
from backend.data.synthetic.resolution import blurred, cut_field, thick_slices
from backend.data.synthetic.shapes import add_gap, add_lesions, add_parts, scene

# An object is at least and at most such a share of the crop: in a first window of 96 mm, the least is one of 0.9 ml; in
# one that is larger than its window, a click has to fill the window.
LEAST_SHARE = 0.001
LARGEST_SHARE = 0.9
# Scenes are drawn again until there is such an object. Two in three of procedural shapes hold one; of some label maps
# none does, so that later attempts go without.
ATTEMPTS, WITH_MAPS = 60, 20
# Shares of the volumes. Shapes come from the given label maps, if there are any; else there may be lesions.
FROM_MAPS, WITH_LESIONS = 0.6, 0.25
# The object is the label that lies in front, near the middle, or, of a label map, all there is of it, a whole brain;
# else any label.
IN_FRONT, WHOLE_MAP = 0.75, 0.06
# The object has a rim or parts, or else a gap.
WITH_PARTS, WITH_GAP = 0.3, 0.2
# Blurred further, with thick slices, with an end of the volume in the crop.
BLURRED, THICK, CUT = 0.3, 0.35, 0.35


class Pair(NamedTuple):
    """An image (S, S, S) float32 in its modality's values, the mask (S, S, S) bool of one object, and the modality."""

    image: Tensor
    mask: Tensor
    look: Look


class Scene(NamedTuple):
    """What is to be painted.

    Attributes:
        labels: (S, S, S) uint8.
        target: the label of the object, or of most of it.
        seen: the label that should differ from what is around it: the object ends with it.
        parts: the object is the target and the labels from this one on.
        sigma: of the blur of labels that come from larger voxels.
    """

    labels: Tensor
    target: int
    seen: int
    parts: int
    sigma: float

    @property
    def mask(self) -> Tensor:
        """The object (S, S, S), bool."""
        return (self.labels == self.target) | (self.labels >= self.parts)


def generate(seed: int, size: int, device: torch.device, maps: Sequence[Sequence[LabelMap]] = ()) -> Pair:
    """The volume of a seed, `size` (even) voxels an axis; its object is one connected piece.

    Of `maps`, each group is seen as often as any other.

    Raises:
        RuntimeError: no attempt gave an object of a sensible size, which is not expected of any seed.
    """
    chance = Chance(seed, device)
    for attempt in range(ATTEMPTS):
        drawn = _scene(size, chance, maps if attempt < WITH_MAPS else ())
        if not _sensible(drawn.mask):  # before it is painted, which takes longest
            continue
        look = choose_look(chance)
        image = paint(Seen(drawn.labels, drawn.mask, drawn.seen), look, chance)
        image, mask = _scanned(image, drawn, chance)
        mask = largest_piece(mask)
        if _sensible(mask):
            return Pair(image, mask, look)
    raise RuntimeError(f"seed {seed} gave no object in {ATTEMPTS} attempts")


def _sensible(mask: Tensor) -> bool:
    return LEAST_SHARE <= int(mask.sum()) / mask.numel() <= LARGEST_SHARE


def _scene(size: int, chance: Chance, maps: Sequence[Sequence[LabelMap]]) -> Scene:
    labels, voxel, first = scene(size, chance), 0.0, 1
    if maps and chance.maybe(FROM_MAPS):
        first = int(labels.max()) + 1
        labels, voxel = chance.one_of(chance.one_of(maps)).placed(labels, chance)
    elif chance.maybe(WITH_LESIONS):
        labels = add_lesions(labels, chance)
    last = int(labels.max())
    seen = target = last if chance.maybe(IN_FRONT) else chance.integer(1, last)
    parts = last + 1
    if voxel and chance.maybe(WHOLE_MAP):
        seen = target = last  # which is of the map
        parts = first
    elif chance.maybe(WITH_PARTS):
        labels, seen = add_parts(labels, target, chance)
    elif target > 1 and chance.maybe(WITH_GAP):  # before label 1 there is air
        labels = add_gap(labels, target)
    return Scene(labels, target, seen, parts, 0.45 * voxel if voxel > 1 else 0.0)


def _scanned(image: Tensor, drawn: Scene, chance: Chance) -> tuple[Tensor, Tensor]:
    mask, sigma = drawn.mask, drawn.sigma
    if chance.maybe(BLURRED):
        sigma = max(sigma, chance.uniform(0.5, 1.5))
    if sigma:
        image, mask = blurred(image, mask, sigma)
    if chance.maybe(THICK):
        image, mask = thick_slices(image, mask, chance)
    if chance.maybe(CUT):
        image, mask = cut_field(image, mask, chance)
    return image, mask


def largest_piece(mask: Tensor) -> Tensor:
    """The largest connected piece of a mask (S, S, S)."""
    pieces, count = ndimage.label(mask.cpu().numpy())
    if count < 2:
        return mask
    sizes = np.bincount(pieces.ravel())[1:]
    return torch.from_numpy(pieces == sizes.argmax() + 1).to(mask.device)
