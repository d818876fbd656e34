"""How far each cell is from the clicks, along paths that avoid edges (as in GeoS, Criminisi et al. 2008).

What is connected to a click without an edge between is near it, however far away; what lies behind an edge is not.
A network learns to see this only from many more volumes than it takes to make use of it: docs/models/compact-trials.md.

Legend of shape suffixes: B batch, L looks (kinds of brightness), X Y Z cells of two voxels an axis, N points.
"""

import torch
from torch import Tensor
from torch.nn import functional

from backend.models.cells import CELL, cells_of

# Crossing this many times the usual difference between neighbours costs 1 more than a step costs at least; at most
# MOST more.
EDGE = 3.0
LEAST, MOST = 0.15, 4.0
# The usual difference is at least this (looks are from -4 to 4 and from -1 to 1).
QUIETEST = 0.01
# Of the differences, every so manieth is looked at to find the usual one.
SAMPLED = 7
# Distances are drawn as exp(-distance / scale).
POSITIVE_SCALES, NEGATIVE_SCALES = (1.0, 3.0, 8.0), (1.0, 3.0)
# Beyond this all is far.
FAR = 30.0
DISTANCE_MAPS = len(POSITIVE_SCALES) + len(NEGATIVE_SCALES) + 1


def step_costs(looks: Tensor) -> Tensor:
    """What a step from each cell to the next along each axis costs, (B, 3, X, Y, Z), of looks (B, L, S, S, S).

    A step costs more the more its difference in brightness exceeds what is usual in this image, so that noise costs
    little. What the last cell of an axis has is of no meaning.
    """
    cells_BLXYZ = functional.avg_pool3d(looks, CELL)
    differences = [torch.diff(cells_BLXYZ, dim=axis) for axis in (2, 3, 4)]
    usual_BL = torch.stack([_usual(difference) for difference in differences]).amax(0)
    scale_BL111 = EDGE * usual_BL[..., None, None, None]
    costs = []
    for axis, difference in enumerate(differences):
        cost = (difference / scale_BL111).square().clamp_max(MOST).mean(1) + LEAST
        costs.append(functional.pad(cost, [int(side == 2 * (2 - axis) + 1) for side in range(6)]))
    return torch.stack(costs, dim=1)


def _usual(difference_BLXYZ: Tensor) -> Tensor:
    """The median difference (B, L) between neighbours that differ; beyond the volume all are 0."""
    # By sorting, for CUDA has no deterministic nanmedian.
    ordered = difference_BLXYZ.flatten(2)[..., ::SAMPLED].abs().sort(2).values
    equal_BL1 = (ordered == 0).sum(2, keepdim=True)
    count = ordered.shape[2]
    middle_BL1 = (equal_BL1 + (count - 1 - equal_BL1) // 2).clamp_max(count - 1)
    return ordered.gather(2, middle_BL1)[..., 0].clamp_min(QUIETEST)


def draw_distances(costs: Tensor, points: Tensor, labels: Tensor) -> Tensor:
    """Distances from the clicks as maps (B, 6, X, Y, Z) from -1 to 1.

    Args:
        costs: (B, 3, X, Y, Z), from `step_costs`.
        points: (B, N, 3) voxel coordinates.
        labels: (B, N) integers: 1 positive, 0 negative; others are left out.
    """
    distance = _distances(costs, _clicked(costs.shape[-1], points, labels)).clamp_max(FAR)
    positive, negative = distance[:, :1], distance[:, 1:]
    drawn = [torch.exp(-positive / scale) for scale in POSITIVE_SCALES]
    drawn += [torch.exp(-negative / scale) for scale in NEGATIVE_SCALES]
    return torch.cat([*drawn, torch.tanh((negative - positive) / 2)], dim=1)


def _clicked(size: int, points: Tensor, labels: Tensor) -> Tensor:
    """The cells with a positive and with a negative click, (B, 2, X, Y, Z)."""
    cell_BN = cells_of(points, size)
    cells = torch.zeros(len(points), 2, size**3 + 1, dtype=torch.bool, device=points.device)  # one for those left out
    for kind, label in enumerate((1, 0)):
        cells[:, kind].scatter_(1, torch.where(labels == label, cell_BN, size**3), value=True)
    return cells[..., :-1].reshape(-1, 2, size, size, size)


@torch.no_grad()
def _distances(costs: Tensor, clicked: Tensor) -> Tensor:
    """The cost of the cheapest path from the clicked cells (B, K, X, Y, Z).

    Paths of as many steps as an axis has cells are found for certain; longer ones mostly, for it matters little there.
    """
    distance = torch.where(clicked, 0.0, 2 * FAR).to(costs.dtype)
    size = costs.shape[-1]
    pairs = [
        (
            distance.narrow(2 + axis, 0, size - 1),
            distance.narrow(2 + axis, 1, size - 1),
            costs[:, axis, None].narrow(2 + axis, 0, size - 1),
        )
        for axis in range(3)
    ]
    for _ in range(size):
        for here, further, cost in pairs:  # views: all directions see what the others have found
            torch.minimum(further, here + cost, out=further)
            torch.minimum(here, further + cost, out=here)
    return distance
