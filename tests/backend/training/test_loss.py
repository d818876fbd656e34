"""The loss and the score of single samples."""

import pytest
import torch
from monai.losses import DiceCELoss
from torch import Tensor
from torch.nn import functional

from backend.models.layers import upsample
from backend.training.loss import dice_ce_loss, dice_score


@pytest.fixture
def logits() -> Tensor:
    return 3 * torch.randn(4, 1, 6, 6, 6, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def mask(logits: Tensor) -> Tensor:
    mask = logits + torch.randn(logits.shape, generator=torch.Generator().manual_seed(1)) > 1
    mask[3] = False
    return mask


def test_mean_is_the_published_loss(logits: Tensor, mask: Tensor) -> None:
    published = DiceCELoss(sigmoid=True, squared_pred=True, reduction="mean")(logits, mask.float())
    torch.testing.assert_close(dice_ce_loss(logits, mask).mean(), published)


def test_a_sample_has_the_same_loss_in_any_batch(logits: Tensor, mask: Tensor) -> None:
    together = dice_ce_loss(logits, mask)
    alone = torch.cat([dice_ce_loss(logits[i : i + 1], mask[i : i + 1]) for i in range(4)])
    torch.testing.assert_close(together, alone)
    assert len(set(together.tolist())) == 4


def test_double_stays_double(logits: Tensor, mask: Tensor) -> None:
    assert dice_ce_loss(logits.double(), mask).dtype == torch.float64


def test_dice(mask: Tensor) -> None:
    half = torch.zeros(1, 1, 4, 4, 4, dtype=torch.bool)
    half[..., :2] = True
    quarter = half.clone()
    quarter[:, :, :2] = False
    assert dice_score(quarter, half).tolist() == pytest.approx([2 / 3])
    assert dice_score(mask, mask).tolist() == [1, 1, 1, 1]
    assert dice_score(~mask, mask).tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize("size", [6, 15, 24])
def test_upsampling_is_trilinear(logits: Tensor, size: int) -> None:
    logits = logits.double().requires_grad_()
    expected = functional.interpolate(logits, (size, size, size), mode="trilinear", align_corners=False)
    torch.testing.assert_close(upsample(logits, size), expected)
    weights = torch.randn(expected.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    slopes = [torch.autograd.grad((up * weights).sum(), logits)[0] for up in (expected, upsample(logits, size))]
    torch.testing.assert_close(slopes[1], slopes[0])
