"""Windows that fit the object, whatever its size and the volume's orientation."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from fakes import (
    ORIENTATIONS,
    Ball,
    Call,
    FakeModel,
    Floats,
    dice,
    noise,
    painted,
    seen_by_the_network,
    shown,
    solver,
    tilted_affine,
)
from scipy import ndimage

from backend.geometry import to_world
from backend.inference.predictor import spacing_of
from backend.inference.prompts import Box, Click, InitialMask
from backend.inference.solver import MASK_LOGIT
from backend.inference.zooming import LEAST_FILL, LOOKS, MOST_FILL
from backend.volume import Volume

SIZE = 32


@pytest.fixture
def wide_first_window(monkeypatch: pytest.MonkeyPatch) -> None:
    """`Lit` finds nothing in a window without surroundings, so the first is as wide as the volume."""
    monkeypatch.setattr("backend.inference.zooming.FIRST_MM", 240.0)


wide = pytest.mark.usefixtures("wide_first_window")


class Lit(FakeModel):
    """What is brighter than half of the brightest, of which 0.5 is seen already at a tenth of a voxel's share."""

    def __init__(self) -> None:
        super().__init__(SIZE, SIZE)
        self.all_clicks = self.any_spacing = True

    def answer(self, call: Call) -> Floats:
        return np.where(call.embedding > 1, 4, -4).astype(np.float32)


class Zoomed(Ball):
    """Balls around positive clicks, as wide in voxels in every window."""

    def __init__(self) -> None:
        super().__init__(SIZE, SIZE)
        self.all_clicks = self.any_spacing = True


def bright_ball(radius_mm: float, shape: tuple[int, int, int] = (90, 80, 70), affine: Any = None) -> tuple[Volume, Any]:
    """A ball in the middle of darkness, and what is it."""
    affine = np.diag([2.0, 2.0, 2.0, 1.0]) if affine is None else affine
    dark = Volume(np.zeros(shape), affine)
    at = to_world(dark, np.moveaxis(np.indices(shape), 0, -1))
    inside = np.linalg.norm(at - to_world(dark, (np.array(shape) - 1) / 2), axis=-1) < radius_mm
    return Volume((100 + 20 * np.random.default_rng(0).random(shape) + 900 * inside).astype(np.float32), affine), inside


def middle(volume: Volume) -> tuple[float, float, float]:
    x, y, z = ((n - 1) / 2 for n in volume.shape)
    return x, y, z


MIDDLE = Click((59.5, 59.5, 59.5))


@wide
@pytest.mark.parametrize("radius_mm", [6, 12, 25, 55])
def test_the_window_fits_the_object(radius_mm: float) -> None:
    volume, truth = bright_ball(radius_mm)
    answers = solver(Lit(), volume, extend=True)
    canvas = next(answers.solve((Click(middle(volume)),)))  # before its border is looked at
    share = 2 * radius_mm / (SIZE * spacing_of(canvas.level))
    assert LEAST_FILL - 1 / SIZE <= share <= MOST_FILL  # what is found is whole voxels
    assert dice(shown(answers, canvas), truth) > 0.75  # in voxels of 8 mm, at most


