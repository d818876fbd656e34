"""Clicks of a simulated user on one volume."""

import numpy as np
import pytest

from backend.evaluation.clicks import ErrorClick, Mask, centre_error_click, random_error_click


def empty() -> Mask:
    return np.zeros((12, 10, 8), dtype=bool)


@pytest.fixture
def mask() -> Mask:
    mask = empty()
    mask[2:7, 3:8, 1:6] = True
    return mask


def test_centre_of_a_missed_object(mask: Mask) -> None:
    assert centre_error_click(empty(), mask) == ErrorClick((4, 5, 3), True)


def test_centre_of_a_surplus(mask: Mask) -> None:
    prediction = mask.copy()
    prediction[9:12, 0:3, 5:8] = True  # at three borders of the volume, which count as borders of the error
    assert centre_error_click(prediction, mask) == ErrorClick((10, 1, 6), False)


def test_centre_is_of_the_largest_component(mask: Mask) -> None:
    prediction = empty()
    prediction[0, 0, 0] = True
    prediction[9:, 9:, 7:] = True
    assert centre_error_click(prediction, mask) == ErrorClick((4, 5, 3), True)


def test_components_touch_by_corners() -> None:
    mask = empty()
    for voxel in range(6):  # a diagonal is one component of six voxels, not six
        mask[voxel, voxel, voxel] = True
    mask[9:11, 0:2, 0] = True
    click = centre_error_click(empty(), mask)
    assert click is not None
    assert len(set(click.point)) == 1


def test_depth_is_measured_in_millimetres() -> None:
    mask = empty()
    mask[:, 5, 3] = True  # a thread along x, with a bead at its end
    mask[0:3, 4:7, 2:5] = True
    assert centre_error_click(empty(), mask) == ErrorClick((1, 5, 3), True)
    assert centre_error_click(empty(), mask, spacing=(0.1, 1.0, 1.0)) == ErrorClick((5, 5, 3), True)


def test_no_error_no_click(mask: Mask) -> None:
    assert centre_error_click(mask, mask) is None
    assert random_error_click(mask, mask, np.random.default_rng(0)) is None


def test_random_clicks_are_even_over_the_error(mask: Mask) -> None:
    prediction = mask.copy()
    prediction[4, 5, 1:4] = False
    prediction[0, 0, 0] = True
    rng = np.random.default_rng(0)
    clicks = [random_error_click(prediction, mask, rng) for _ in range(400)]
    counts = {click: clicks.count(click) for click in clicks}
    expected = [ErrorClick((4, 5, z), True) for z in (1, 2, 3)] + [ErrorClick((0, 0, 0), False)]
    assert set(counts) == set(expected)
    assert min(counts.values()) > 70
