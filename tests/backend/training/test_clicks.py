"""Simulated clicks for a batch."""

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from backend.evaluation.clicks import centre_error_click
from backend.training.clicks import plan_clicks, simulate_clicks
from backend.training.config import ClickSection

SIZE = 9
SEEDS = [3, 1 << 62, 17, 0]
NEVER = torch.zeros(4, dtype=torch.bool)


def cubes() -> tuple[Tensor, Tensor]:
    """Four samples (4, 1, S, S, S): an object missed, one half found, one found in full, and none."""
    prediction, mask = torch.zeros(2, 4, 1, SIZE, SIZE, SIZE, dtype=torch.bool)
    mask[:3, :, 2:6, 3:7, 1:5] = True
    prediction[1, :, 2:6, 3:7, 3:7] = True
    prediction[2] = mask[2]
    return prediction, mask


def voxels(points: Tensor) -> list[tuple[int, ...]]:
    assert points.dtype == torch.float32
    return [tuple(int(c) for c in point) for point in points[:, 0].tolist()]


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_a_click_is_where_the_prediction_is_wrong(share: float) -> None:
    prediction, mask = cubes()
    plan = plan_clicks(SEEDS, ClickSection(interactions=20, mask_only=1, centre_share=share))
    for interaction in range(19):
        points, labels = simulate_clicks(prediction, mask, plan.draws[:, interaction], plan.centre[:, interaction])
        assert points.shape == (4, 1, 3)
        missed, half, perfect, nothing = voxels(points)
        assert mask[0, 0][missed]
        assert mask[1, 0][half] != prediction[1, 0][half]
        assert mask[2, 0][perfect]
        assert nothing == (SIZE - 1, SIZE - 1, SIZE - 1)
        assert labels.tolist() == [[1], [int(mask[1, 0][half])], [1], [-1]]


def test_the_first_interaction_has_one_click_half_of_the_time_else_any_number() -> None:
    section = ClickSection(first_clicks=4)
    ahead = plan_clicks(range(2000), section).ahead
    assert ahead.shape == (2000, 3)
    there = ahead >= 0
    assert (there.int().diff(dim=1) <= 0).all()  # none after one that is not there
    shares = torch.bincount(there.sum(1), minlength=4) / 2000
    torch.testing.assert_close(shares, torch.tensor([0.625, 0.125, 0.125, 0.125]), atol=0.03, rtol=0)
    assert plan_clicks([5], ClickSection()).ahead.shape == (1, 0)
    for name in ("draws", "centre", "clicked"):  # what was drawn before there was this setting stays the same
        assert torch.equal(
            getattr(plan_clicks(SEEDS, section), name), getattr(plan_clicks(SEEDS, ClickSection()), name)
        )


def test_every_error_voxel_is_as_likely() -> None:
    prediction, mask = (volume[1:2] for volume in cubes())
    wrong = (prediction ^ mask)[0, 0]
    draws = torch.cat([plan_clicks([seed], ClickSection()).draws[0] for seed in range(600)])
    volumes = (volume.expand(len(draws), -1, -1, -1, -1) for volume in (prediction, mask))
    points, _ = simulate_clicks(*volumes, draws, torch.zeros(len(draws), dtype=torch.bool))
    counts = np.zeros((SIZE, SIZE, SIZE))
    np.add.at(counts, tuple(points[:, 0].long().numpy().T), 1)
    assert counts[~wrong.numpy()].sum() == 0
    assert stats.chisquare(counts[wrong.numpy()]).pvalue > 0.001


def test_a_centre_click_is_that_of_the_evaluation() -> None:
    prediction, mask = cubes()
    points, _ = simulate_clicks(prediction, mask, torch.zeros(4, dtype=torch.int64), ~NEVER)
    for sample in (0, 1):
        expected = centre_error_click(prediction[sample, 0].numpy(), mask[sample, 0].numpy())
        assert expected is not None
        assert voxels(points)[sample] == expected.point


def test_clicks_depend_on_their_own_sample_alone() -> None:
    prediction, mask = cubes()
    section = ClickSection(interactions=6, mask_only=3, centre_share=0.5)
    together = plan_clicks(SEEDS, section)
    order = [2, 0, 3, 1]
    shuffled = plan_clicks([SEEDS[i] for i in order], section)
    alone = plan_clicks(SEEDS[1:2], section)
    for column, of_shuffled, of_alone in zip(together, shuffled, alone, strict=True):
        assert torch.equal(column[order], of_shuffled)
        assert torch.equal(column[1:2], of_alone)
    points, labels = simulate_clicks(prediction, mask, together.draws[:, 0], together.centre[:, 0])
    point, label = simulate_clicks(prediction[1:2], mask[1:2], alone.draws[:, 0], alone.centre[:, 0])
    assert torch.equal(points[1:2], point)
    assert torch.equal(labels[1:2], label)


@pytest.mark.parametrize(("interactions", "mask_only"), [(11, 2), (11, 10), (11, 0), (4, 3), (3, 2), (2, 1), (1, 0)])
def test_interactions_without_a_click(interactions: int, mask_only: int) -> None:
    section = ClickSection(interactions=interactions, mask_only=mask_only, centre_share=0.5)
    plan = plan_clicks(range(50), section)
    assert plan.clicked[:, 0].all()
    assert (plan.clicked[:, -1] == (mask_only == 0)).all()
    assert ((~plan.clicked).sum(1) == mask_only).all()
    assert not (plan.centre & ~plan.clicked).any()


def test_the_published_mask_only_step_comes_third_or_later() -> None:
    plan = plan_clicks(range(200), ClickSection())
    where = (~plan.clicked[:, :-1]).nonzero()[:, 1]
    assert set(where.tolist()) == set(range(2, 10))


def test_share_of_centres() -> None:
    plan = plan_clicks(range(300), ClickSection(centre_share=0.25))
    assert plan.centre[plan.clicked].float().mean() == pytest.approx(0.25, abs=0.03)
    assert not plan_clicks(range(300), ClickSection()).centre.any()