@pytest.mark.parametrize("scale", [2.0**-10, 1.0, 2.0**5])
def test_a_cell_is_found_as_a_liver_is(scale: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backend.inference.zooming.FIRST_MM", 240.0 * scale)
    volume, truth = bright_ball(25)
    scaled = Volume(volume.array, np.diag([2.0 * scale] * 3 + [1.0]))
    click = (Click(middle(volume)),)
    assert dice(painted(solver(Lit(), scaled, extend=True), click), truth) > 0.9


@pytest.mark.parametrize("spacing", [1.0, 0.01])
def test_the_window_fits_a_box_however_small_its_voxels(spacing: float) -> None:
    volume, truth = bright_ball(25)
    scaled = Volume(volume.array, np.diag([spacing] * 3 + [1.0]))
    low, high = (tuple(end(np.argwhere(truth), axis=0).astype(float).tolist()) for end in (np.min, np.max))
    answers: Any = solver(Lit(), scaled)
    view = answers._first_view(Box(low, high))
    width = answers._views.size * spacing_of(view.level) / spacing
    assert 0.4 < (high[0] - low[0] + 1) / width < 0.8


@pytest.mark.parametrize("orientation", ORIENTATIONS[::7], ids=str)
def test_mask_and_clicks_land_where_they_should(orientation: Any) -> None:
    volume, truth = bright_ball(14, (64, 72, 60), tilted_affine(orientation, (1.2, 1.0, 1.4)))
    model = Lit()
    inner = ndimage.binary_erosion(truth, iterations=4)
    point = tuple(np.argwhere(inner)[5].astype(float).tolist())
    answers = solver(model, volume, extend=True)
    assert dice(painted(answers, (Click(point),)), truth) > 0.85
    for call in model.calls:
        assert call.embedding[tuple(np.rint(call.points[0]).astype(int))] > 0.5


@wide
def test_an_object_that_leaves_the_window_makes_it_wider_and_is_looked_at_again() -> None:
    volume, truth = bright_ball(100, (150, 150, 150))
    model = Lit()
    answers = solver(model, volume, extend=True)
    point = (75.0, 75.0, 30.0)
    mask = painted(answers, (Click(point),))
    assert len(model.calls) > 1
    assert dice(mask, truth) > 0.85  # in voxels of 12 mm


class Full(Lit):
    """What is at least as bright as the mean: all of a window without contrast."""

    def answer(self, call: Call) -> Floats:
        return np.where(call.embedding >= call.embedding.mean() - 1e-3, 4, -4).astype(np.float32)


@pytest.mark.filterwarnings("ignore:The voxels around the click all have the value")
def test_an_answer_that_the_window_cuts_off_gives_way_to_a_whole_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Though it is the surer one: there is nothing but the object in its window."""
    monkeypatch.setattr("backend.inference.zooming.FIRST_MM", 48.0)
    _, truth = bright_ball(60, (120, 120, 120))
    model = Full()
    mask = painted(solver(model, Volume(truth.astype(np.float32), np.diag([2.0, 2, 2, 1])), extend=True), (MIDDLE,))
    assert (model.calls[0].logits > 0).all()
    assert dice(mask, truth) > 0.85


class Shortsighted(Lit):
    """Misses what fills less than a hundredth of the window."""

    def answer(self, call: Call) -> Floats:
        logits = super().answer(call)
        return logits if (logits > 0).mean() > 0.01 else np.full_like(logits, -4)


@wide
def test_what_is_not_found_is_looked_for_in_finer_windows() -> None:
    volume, truth = bright_ball(8)
    model = Shortsighted()
    mask = painted(solver(model, volume, extend=True), (Click(middle(volume)),))
    assert not (model.calls[0].logits > 0).any()
    assert dice(mask, truth) > 0.75


@pytest.mark.parametrize(
    ("shape", "spacing", "side_mm"),
    [
        ((400, 400, 300), 1.0, 96),
        ((20, 20, 20), 1.0, 24),  # and up to the next level
        ((200, 200, 2), 1.0, 48),  # (200 * 200 * 2)^(1/3) = 43 mm
        ((64, 64, 1), 0.5, 72**0.5),  # at least 8 mm
    ],
)
def test_the_first_window_is_as_wide_as_the_volume_and_at_most_96_mm(
    shape: tuple[int, int, int], spacing: float, side_mm: float
) -> None:
    model = Zoomed()
    volume = Volume(noise(shape).array, np.diag([spacing, spacing, spacing, 1.0]))
    answers = solver(model, volume, extend=False)
    canvas = answers.final((Click(middle(volume)),))
    assert SIZE * spacing_of(canvas.level) == pytest.approx(side_mm)
    assert painted(answers, (Click(middle(volume)),))[tuple(n // 2 for n in shape)]


def test_the_same_voxel_in_and_out_is_answered_all_the_same() -> None:
    volume, _ = bright_ball(20)
    answers = solver(Lit(), volume, extend=True)
    assert answers.final((Click(middle(volume)), Click(middle(volume), positive=False))).windows


def test_only_so_many_windows_are_tried() -> None:
    model = Zoomed()
    model.radius = 1.5  # a small object in every window
    solver(model, noise((300, 300, 300)), extend=True).final((Click((150.0, 150, 150)),))
    assert 1 < len(model.calls) <= LOOKS


def test_without_extend_there_is_one_window() -> None:
    model = Lit()
    volume, _ = bright_ball(6)
    solver(model, volume, extend=False).final((Click(middle(volume)), Click((40.0, 40, 40), positive=False)))
    assert model.embedded == 1
    assert len(model.calls) == 2


def test_all_clicks_are_given_each_time_with_the_logits_before() -> None:
    model = Zoomed()
    prompts = (Click((30.0, 30, 30)), Click((33.0, 30, 30), positive=False), Click((30.0, 34, 30)))
    solver(model, noise((60, 60, 60)), extend=False).final(prompts)
    assert [call.labels for call in model.calls] == [[1], [1, 0], [1, 0, 1]]
    assert not model.calls[0].previous.any()
    for before, after in zip(model.calls, model.calls[1:], strict=False):
        np.testing.assert_array_equal(np.abs(after.previous), np.abs(before.logits))  # strays are taken off
    steps = model.calls[2].points - model.calls[2].points[0]
    np.testing.assert_allclose(steps / steps[1, 0], [[0, 0, 0], [1, 0, 0], [0, 4 / 3, 0]], atol=1e-5)


def test_only_pieces_with_a_click_are_kept() -> None:
    """The model finds two; the second comes with a click of its own."""
    volume, truth = bright_ball(14)
    both = truth | np.roll(truth, 30, axis=0)
    other = np.argwhere(both & ~truth).mean(0)
    two = Volume(np.where(both, np.float32(1000), np.asarray(volume.array)), volume.affine)
    answers = solver(Lit(), two, extend=False)
    first, second = Click(middle(two)), Click(tuple(other.tolist()))
    alone = painted(answers, (first,))
    assert alone[truth].mean() > 0.9
    assert not alone[both & ~truth].any()
    assert painted(answers, (first, second))[both].mean() > 0.9


def test_a_positive_click_outside_moves_the_window_and_takes_the_object_along() -> None:
    model = Zoomed()
    answers = solver(model, noise((200, 60, 60)), extend=False)
    first, far = Click((20.0, 30, 30)), Click((180.0, 30, 30))
    mask = painted(answers, (first, far))
    assert model.embedded == 2
    assert model.calls[1].labels == [1, 1]
    assert model.calls[1].previous.max() > 0
    assert mask[20, 30, 30]
    assert mask[180, 30, 30]


def test_a_negative_click_outside_changes_nothing() -> None:
    model = Zoomed()
    answers = solver(model, noise((200, 60, 60)), extend=False)
    first = Click((20.0, 30, 30))
    before = painted(answers, (first,))
    np.testing.assert_array_equal(painted(answers, (first, Click((190.0, 30, 30), positive=False))), before)
    assert model.calls[-1].labels == [1]


class Stubborn(Zoomed):
    """Balls around positive clicks, whatever negative clicks say."""

    def answer(self, call: Call) -> Floats:
        positive = [index for index, label in enumerate(call.labels) if label == 1]
        return super().answer(Call(call.embedding, call.points[positive], [1] * len(positive), 0 * call.previous))


def test_negative_clicks_bring_it_closer_until_they_are_heeded() -> None:
    answers = solver(Stubborn(), noise((60, 60, 60)), extend=True)
    first = Click((30.0, 30, 30))
    others = tuple(Click(place, positive=False) for place in ((37.0, 30, 30), (30.0, 37, 30), (30.0, 30, 37)))
    before, after = (next(answers.solve(prompts)) for prompts in ((first,), (first, *others)))
    assert after.level < before.level
    assert shown(answers, before)[37, 30, 30]
    assert not shown(answers, after)[37, 30, 30]


def test_a_box_is_a_click_at_its_centre_and_a_size() -> None:
    volume, truth = bright_ball(10)
    model = Lit()
    answers = solver(model, volume, extend=False)
    low, high = np.argwhere(truth).min(0).tolist(), np.argwhere(truth).max(0).tolist()
    assert dice(painted(answers, (Box(tuple(low), tuple(high)),)), truth) > 0.85
    (call,) = model.calls
    assert call.labels == [1]
    np.testing.assert_allclose(call.points[0], (SIZE - 1) / 2, atol=0.51)


def test_an_initial_mask_comes_back_and_clicks_start_from_it() -> None:
    volume, truth = bright_ball(20)
    model = Lit()
    answers = solver(model, volume, extend=False)
    np.testing.assert_array_equal(painted(answers, (InitialMask(truth),)), truth)
    assert dice(seen_by_the_network(answers, InitialMask(truth)), truth) > 0.95
    assert not model.calls
    answers.final((InitialMask(truth), Click(middle(volume))))
    assert model.calls[0].labels == [1]
    assert model.calls[0].previous.max() == MASK_LOGIT


def test_all_pieces_of_an_initial_mask_stay_when_a_click_follows() -> None:
    volume, truth = bright_ball(10)
    two = truth | np.roll(truth, 14, axis=0)
    bright = Volume(np.where(two, np.float32(1000), np.asarray(volume.array)), volume.affine)
    answers = solver(Lit(), bright)
    corner = Click((44.0, 55, 34), positive=False)
    for click in (corner, Click(middle(volume))):
        assert dice(painted(answers, (InitialMask(two), click)), two) > 0.85


class Forgetful(Lit):
    """Finds nothing without a positive click, and only what is bright and near one with it."""

    def answer(self, call: Call) -> Floats:
        near = np.zeros((SIZE,) * 3, dtype=bool)
        for point in call.points[np.array(call.labels) == 1]:
            near |= np.linalg.norm(np.moveaxis(np.indices(near.shape), 0, -1) - point, axis=-1) < 5
        return np.where(near & (call.embedding > 1), 4, -4).astype(np.float32)


def test_a_negative_click_on_an_initial_mask_takes_away_what_is_around_it_and_no_more() -> None:
    """Networks learn from episodes that begin with a positive click: with a negative one alone they find nothing."""
    volume, truth = bright_ball(24)
    bump = np.linalg.norm(np.moveaxis(np.indices(truth.shape), 0, -1) - np.array([44, 55, 34]), axis=-1) <= 4
    given = truth | bump
    found = painted(solver(Forgetful(), volume), (InitialMask(given), Click((44.0, 55, 34), positive=False)))
    assert dice(found, truth) > 0.9
    assert not found[44, 55, 34]


def test_a_positive_click_beside_an_initial_mask_adds_what_is_around_it() -> None:
    volume, truth = bright_ball(24)
    given = truth.copy()
    given[:, :36] = False
    found = painted(solver(Lit(), volume), (InitialMask(given), Click((44.0, 32, 34))))
    assert dice(found, truth) > dice(given, truth) + 0.1
    assert (found & given).sum() > 0.9 * given.sum()


class Blind(Lit):
    """Finds nothing."""

    def answer(self, call: Call) -> Floats:
        return np.full_like(call.embedding, -4)


@pytest.mark.parametrize(
    ("model", "click"),
    [(Lit(), Click((21.0, 21.0, 171.0))), (Blind(), Click((21.0, 21.0, 20.0), positive=False))],
    ids=["added", "taken away"],
)
def test_a_click_on_a_thin_mask_changes_what_is_near_it(model: Lit, click: Click) -> None:
    """A vessel beside an organ as bright; in a window that holds all of it, no voxel is half vessel."""
    vessel = np.zeros((60, 60, 200), dtype=bool)
    vessel[20:23, 20:23, 10:190] = True
    organ = np.zeros_like(vessel)
    organ[23:50, 10:50, 60:150] = True
    volume = Volume(np.where(vessel | organ, np.float32(1000), np.float32(100)), np.eye(4))
    given = vessel.copy()
    given[..., 170:] = False
    found = painted(solver(model, volume), (InitialMask(given), click))
    changed = found != given
    assert found[tuple(map(int, click.point))] == click.positive
    assert 5 < changed.sum() < 500
    assert not changed[..., 40:160].any()


def test_a_mask_that_was_clicked_away_is_begun_anew() -> None:
    volume, truth = bright_ball(20)
    given = np.zeros_like(truth)
    given[4:6, 4:6, 4:6] = True
    away, anew = Click((4.5, 4.5, 4.5), positive=False), Click(middle(volume))
    answers = solver(Lit(), volume)
    assert not painted(answers, (InitialMask(given), away)).any()
    assert dice(painted(answers, (InitialMask(given), away, anew)), truth) > 0.9


def test_a_box_after_an_initial_mask_changes_nothing_nor_does_it_lose_the_mask() -> None:
    volume, truth = bright_ball(24)
    given = truth.copy()
    given[:, :36] = False
    box = Box((20.0, 20, 15), (70, 60, 55))
    answers = solver(Lit(), volume)
    np.testing.assert_array_equal(painted(answers, (InitialMask(given), box)), given)
    click = Click((44.0, 32, 34))
    expected = painted(solver(Lit(), volume), (InitialMask(given), click))
    np.testing.assert_array_equal(painted(answers, (InitialMask(given), box, click)), expected)


@pytest.mark.parametrize("orientation", ORIENTATIONS[::11], ids=str)
@pytest.mark.parametrize("positive", [False, True])
def test_away_from_the_click_an_initial_mask_stays_voxel_for_voxel(orientation: Any, positive: bool) -> None:
    """Also what its window, in voxels of 6 mm, cannot show: rods of one voxel."""
    volume, truth = bright_ball(30, (90, 84, 70), tilted_affine(orientation, (2.0, 2.0, 2.0)))
    rods = np.zeros_like(truth)
    rods[::6, ::6] = True
    at = np.array([44, 41, 30] if positive else [44, 62, 34])  # in the ball; beside it, where it is dark
    away = np.linalg.norm(np.moveaxis(np.indices(truth.shape), 0, -1) - at, axis=-1)
    given = (truth & (away > 5)) | rods if positive else truth | rods | (away <= 5)
    found = painted(solver(Forgetful(), volume), (InitialMask(given), Click(tuple(at.tolist()), positive=positive)))
    assert found[tuple(at)] == positive
    assert (found != given).sum() > 100
    np.testing.assert_array_equal(found[away > 30], given[away > 30])
    if positive:
        assert (found >= given).all()
    else:
        assert (found <= given).all()


def test_looking_ahead_saves_the_first_clicks_embedding() -> None:
    volume, _ = bright_ball(10)
    model = Lit()
    answers = solver(model, volume, extend=False)
    answers.prepare(Click(middle(volume)))
    answers.final((Click(middle(volume)),))
    assert model.embedded == 1


def test_logits_move_with_the_window() -> None:
    """What one window found lies in the other window at the same place, and beyond it nothing is decided."""
    volume, truth = bright_ball(20)
    answers: Any = solver(Lit(), volume, extend=False)
    canvas = answers.final((InitialMask(truth),))
    views = answers._views
    other = views.around((52.0, 40, 34), 100.0)
    seen: npt.NDArray[np.float32] = views.seen(canvas, other)
    at = views.points(other, np.argwhere(seen > MASK_LOGIT / 2).astype(float))
    assert truth[tuple(np.rint(at).astype(int).T)].all()
    assert (seen == 0).any()
