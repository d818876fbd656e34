"""One synthetic volume and one object in it, from a seed."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from backend.data.synthetic.chance import Chance
from backend.data.synthetic.label_maps import LabelMap
from backend.data.synthetic.looks import Look, choose_look, paint
from backend.data.synthetic.resolution import cut_field, thick_slices
from backend.data.synthetic.shapes import add_lesions, scene

# An object is at least so many voxels, and at most this share of the crop.
LEAST_VOXELS = 60
LARGEST_SHARE = 0.45
# Scenes are drawn again until there is such an object; it takes more than two in one of a hundred.
ATTEMPTS = 20
FROM_MAPS = 0.5
"""Share of volumes whose shapes come from the given label maps, if there are any."""


class Pair(NamedTuple):
    """An image (S, S, S) float32 in its modality's values, the mask (S, S, S) bool of one object, and the modality."""

    image: Tensor
    mask: Tensor
    look: Look


def generate(seed: int, size: int, device: torch.device, maps: Sequence[LabelMap] = ()) -> Pair:
    """The volume of a seed, `size` (even) voxels an axis; its object is one connected piece."""
    chance = Chance(seed, device)
    for _ in range(ATTEMPTS):
        labels = _labels(size, chance, maps)
        look = choose_look(chance)
        image = paint(labels, look, chance)
        image, mask = _scanned(image, labels == _target(labels, chance), chance)
        mask = largest_piece(mask)
        if LEAST_VOXELS <= int(mask.sum()) <= LARGEST_SHARE * size**3:
            return Pair(image, mask, look)
    raise RuntimeError(f"seed {seed} gave no object in {ATTEMPTS} attempts")


def _labels(size: int, chance: Chance, maps: Sequence[LabelMap]) -> Tensor:
    labels = scene(size, chance)
    if maps and chance.maybe(FROM_MAPS):
        return maps[chance.integer(0, len(maps) - 1)].placed(labels, chance)
    return add_lesions(labels, chance) if chance.maybe(0.25) else labels


def _target(labels: Tensor, chance: Chance) -> int:
    """Mostly the last label, which lies in front and near the middle; else any."""
    last = int(labels.max())
    return last if chance.maybe(0.7) else chance.integer(1, last)


def _scanned(image: Tensor, mask: Tensor, chance: Chance) -> tuple[Tensor, Tensor]:
    if chance.maybe(0.35):
        image, mask = thick_slices(image, mask, chance)
    if chance.maybe(0.3):
        image, mask = cut_field(image, mask, chance)
    return image, mask


def largest_piece(mask: Tensor) -> Tensor:
    """The largest connected piece of a mask (S, S, S)."""
    pieces, count = ndimage.label(mask.cpu().numpy())
    if count < 2:
        return mask
    sizes = np.bincount(pieces.ravel())[1:]
    return torch.from_numpy(pieces == sizes.argmax() + 1).to(mask.device)
