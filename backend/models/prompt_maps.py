"""Prompts drawn as maps: where the clicks are, what was found before, and what is as bright as the clicked places.

Legend of shape suffixes: B batch, N points, S voxels an axis, L looks, K steps of brightness, V voxels, I voxels of a
cell, X Y Z cells an axis.
"""

import torch
from torch import Tensor
from torch.nn import functional

from backend.models.cells import CELL, cells_of, fold

# Standard deviation of the bump that a click is drawn as, in voxels.
CLICK_SIGMA = 2.0
# Logits are drawn as tanh(logit / this).
LOGIT_SCALE = 4.0
# Ways in which brightness is looked at: as it is, and by its rank in the image.
LOOKS = 2
# Brightness beyond this many standard deviations is all the same.
BRIGHTEST = 4.0
# A difference in each look that halves the likeness.
SCALES = (0.2, 0.1)
# Steps of brightness that are told apart, from -BRIGHTEST to BRIGHTEST.
STEPS = 512
# Points at which the distribution of brightness is known.
QUANTILES = 64
# Positive clicks and negative clicks.
PLACES = 2
# These, the previous logits, and likeness to the positive and to the negative clicks.
MAPS = PLACES + 1 + 2 * LOOKS


def looks_of(image: Tensor) -> Tensor:
    """An image (B, 1, S, S, S) as it is, within limits, and each voxel's rank in it from -1 to 1: (B, 2, S, S, S).

    Ranks spread the contrast of soft tissue, where bone, air or metal take up most of the range.
    """
    return torch.cat([image.clamp(-BRIGHTEST, BRIGHTEST), _ranks(image)], dim=1)


def _ranks(image: Tensor) -> Tensor:
    sample_BV = image[..., ::2, ::2, ::2].flatten(1).sort(dim=1).values
    at = torch.linspace(0, sample_BV.shape[1] - 1, QUANTILES, device=image.device).long()
    knots_BQ, voxels_BV = sample_BV[:, at].contiguous(), image.flatten(1).contiguous()
    upper = torch.searchsorted(knots_BQ, voxels_BV).clamp(1, QUANTILES - 1)
    low, high = knots_BQ.gather(1, upper - 1), knots_BQ.gather(1, upper)
    part = ((voxels_BV - low) / (high - low).clamp_min(1e-6)).clamp(0, 1)
    return ((upper - 1 + part) / (QUANTILES - 1) * 2 - 1).reshape(image.shape)


def draw_prompts(looks: Tensor, points: Tensor, labels: Tensor, mask_logits: Tensor) -> Tensor:
    """Draw prompts as maps from -1 to 1.

    Args:
        looks: (B, 2, 8, X, Y, Z), from `looks_of`, folded.
        points: (B, N, 3) voxel coordinates.
        labels: (B, N) integers: 1 positive, 0 negative, -1 not a point.
        mask_logits: (B, 1, S, S, S).

    Returns:
        (B, 7, 8, X, Y, Z): places, the logits and likeness, 7 maps, folded.
    """
    at_S = torch.arange(mask_logits.shape[-1], device=points.device)
    offset_BN3S = at_S - points[..., None]
    # Cut at four standard deviations: products of smaller numbers are denormal, and five times as slow on CPUs.
    bump_BN3S = torch.exp(-(offset_BN3S**2) / (2 * CLICK_SIGMA**2)) * (offset_BN3S.abs() < 4 * CLICK_SIGMA)
    clicks = [_blend(bump_BN3S * (labels == label)[..., None, None]) for label in (1, 0)]
    places = [click.to(mask_logits.dtype) for click in clicks]
    before = torch.tanh(mask_logits / LOGIT_SCALE)
    return torch.cat([*map(fold, (*places, before)), *_draw_likeness(looks, points, labels)], dim=1)


def _blend(profile_BN3S: Tensor) -> Tensor:
    """The sum, at most 1, of N products of three profiles, (B, N, 3, S) -> (B, 1, S, S, S)."""
    x_BNS, y_BNS, z_BNS = profile_BN3S.unbind(2)
    return torch.einsum("bnx,bny,bnz->bxyz", x_BNS, y_BNS, z_BNS)[:, None].clamp_max(1)


def _draw_likeness(looks: Tensor, points: Tensor, labels: Tensor) -> list[Tensor]:
    """How like the most similar positive, and negative, click each voxel looks: (B, 2, 8, X, Y, Z) from 0 to 1 each.

    It depends on a voxel's brightness alone, so it is worked out for each step of brightness and then looked up.
    """
    per_step = (STEPS - 1) / (2 * BRIGHTEST)
    steps_BLV = torch.add(BRIGHTEST * per_step + 0.5, looks.flatten(2), alpha=per_step).long()
    brightness_K = torch.linspace(-BRIGHTEST, BRIGHTEST, STEPS, device=looks.device, dtype=looks.dtype)
    distance_BLNK = (brightness_K - _around(looks, points)[..., None]).abs()
    distance_BLNK = functional.pad(distance_BLNK, (0, 0, 0, 1), value=torch.inf)  # for where there is no click
    drawn = []
    for label in (1, 0):
        others_BN = functional.pad(labels != label, (0, 1), value=True)
        nearest_BLK = distance_BLNK.masked_fill(others_BN[:, None, :, None], torch.inf).amin(2)
        likeness_BLK = 1 / (1 + nearest_BLK / looks.new_tensor(SCALES)[:, None])
        drawn.append(likeness_BLK.gather(2, steps_BLV).reshape(looks.shape))
    return drawn


def _around(looks: Tensor, points: Tensor) -> Tensor:
    """The mean look (B, L, N) of the 27 voxels around each point; one voxel alone is mostly noise."""
    cells = looks.shape[-1]
    around = torch.stack(torch.meshgrid(*3 * [torch.arange(-1, 2, device=points.device)], indexing="ij"), -1)
    x, y, z = (points.round().long()[:, :, None] + around.reshape(27, 3)).clamp(0, CELL * cells - 1).unbind(-1)
    within = (x % CELL * CELL + y % CELL) * CELL + z % CELL
    voxels_BM = (within * cells**3 + cells_of(torch.stack([x, y, z], -1), cells)).flatten(1)
    found = looks.flatten(2).gather(2, voxels_BM[:, None].expand(-1, looks.shape[1], -1))
    mean: Tensor = found.reshape(len(points), looks.shape[1], -1, 27).mean(3)
    return mean
