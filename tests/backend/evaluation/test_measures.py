"""Metrics and statistics against values worked out by hand."""

import math

import numpy as np
import pytest
import torch
from monai.metrics import compute_surface_dice
from scipy import ndimage
from stand_ins import cube

from backend.evaluation.metrics import dice, surface_dice, union_box
from backend.evaluation.statistics import bootstrap_mean

MM = (1.0, 1.0, 1.0)
EMPTY = np.zeros((20, 20, 20), dtype=bool)


def test_dice_by_hand() -> None:
    half = cube()
    half[10:] = False
    assert dice(cube(), cube()) == 1
    assert dice(half, cube()) == pytest.approx(2 * 500 / 1500)
    assert dice(EMPTY, cube()) == 0
    assert dice(EMPTY, EMPTY) == 1


def test_surface_dice_of_equal_and_empty_masks() -> None:
    assert surface_dice(cube(), cube(), MM) == 1
    assert surface_dice(EMPTY, cube(), MM) == 0
    assert surface_dice(cube(), EMPTY, MM) == 0
    assert surface_dice(EMPTY, EMPTY, MM) == 1


def test_surface_dice_tolerates_exactly_its_tolerance() -> None:
    shifted = np.roll(cube(), 2, axis=0)
    assert surface_dice(shifted, cube(), MM, tolerance_mm=2.0) == 1
    assert surface_dice(shifted, cube(), MM, tolerance_mm=1.9) < 1
    assert surface_dice(shifted, cube(), (1.1, 1, 1), tolerance_mm=2.0) < 1  # the same voxels, further apart
    assert surface_dice(np.roll(cube(), 2, axis=1), cube(), (1.1, 1, 1), tolerance_mm=2.0) == 1


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.7, 0.8, 5.0)])
def test_surface_dice_is_monais(spacing: tuple[float, float, float]) -> None:
    """Blobs with a leak, some at the edge of the array."""
    noise = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=(40, 50, 16)), 2)
    mask, prediction = noise > 0.05, noise > 0.03
    prediction[20:, :20] = True
    pair = [torch.from_numpy(array)[None, None] for array in (prediction, mask)]
    expected = compute_surface_dice(*pair, [2.0], True, spacing=list(spacing), use_subvoxels=True)
    assert surface_dice(prediction, mask, spacing) == pytest.approx(float(expected), abs=1e-5)
    assert 0.2 < float(expected) < 0.95


def test_surface_dice_does_not_depend_on_the_room_around() -> None:
    small, large = np.roll(cube(), 3, axis=2), np.zeros((60, 50, 40), dtype=bool)
    truth = large.copy()
    large[20:40, 20:40, 10:30] = small
    truth[20:40, 20:40, 10:30] = cube()
    assert surface_dice(large, truth, (1, 2, 1.5)) == pytest.approx(surface_dice(small, cube(), (1, 2, 1.5)))


def test_union_box_holds_both_and_stays_in_the_array() -> None:
    one, other = np.zeros((10, 10, 10), dtype=bool), np.zeros((10, 10, 10), dtype=bool)
    one[1, 4, 5] = other[3, 4, 2] = True
    assert union_box(one, other) == (slice(1, 4), slice(4, 5), slice(2, 6))
    assert union_box(one, other, (2, 1, 0)) == (slice(0, 6), slice(3, 6), slice(2, 6))


def test_bootstrap_mean_and_its_counts() -> None:
    estimate = bootstrap_mean([1.0, 2.0, 6.0], ["a", "a", "b"])
    assert (estimate.mean, estimate.targets, estimate.subjects) == (3.0, 3, 2)
    # With two subjects a draw is aa (1.5), ab (3) or bb (6): the interval runs between the extremes.
    assert (estimate.low, estimate.high) == (1.5, 6.0)


def test_bootstrap_is_seeded() -> None:
    values, subjects = np.random.default_rng(0).normal(size=40).tolist(), [str(i) for i in range(40)]
    assert bootstrap_mean(values, subjects, seed=1) == bootstrap_mean(values, subjects, seed=1)
    assert bootstrap_mean(values, subjects, seed=1) != bootstrap_mean(values, subjects, seed=2)


def test_bootstrap_interval_is_that_of_the_normal_law() -> None:
    values = np.random.default_rng(0).normal(5, 2, size=400)
    estimate = bootstrap_mean(values.tolist(), [str(i) for i in range(400)])
    assert estimate.low is not None
    assert estimate.high is not None
    error = 1.96 * values.std() / math.sqrt(400)
    assert estimate.high - values.mean() == pytest.approx(error, rel=0.1)
    assert values.mean() - estimate.low == pytest.approx(error, rel=0.1)


def test_bootstrap_keeps_subjects_together() -> None:
    """Ten copies of each value say no more than one."""
    values = np.random.default_rng(0).normal(size=12)
    once = bootstrap_mean(values.tolist(), list("abcdefghijkl"))
    often = bootstrap_mean(np.repeat(values, 10).tolist(), [s for s in "abcdefghijkl" for _ in range(10)])
    assert (often.low, often.high) == pytest.approx((once.low, once.high))


def test_bootstrap_without_enough_subjects_gives_no_interval() -> None:
    assert bootstrap_mean([0.2, 0.4], ["a", "a"]).low is None
    assert bootstrap_mean([0.2, 0.4], ["a", "a"]).mean == pytest.approx(0.3)
    assert bootstrap_mean([], []).mean is None
