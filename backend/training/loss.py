"""What an episode minimises, and the overlap it reports, each for every sample by itself."""

from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional


@cache
def _dice() -> nn.Module:
    from monai.losses import DiceLoss  # late: it takes seconds

    loss: nn.Module = DiceLoss(sigmoid=True, squared_pred=True, reduction="none")
    return loss


def dice_ce_loss(logits: Tensor, mask: Tensor) -> Tensor:
    """Dice loss plus cross entropy (supplement, C.2; squared predictions as in the published code).

    It is MONAI's `DiceCELoss`, which has no reduction that leaves the samples apart.

    Args:
        logits: (B, 1, S, S, S) float32 or float64; half precision has no room for sums over a crop.
        mask: (B, 1, S, S, S) bool.

    Returns:
        (B,): unlike the published loss not yet averaged, so that a sample weighs the same in any batch.
    """
    target = mask.to(logits.dtype)
    dice: Tensor = _dice()(logits, target)
    entropy = functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
    return dice.flatten(1).mean(1) + entropy.flatten(1).mean(1)


def dice_score(prediction: Tensor, mask: Tensor) -> Tensor:
    """Dice of bool masks (B, 1, S, S, S), (B,) float32; 1 where both are empty."""
    both = (prediction & mask).flatten(1).sum(1)
    total = prediction.flatten(1).sum(1) + mask.flatten(1).sum(1)
    return torch.where(total > 0, 2 * both / total, 1.0)
