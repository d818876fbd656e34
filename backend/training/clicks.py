"""Simulated clicks for a batch, on the device of its masks.

The published sampler fails on a perfect prediction and takes logits above 0.5, not above 0, for the mask; this one
always has an answer.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from backend.evaluation.clicks import centre_error_click
from backend.models.prompt_encoder import NOT_A_POINT
from backend.training.config import ClickSection

Row = npt.NDArray[np.generic]

# Draws are whole numbers below this; taken modulo a number of voxels they are even to one part in 10^12.
_DRAWS = 1 << 62


class ClickPlan(NamedTuple):
    """What chance decides in the episodes of a batch; each row depends on its sample's seed alone.

    Attributes:
        draws: (B, interactions) int64 on the CPU, which error voxel is clicked.
        centre: (B, interactions) bool on the CPU, whether it is the centre of the largest error instead.
        clicked: (B, interactions) bool on the CPU, whether there is a click at all.
        ahead: (B, first_clicks - 1) int64 on the CPU, the draws of the clicks of interactions that come before, from
            which nothing is learned; -1, from some place on, for none.
    """

    draws: Tensor
    centre: Tensor
    clicked: Tensor
    ahead: Tensor


def plan_clicks(seeds: Sequence[int], section: ClickSection) -> ClickPlan:
    """Draw what the seeds (B) decide, the same on every device, in any batch and on any rank.

    Of the interactions without a click one is the last (published training code), and the others are drawn from the
    third on, or from the second where those are too few. The first always has a click.
    """
    rows = [_plan_sample(np.random.default_rng(seed), section) for seed in seeds]
    return ClickPlan(*(torch.from_numpy(np.stack(column)) for column in zip(*rows, strict=True)))


def _plan_sample(rng: np.random.Generator, section: ClickSection) -> tuple[Row, Row, Row, Row]:
    interactions = section.interactions
    draws = rng.integers(_DRAWS, size=interactions)
    centre = rng.random(interactions) < section.centre_share
    clicked = np.ones(interactions, dtype=bool)
    if section.mask_only:
        later = np.arange(min(2, interactions - section.mask_only), interactions - 1)
        clicked[[*rng.choice(later, section.mask_only - 1, replace=False), -1]] = False
    ahead = rng.integers(_DRAWS, size=section.first_clicks - 1)
    several = section.first_clicks > 1 and rng.random() < 0.5
    ahead[rng.integers(section.first_clicks) if several else 0 :] = -1
    return draws, centre & clicked, clicked, ahead


def simulate_clicks(prediction: Tensor, mask: Tensor, draws: Tensor, centre: Tensor) -> tuple[Tensor, Tensor]:
    """One click a sample where the prediction is wrong: positive where it misses the object, negative outside it.

    Args:
        prediction: (B, 1, S, S, S) bool, the logits above 0.
        mask: (B, 1, S, S, S) bool, the object.
        draws: (B,) int64 on the CPU, not negative; decides among the error voxels, each as likely as the others.
        centre: (B,) bool on the CPU; where true, the click is the centre of the largest error instead.

    Returns:
        Points (B, 1, 3) float32 in voxels, axes as in the mask, and labels (B, 1) int64. Where the prediction is
        perfect, a voxel of the object and 1; where there is no object either, the last voxel and -1, "not a point".
    """
    points, labels = _random_clicks(prediction[:, 0], mask[:, 0], draws.to(mask.device))
    for sample in centre.nonzero()[:, 0].tolist():
        click = centre_error_click(prediction[sample, 0].cpu().numpy(), mask[sample, 0].cpu().numpy())
        if click is not None:
            points[sample] = points.new_tensor(click.point)
            labels[sample] = int(click.positive)
    return points[:, None].float(), labels[:, None]


def _random_clicks(prediction_BXYZ: Tensor, mask_BXYZ: Tensor, draws: Tensor) -> tuple[Tensor, Tensor]:
    """Points (B, 3) int64 and labels (B,) int64, without waiting for the device."""
    wrong_BXYZ = prediction_BXYZ ^ mask_BXYZ
    errors = wrong_BXYZ.flatten(1).sum(1)
    candidates_BXYZ = torch.where((errors > 0)[:, None, None, None], wrong_BXYZ, mask_BXYZ)
    count = candidates_BXYZ.flatten(1).sum(1)
    points = _true_voxel(candidates_BXYZ, draws % count.clamp(min=1))
    x, y, z = points.unbind(1)
    labels = mask_BXYZ[torch.arange(len(points), device=points.device), x, y, z].long()
    return points, torch.where(count > 0, labels, NOT_A_POINT)


def _true_voxel(candidates: Tensor, rank: Tensor) -> Tensor:
    """The index (B, 3) of the True voxel of rank (B,) in the order of the array (B, X, Y, Z); the last if none is."""
    sample = torch.arange(len(candidates), device=candidates.device)
    index = []
    while candidates.ndim > 1:  # the plane with the voxel, the row of the plane, the voxel of the row
        counts = candidates.flatten(2).sum(2) if candidates.ndim > 2 else candidates.long()
        through = counts.cumsum(1)
        found = torch.searchsorted(through, rank[:, None], right=True)[:, 0].clamp(max=counts.shape[1] - 1)
        rank = rank - (through - counts)[sample, found]
        candidates = candidates[sample, found]
        index.append(found)
    return torch.stack(index, dim=1)
