"""The simulated users."""

import numpy as np
import pytest
from stand_ins import Scripted, cube

from backend.evaluation.metrics import surface_dice
from backend.evaluation.protocol import Trial, area_under_curve, challenge_trial, paper_trial
from backend.volume import Volume

VOLUME = Volume(np.zeros((20, 20, 20), dtype=np.int16), np.eye(4))
EMPTY = np.zeros((20, 20, 20), dtype=bool)


def paper(segmenter: Scripted, seed: int = 0, counts: tuple[int, ...] = (1, 3)) -> Trial:
    rng = np.random.default_rng(seed)
    return paper_trial(segmenter, VOLUME, cube(), counts=counts, rng=rng, tolerance_mm=2.0)


def test_clicks_fall_where_the_mask_is_wrong() -> None:
    half, more = cube(), cube(start=4, stop=16)
    half[10:] = False
    segmenter = Scripted(half, more, cube())
    paper(segmenter)
    (first, on), (second, on_too), (third, off) = segmenter.clicks
    assert on
    assert cube()[tuple(map(int, first))]
    assert on_too
    assert (cube() & ~half)[tuple(map(int, second))]
    assert not off
    assert (more & ~cube())[tuple(map(int, third))]


def test_first_click_depends_on_the_random_numbers_alone() -> None:
    one, other = Scripted(EMPTY), Scripted(cube(start=2, stop=9))
    paper(one)
    paper(other)
    assert one.clicks[0] == other.clicks[0]
    paper(again := Scripted(EMPTY), seed=1)
    assert again.clicks[0] != one.clicks[0]


def test_perfect_mask_repeats_its_value_without_clicks() -> None:
    segmenter = Scripted(cube())
    trial = paper(segmenter, counts=(1, 3, 5))
    assert len(segmenter.clicks) == 1
    assert [answer.dice for answer in trial.answers] == [1.0] * 5
    assert [answer.nsd for answer in trial.answers] == [1.0, None, 1.0, None, 1.0]
    assert [answer.seconds is None for answer in trial.answers] == [False, True, True, True, True]


def test_empty_mask_is_scored_zero() -> None:
    trial = paper(Scripted(EMPTY))
    assert [(answer.dice, answer.nsd) for answer in trial.answers] == [(0, 0), (0, None), (0, 0)]


def test_challenge_gives_the_box_then_centres_of_the_largest_error() -> None:
    segmenter = Scripted(EMPTY, cube(stop=8), cube(start=1, stop=19), cube())
    trial = challenge_trial(segmenter, VOLUME, cube(), 2.0)
    assert segmenter.boxes == [([5, 5, 5], [14, 14, 14])]
    assert [answer.clicks for answer in trial.answers] == [0, 1, 2, 3, 4, 5]
    assert [positive for _, positive in segmenter.clicks] == [True, True, False]
    assert segmenter.clicks[0][0] in {(9, 9, 9), (10, 10, 10)}
    assert trial.answers[-1].dice == 1


def test_challenge_counts_no_surface_of_a_bad_mask() -> None:
    """Half a percent of the cube, on its surface: the surface distance would be above 0."""
    corner = cube(stop=7)
    trial = challenge_trial(Scripted(corner), VOLUME, cube(), 2.0)
    assert trial.answers[0].dice == pytest.approx(2 * 8 / 1008)
    assert trial.answers[0].nsd == 0
    assert paper(Scripted(corner)).answers[0].nsd > 0


def test_the_surface_distance_is_in_mm_and_of_the_tolerance_that_was_asked_for() -> None:
    spacing = (0.7, 0.8, 5.0)
    volume = Volume(np.zeros((20, 20, 20), dtype=np.int16), np.diag([*spacing, 1]))
    shifted = np.roll(cube(), 2, axis=0)
    expected = {mm: surface_dice(shifted, cube(), spacing, mm) for mm in (1.0, 2.0)}
    assert expected[1.0] < expected[2.0]
    assert expected[1.0] != surface_dice(shifted, cube(), (1, 1, 1), 1.0)
    for mm, nsd in expected.items():
        rng = np.random.default_rng(0)
        trial = paper_trial(Scripted(shifted), volume, cube(), counts=(1,), rng=rng, tolerance_mm=mm)
        assert trial.answers[-1].nsd == nsd
        assert challenge_trial(Scripted(shifted), volume, cube(), mm).answers[-1].nsd == nsd


def test_area_under_the_curve_is_the_challenges() -> None:
    assert area_under_curve([1.0] * 5) == 4
    assert area_under_curve([0.0, 0.5, 0.5, 0.75, 1.0]) == pytest.approx(0.25 + 0.5 + 0.625 + 0.875)
