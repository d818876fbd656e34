"""The random walker baseline."""

import numpy as np
import pytest

from backend.evaluation import baselines
from backend.evaluation.baselines import RandomWalker, place_seeds, window_around
from backend.evaluation.metrics import dice
from backend.evaluation.protocol import paper_trial
from backend.phantom import torso
from backend.random_walk import BACKGROUND, OBJECT
from backend.volume import Volume


def volume_of(shape: tuple[int, int, int], spacing: tuple[float, float, float]) -> Volume:
    return Volume(np.zeros(shape, dtype=np.int16), np.diag([*spacing, 1]))


def test_clicks_find_an_organ_of_the_phantom() -> None:
    phantom = torso((80, 60, 40), (4, 4, 7))
    kidney = phantom.labels == phantom.names.index("kidney_left") + 1
    rng = np.random.default_rng(0)
    trial = paper_trial(RandomWalker(), phantom.volume, kidney, counts=(10,), rng=rng, tolerance_mm=2.0)
    assert trial.prediction.shape == phantom.volume.shape
    assert trial.answers[0].dice < trial.answers[-1].dice
    assert trial.answers[-1].dice > 0.5


def test_negative_click_takes_away_and_start_forgets() -> None:
    phantom = torso((80, 60, 40), (4, 4, 7))
    walker, middle = RandomWalker(), phantom.middle_of("liver")
    walker.start(phantom.volume)
    before = walker.click(middle, True)
    edge = tuple(np.argwhere(before)[0])
    assert not walker.click(edge, False)[edge]
    walker.start(phantom.volume)
    np.testing.assert_array_equal(walker.click(middle, True), before)


def test_mask_is_on_the_grid_of_an_anisotropic_volume() -> None:
    """A bright box in noise, thick slices: found to within a voxel of its faces."""
    image = np.random.default_rng(0).normal(0, 5, (90, 70, 12))
    image[30:60, 20:50, 4:9] += 100
    walker = RandomWalker()
    walker.start(Volume(image.astype(np.float32), np.diag([-0.8, 0.8, 5, 1])))
    mask = walker.click((45, 35, 6), True)
    truth = np.zeros(image.shape, dtype=bool)
    truth[30:60, 20:50, 4:9] = True
    assert dice(mask, truth) > 0.9


def test_window_is_bounded_and_coarse_enough() -> None:
    window = window_around([np.array([256.0, 256.0, 150.0])], volume_of((512, 512, 300), (0.7, 0.7, 1.0)))
    assert np.prod(window.shape) <= baselines.MAX_CELLS
    assert [b - a for a, b in zip(window.start, window.stop, strict=True)] == [173, 173, 121]
    assert max(window.spacing) / min(window.spacing) < 1.5
    assert window.cut == ((True, True),) * 3


def test_small_volume_is_not_coarsened() -> None:
    window = window_around([np.array([10.0, 10, 10])], volume_of((30, 40, 25), (1, 1, 1)))
    assert (window.factors, window.shape) == ((1, 1, 1), (30, 40, 25))


def test_faces_are_background_but_for_those_of_a_slab() -> None:
    volume = volume_of((60, 60, 8), (1, 1, 2))
    seeds = place_seeds(window_around([np.array([30.0, 30, 4])], volume), [(np.array([30.0, 30, 4]), True)])
    assert (seeds[0] == BACKGROUND).all()
    assert (seeds[:, -1] == BACKGROUND).all()
    assert (seeds[20:40, 10:20, 0] == 0).all()
    assert seeds[30, 30, 4] == seeds[34, 30, 4] == OBJECT
    assert seeds[36, 30, 4] == 0


def test_faces_within_the_volume_are_always_background() -> None:
    volume = volume_of((60, 60, 400), (1, 1, 1))
    window = window_around([np.array([30.0, 30, 200])], volume)
    seeds = place_seeds(window, [(np.array([30.0, 30, 200]), True)])
    assert (seeds[..., 0] == BACKGROUND).all()
    assert (seeds[..., -1] == BACKGROUND).all()


def test_constant_volume_falls_back_to_the_nearest_seed() -> None:
    walker = RandomWalker()
    walker.start(volume_of((40, 40, 40), (1, 1, 1)))
    mask = walker.click((20, 20, 20), True)
    assert mask[20, 20, 20]
    assert not mask[:, 0].any()


def test_voxels_that_are_not_finite_do_no_harm() -> None:
    image = np.random.default_rng(0).normal(0, 1, (30, 30, 30)).astype(np.float32)
    image[5] = np.nan
    walker = RandomWalker()
    walker.start(Volume(image, np.eye(4)))
    assert walker.click((15, 15, 15), True)[15, 15, 15]


def test_box_is_a_click_at_its_centre() -> None:
    phantom = torso((80, 60, 40), (4, 4, 7))
    x, y, z = phantom.middle_of("liver")
    walker = RandomWalker()
    walker.start(phantom.volume)
    clicked = walker.click((x, y, z), True)
    walker.start(phantom.volume)
    np.testing.assert_array_equal(walker.box((x - 3, y - 2, z - 1), (x + 3, y + 2, z + 1)), clicked)


def test_click_before_start_is_a_defect() -> None:
    with pytest.raises(RuntimeError, match="start"):
        RandomWalker().click((0, 0, 0), True)
