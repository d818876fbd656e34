"""Pictures of bad results."""

import io

import numpy as np
import pytest
from matplotlib.image import imread
from stand_ins import cube

from backend.evaluation.clicks import ErrorClick
from backend.evaluation.gallery import KEPT, Gallery, draw, take_slices
from backend.evaluation.protocol import Answer, Trial
from backend.evaluation.targets import Target
from backend.volume import Volume

# Mirrored and permuted: the viewer's axes (Inferior, Posterior, Left) are the volume's 1, 2 and 0.
AFFINE = np.array([[1.0, 0, 0, 0], [0, 0, -2, 0], [0, 4, 0, 0], [0, 0, 0, 1]])
SHAPE = (20, 20, 20)
VOLUME = Volume(np.arange(8000).reshape(SHAPE).astype(np.int16), AFFINE)


def trial_of(prediction: np.ndarray, dice: float, *clicks: ErrorClick) -> Trial:
    trial = Trial(cube(), VOLUME.spacing, 2.0, clicks=list(clicks), answers=[Answer(1, dice, 0.0, 0.1)])
    trial.prediction = prediction
    return trial


def target(name: str) -> Target:
    return Target("a", "x", "here", "CT", name, "other", False, name, 1.0)


def test_slices_are_where_the_error_is_and_hold_its_clicks() -> None:
    prediction = cube()
    prediction[7, 6, 13] = False
    on, off = ErrorClick((7, 6, 13), True), ErrorClick((7, 12, 13), False)
    slices = take_slices(VOLUME, trial_of(prediction, 0.9, on, off))
    assert [cut.spacing for cut in slices] == [(2, 1), (4, 1), (4, 2)]
    wrong = [np.argwhere(cut.mask & ~cut.prediction).tolist() for cut in slices]
    assert [len(places) for places in wrong] == [1, 1, 1]
    for cut, (place,) in zip(slices, wrong, strict=True):
        row, column, positive = cut.clicks[0]
        assert ([row, column], positive) == (place, True)
        assert cut.image[tuple(place)] == VOLUME.array[7, 6, 13]
    assert [len(cut.clicks) for cut in slices] == [1, 2, 2]  # the other one is 24 mm away from the first slice


def test_picture_is_a_png() -> None:
    pixels = imread(io.BytesIO(draw(take_slices(VOLUME, trial_of(np.zeros(SHAPE, dtype=bool), 0.0)))))
    assert pixels.ndim == 3
    assert pixels.std() > 0


def test_single_slice_and_missing_values_can_be_drawn() -> None:
    image = np.full((20, 20, 1), np.nan, dtype=np.float32)
    mask = np.ones((20, 20, 1), dtype=bool)
    trial = Trial(mask, (1, 1, 1), 2.0, answers=[Answer(1, 0.0, 0.0, 0.1)])
    assert draw(take_slices(Volume(image, np.eye(4)), trial))


@pytest.mark.parametrize("values", [[0.9, 0.1, 0.5, 0.3], [0.3, 0.9, 0.1], [0.1, 0.3]])
def test_worst_of_each_model_are_kept(values: list[float]) -> None:
    gallery = Gallery()
    for number, value in enumerate(values):
        gallery.offer("m", target(str(number)), VOLUME, trial_of(cube(stop=9), value))
    gallery.offer("n", target("other"), VOLUME, trial_of(cube(stop=9), 1.0))
    pictures = gallery.pictures()
    assert [picture.dice for picture in pictures if picture.model == "m"] == sorted(values)[:KEPT]
    assert [picture.target for picture in pictures if picture.model == "n"] == ["other"]
