"""What scanning loses: thick slices and a field of view that ends."""

import torch
from torch import Tensor
from torch.nn import functional

from backend.data.synthetic.chance import Chance, blur


def thick_slices(image: Tensor, mask: Tensor, chance: Chance) -> tuple[Tensor, Tensor]:
    """Both (S, S, S) as if scanned in slices of several voxels along one axis, and resampled to voxels again."""
    axis, thickness = chance.integer(0, 2), chance.log_uniform(1.5, 8)
    size = image.shape[axis]
    count = max(3, round(size / thickness))

    def resliced(volume: Tensor) -> Tensor:
        rows = volume.movedim(axis, -1).reshape(1, -1, size)
        slices = functional.interpolate(rows, size=count, mode="area")
        rows = functional.interpolate(slices, size=size, mode="linear")
        return rows.reshape(*(n for a, n in enumerate(volume.shape) if a != axis), size).movedim(-1, axis)

    # Objects are drawn slice by slice; where slices are cut into voxels, the outline goes along.
    return resliced(image), resliced(mask.float()) >= 0.5


def cut_field(image: Tensor, mask: Tensor, chance: Chance) -> tuple[Tensor, Tensor]:
    """Both with up to a third of the crop beyond the end of the volume, on some of the six sides: zeros."""
    inside = torch.ones_like(mask)
    cut = chance.uniform(0.2, 0.9)
    for axis in range(3):
        size = mask.shape[axis]
        for first in (True, False):
            lost = chance.integer(1, size // 3)
            if chance.maybe(cut):
                inside.narrow(axis, 0 if first else size - lost, lost).fill_(False)
    return image * inside, mask & inside


def blurred(image: Tensor, mask: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
    """Both as if scanned with larger voxels, whose width is about twice `sigma`, and resampled to these."""
    return blur(image, 3 * (sigma,)), blur(mask.float(), 3 * (sigma,)) >= 0.5
