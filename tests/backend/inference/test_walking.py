"""What a random walk adds to the answers of a network."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from fakes import ORIENTATIONS, Call, FakeModel, Floats, dice, noise, painted, solver, tilted_affine

from backend.evaluation.segmenters import make_segmenter
from backend.inference import zooming
from backend.inference.predictor import spacing_of
from backend.inference.prompts import Box, Click, InitialMask
from backend.inference.walking import averaged, share_of, walked
from backend.inference.zooming import ZoomingSolver
from backend.random_walk import BACKGROUND, OBJECT, seed_clicks
from backend.volume import Volume

SIZE = 32
WHOLE = (slice(0, SIZE),) * 3
MIDDLE = np.full((1, 3), (SIZE - 1) / 2)
PLACES = np.stack(np.indices((SIZE,) * 3), axis=-1)


class Doubtful(FakeModel):
    """Finds nothing anywhere, and is not sure of it."""

    def __init__(self, walk_share: float = 0.5) -> None:
        super().__init__(SIZE, SIZE)
        self.all_clicks = self.any_spacing = True
        self.walk_share = walk_share

    def answer(self, call: Call) -> Floats:
        return np.full_like(call.previous, -1)


def ball(radius: float, centre: Any = MIDDLE[0]) -> Any:
    return np.linalg.norm(PLACES - centre, axis=-1) < radius


def picture(*balls: Any) -> Floats:
    """Bright balls in noise."""
    noise = np.random.default_rng(0).normal(0, 5, (SIZE,) * 3)
    return (noise + 100 * np.any(balls, axis=0)).astype(np.float32)


def test_a_walk_ends_where_the_brightness_does() -> None:
    found = walked(picture(ball(9)), WHOLE, MIDDLE, np.array([True]))
    assert found is not None
    assert found.dtype == np.float32
    assert 0 <= found.min() <= found.max() <= 1
    assert dice(found > 0.5, ball(9)) > 0.85


def test_a_negative_click_keeps_the_walk_off() -> None:
    rod = (np.abs(PLACES[..., 1:] - 15.5).max(axis=-1) < 6) & (np.abs(PLACES[..., 0] - 15.5) < 12)
    left, right = (rod & (side * (PLACES[..., 0] - 15.5) > 3) for side in (-1, 1))
    clicks = np.array([(8, 15.5, 15.5), (23, 15.5, 15.5)])
    alone = walked(picture(rod), WHOLE, clicks[:1], np.array([True]))
    kept_off = walked(picture(rod), WHOLE, clicks, np.array([True, False]))
    assert alone is not None
    assert kept_off is not None
    assert (alone > 0.5)[right].mean() > 0.7
    assert (kept_off > 0.5)[right].mean() < 0.1
    assert (kept_off > 0.5)[left].mean() > 0.7


@pytest.mark.parametrize("value", [0.0, 7.0, np.nan])
def test_where_all_is_equally_bright_there_is_no_walk(value: float) -> None:
    assert walked(np.full((SIZE,) * 3, value, dtype=np.float32), WHOLE, MIDDLE, np.array([True])) is None


def test_voxels_that_are_not_finite_do_no_harm() -> None:
    image = picture(ball(9))
    image[:3] = np.nan
    image[3, 0, 0] = np.inf
    found = walked(image, WHOLE, MIDDLE, np.array([True]))
    assert found is not None
    assert dice(found > 0.5, ball(9)) > 0.8


def test_logits_without_a_share_of_the_walk_stay() -> None:
    logits = np.linspace(-8, 8, 27, dtype=np.float32).reshape(3, 3, 3)
    np.testing.assert_allclose(averaged(logits, np.ones_like(logits), 0.0), logits, atol=1e-3)


def test_what_one_is_sure_of_is_found_and_what_both_doubt_is_not() -> None:
    network = np.array([8, -8, 8, -2, -1, -1], dtype=np.float32)
    walk = np.array([1, 0, 0, 1, 0.2, 0.6], dtype=np.float32)
    assert (averaged(network, walk, 0.5) > 0).tolist() == [True, False, True, True, False, True]


def test_where_the_network_is_sure_that_there_is_nothing_the_walk_finds_nothing() -> None:
    network = np.array([-4, -8], dtype=np.float32)
    assert (averaged(network, np.ones(2, dtype=np.float32), 0.5) <= network).all()


def test_a_volume_that_ends_in_its_window_does_not_hold_the_walk() -> None:
    """A crop without air around it, as a person saves the part of a scan that matters."""
    inside = (slice(6, 26),) * 3
    crop = np.zeros((SIZE,) * 3, dtype=np.float32)
    crop[inside] = (picture(ball(6)) + 300)[inside]
    found = walked(crop, inside, MIDDLE, np.array([True]))
    assert found is not None
    assert dice(found > 0.5, ball(6)) > 0.8


def test_a_click_holds_although_another_one_is_near() -> None:
    clicks = np.array([(15.5, 15.5, 15.5), (18.5, 15.5, 15.5)])
    for order in ([0, 1], [1, 0]):
        found = walked(picture(ball(4)), WHOLE, clicks[order], np.array([True, False])[order])
        assert found is not None
        assert found[15, 15, 15] > 0.9
        assert found[19, 15, 15] < 0.5


def test_the_share_falls_with_the_number_of_clicks() -> None:
    assert [share_of(0.5, clicks) for clicks in (1, 3, 5, 10)] == pytest.approx([0.5, 0.5, 0.3, 0.15])


@pytest.mark.parametrize("orientation", ORIENTATIONS[::7], ids=str)
def test_the_walk_lies_where_the_object_is(orientation: Any) -> None:
    """In an anisotropic, tilted volume, off its middle."""
    shape = (60, 50, 40)
    affine = tilted_affine(orientation, (1.0, 1.5, 2.0))
    at = np.moveaxis(np.indices(shape), 0, -1) * (1.0, 1.5, 2.0)
    inside = np.linalg.norm(at - (22, 45, 30), axis=-1) < 14
    image = np.random.default_rng(0).normal(100, 5, shape) + 300 * inside
    answers = solver(Doubtful(), Volume(image.astype(np.float32), affine))
    assert dice(painted(answers, (Click((22.0, 30.0, 15.0)),)), inside) > 0.65  # cells of 6 mm


def test_only_clicks_alone_are_walked_from() -> None:
    image = (picture(ball(9)) + 200).astype(np.float32)
    answers = solver(Doubtful(), Volume(image, np.eye(4)))
    click, mask = Click((15.0, 15.0, 15.0)), ball(4)
    assert painted(answers, (click,)).any()
    assert not painted(answers, (Box((10.0, 10.0, 10.0), (20.0, 20.0, 20.0)),)).any()
    np.testing.assert_array_equal(painted(answers, (InitialMask(mask),)), mask)
    assert not painted(solver(Doubtful(0.0), Volume(image, np.eye(4))), (click,)).any()


@dataclass
class Walks:
    """Walks that find everything, and what they were asked."""

    asked: list[tuple[Any, Any, Any]] = field(default_factory=list)

    def __call__(self, crop: Floats, inside: Any, voxels: Any, labels: Any) -> Floats:
        self.asked.append((inside, voxels, labels))
        return np.ones_like(crop)


@pytest.fixture
def walks(monkeypatch: pytest.MonkeyPatch) -> Walks:
    walks = Walks()
    monkeypatch.setattr(zooming, "walked", walks)
    return walks


def zooming_solver(volume: Volume) -> ZoomingSolver:
    answers = solver(Doubtful(), volume)
    assert isinstance(answers, ZoomingSolver)
    return answers


def test_the_walk_is_asked_about_all_clicks_as_what_they_are(walks: Walks) -> None:
    volume = noise((110, 60, 40), np.diag([-2, 2, 3, 1]))
    clicks = (Click((5, 30, 20)), Click((50, 20, 10), positive=False), Click((105, 40, 30)))
    zooming_solver(volume).final(clicks)
    inside, voxels, labels = walks.asked[-1]
    assert labels.tolist() == [True, False, True]
    assert ((voxels > 0) & (voxels < SIZE - 1)).all()  # 200 mm, for clicks that are so far apart
    apart = np.linalg.norm(voxels[2] - voxels[0]), np.linalg.norm(voxels[1] - voxels[0])
    assert apart[0] / apart[1] == pytest.approx(np.hypot(200, np.hypot(20, 30)) / np.hypot(90, np.hypot(20, 30)))
    spans = [part.stop - part.start for part in inside]
    window = SIZE * (200 / abs(voxels[2] - voxels[0]).max())  # mm
    np.testing.assert_allclose(np.array(spans) * window / SIZE, [220, 120, 120], atol=window / SIZE)


def test_of_an_answer_beyond_the_window_of_the_walk_nothing_changes(walks: Walks) -> None:
    answers = zooming_solver(noise((100, 100, 100), np.diag([3, 3, 3, 1])))
    middle = np.full(3, 49.5)
    view = answers._views.around(middle, 280)
    before = np.full((SIZE,) * 3, -1, dtype=np.float32)
    after = answers._averaged(view, answers._canvas(view, before), (Click((50.0, 50.0, 50.0)),)).windows[0].logits
    from_middle_mm = np.abs(PLACES - (SIZE - 1) / 2).max(axis=-1) * spacing_of(view.level)
    assert (after[from_middle_mm < 40] > 0).all()
    assert (after[from_middle_mm > 60] == -1).all()


@pytest.mark.parametrize(("clicks", "share"), [(1, 0.5), (3, 0.5), (10, 0.15)])
def test_the_answer_to_more_clicks_has_less_of_the_walk(clicks: int, share: float, walks: Walks) -> None:
    answers = zooming_solver(noise((60, 60, 60)))
    prompts = tuple(Click((25.0 + place, 30.0, 30.0)) for place in range(clicks))
    view = answers._views.around((30, 30, 30), 60)
    before = np.full((SIZE,) * 3, -1, dtype=np.float32)
    after = answers._averaged(view, answers._canvas(view, before), prompts).windows[0].logits
    np.testing.assert_allclose(after, averaged(before, np.ones_like(before), share), rtol=1e-5)


def test_of_two_clicks_in_a_cell_the_last_counts() -> None:
    for labels in ([True, False], [False, True]):
        seeds = np.zeros((5, 5, 5), dtype=np.int32)
        seed_clicks(seeds, [(2, 2, 2), (2, 2, 2)], labels, 1.0, (1, 1, 1))
        assert np.count_nonzero(seeds) == 7
        assert set(seeds[seeds > 0]) == {OBJECT if labels[-1] else BACKGROUND}


def test_metal_does_not_level_all_other_edges() -> None:
    image = picture(ball(9))
    image[1:3, 1:3, 1:5] = 1e5
    found = walked(image, WHOLE, MIDDLE, np.array([True]))
    assert found is not None
    assert dice(found > 0.5, ball(9)) > 0.8


def test_what_is_not_finite_is_told_once(recwarn: pytest.WarningsRecorder) -> None:
    image = picture(ball(9)) + 200
    image[0] = np.nan
    answers = solver(Doubtful(), Volume(image, np.eye(4)))
    painted(answers, (Click((15.0, 15.0, 15.0)),))
    assert sum("NaN" in str(warning.message) for warning in recwarn) == 1


def test_an_untrained_network_is_measured_by_itself() -> None:
    segmenter: Any = make_segmenter("untrained:compact")
    assert segmenter._engine.model.walk_share == 0
    trained: Any = make_segmenter("compact")
    assert trained._engine.model.walk_share > 0
