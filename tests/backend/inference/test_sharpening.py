"""The border of a large object, seen anew in finer windows."""

from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pytest
from fakes import Call, FakeModel, Floats, dice, painted, shown, solver
from scipy import ndimage

from backend.inference.canvas import Canvas, Window
from backend.inference.predictor import spacing_of
from backend.inference.prompts import Click, InitialMask, Prompts
from backend.inference.sharpening import (
    FINEST,
    MARGIN,
    MOST_WINDOWS,
    OVERLAP,
    _starts,
    finer_windows,
    without_islands,
)
from backend.inference.solver import Solver
from backend.inference.views import Views, view_of
from backend.volume import Volume

SIZE = 64
SHAPE = (120, 110, 100)
CLICKS = (Click((59.0, 54.0, 49.0)), Click((59.0, 54.0, 30.0)))


class Lit(FakeModel):
    """What is brighter than half of the brightest."""

    def __init__(self) -> None:
        super().__init__(SIZE, SIZE)
        self.all_clicks = self.any_spacing = True

    def answer(self, call: Call) -> Floats:
        return np.where(call.embedding > 0, 4, -4).astype(np.float32)


def bright(truth: npt.NDArray[np.bool_], flips: tuple[int, int, int] = (1, 1, 1)) -> Volume:
    """A volume of 2 mm in which an object is bright."""
    affine = np.diag([*(2.0 * sign for sign in flips), 1.0])
    return Volume(np.where(truth, np.float32(1000), np.float32(10)), affine)


def ball(radius: float) -> npt.NDArray[np.bool_]:
    away = np.moveaxis(np.indices(SHAPE), 0, -1) - (np.array(SHAPE) - 1) / 2
    inside: npt.NDArray[np.bool_] = np.linalg.norm(away, axis=-1) < radius
    return inside


def rough_and_final(answers: Solver, prompts: Prompts) -> tuple[Canvas, Canvas]:
    """The object as it is found at first, and in the end."""
    steps = list(answers.solve(prompts))
    assert steps[0].finer is None
    return steps[0], steps[-1]


@pytest.mark.parametrize("flips", [(1, 1, 1), (-1, -1, 1), (1, -1, -1)])
def test_the_border_becomes_finer(flips: tuple[int, int, int]) -> None:
    """Seen at 4 mm a ball with notches of 4 mm has lost them; seen anew, they are there."""
    truth = ball(40)
    truth[::4] = truth[1::4] = False
    truth |= ball(30)
    answers = solver(Lit(), bright(truth, flips), extend=True)
    rough, final = rough_and_final(answers, CLICKS)
    assert final.finer is not None
    assert spacing_of(final.finer.level) == pytest.approx(spacing_of(rough.level) / 2)
    before, after = (dice(shown(answers, canvas), truth) for canvas in (rough, final))
    assert after > before + 0.02
    assert after > 0.93


def test_before_its_windows_were_seen_an_object_is_as_it_was() -> None:
    """Each step has all of it, whatever part of it is fine already."""
    truth = ball(40)
    answers = solver(Lit(), bright(truth), extend=True)
    steps = list(answers.solve(CLICKS))
    assert [step.looks for step in steps] == list(range(1, len(steps) + 1))
    assert 2 < len(steps) <= 1 + MOST_WINDOWS
    for step in steps:
        assert dice(shown(answers, step), truth) > 0.9


def test_who_is_interrupted_goes_on_where_he_was() -> None:
    model = Lit()
    answers = solver(model, bright(ball(40)), extend=True)
    some = answers.solve(CLICKS)
    for _ in range(3):
        next(some)
    seen = len(model.calls)
    final = list(answers.solve(CLICKS))[-1]
    assert final.finer is not None
    assert len(model.calls) == seen + sum(w.prompted for w in final.finer.windows) - 2
    asked = len(model.calls)
    assert list(answers.solve(CLICKS))[-1].looks == final.looks
    assert len(model.calls) == asked


@pytest.mark.parametrize(
    ("prompts", "extend", "radius"),
    [
        (CLICKS, False, 40),
        ((InitialMask(ball(40)), CLICKS[0]), True, 40),  # a mask that was given is trusted
        (CLICKS, True, 20),  # is seen at 1.5 mm already
    ],
    ids=["no extend", "initial mask", "small"],
)
def test_it_stays_as_it_is(prompts: Prompts, extend: bool, radius: float) -> None:
    answers = solver(Lit(), bright(ball(radius)), extend=extend)
    final = list(answers.solve(prompts))[-1]
    assert final.finer is None
    assert final.windows


@pytest.mark.parametrize(("level", "finer"), [(4, 2), (3, 1), (2, FINEST), (1, FINEST), (0, None), (-2, None)])
def test_voxels_are_halved_and_no_finer_than_it_gains_by(level: int, finer: int | None) -> None:
    predictor = solver(Lit(), bright(ball(40))).predictor
    logits = np.full((SIZE,) * 3, -1, dtype=np.float32)
    logits[10:54, 12:52, 20:50] = 1
    canvas = finer_windows(
        Views(predictor), predictor.canvas(level).with_window(Window((-8, -8, -8), logits, prompted=True))
    )
    assert (canvas and canvas.level) == finer
    assert canvas is None or 1 <= len(canvas.windows) <= MOST_WINDOWS


def test_each_window_has_a_positive_click() -> None:
    """Without any the network finds nothing: where the person gave none, the middle of what is there is one."""
    model = Lit()
    truth = ball(40)
    answers = solver(model, bright(truth), extend=True)
    list(answers.solve(CLICKS))
    for call in model.calls[-4:]:
        assert 1 in call.labels
        at = call.points[call.labels.index(1)]
        assert call.embedding[tuple(np.rint(at).astype(int))] > 0


def test_a_click_after_it_starts_from_the_wide_window() -> None:
    answers = solver(Lit(), bright(ball(40)), extend=True)
    rough, final = rough_and_final(answers, CLICKS)
    more = (*CLICKS, Click((59.0, 54.0, 70.0)))
    again, _ = rough_and_final(answers, more)
    assert again.level == rough.level
    assert again.windows[0].start == rough.windows[0].start
    assert painted(answers, CLICKS).sum() == shown(answers, final).sum()  # undo


def test_pieces_that_were_not_there_do_not_come() -> None:
    before = np.zeros((8, 8, 8), dtype=bool)
    before[:3] = True
    logits = np.full(before.shape, -1.0, dtype=np.float32)
    logits[:4], logits[6:] = 2.0, 3.0
    kept = without_islands(logits, before)
    assert (kept[:4] == 2).all()
    assert (kept[6:] == -3).all()


def test_the_same_clicks_have_the_same_answer_at_any_pace() -> None:
    """Who clicked again before the border was seen, and who waited."""
    volume, more = bright(ball(40)), (*CLICKS, Click((59.0, 54.0, 70.0)))
    hasty, patient = (solver(Lit(), volume, extend=True) for _ in range(2))
    some = hasty.solve(CLICKS)
    for _ in range(3):
        next(some)
    patient.final(CLICKS)
    asked = [answers.final(more) for answers in (hasty, patient, solver(Lit(), volume, extend=True))]
    for answer in asked:
        np.testing.assert_array_equal(shown(patient, answer), shown(patient, asked[0]))


def test_the_next_answer_begins_from_what_was_seen_last() -> None:
    """Inside of the ball it is as sure as before, and at its border as the finer windows were."""
    model = Lit()
    answers = solver(model, bright(ball(40)), extend=True)
    rough, final = rough_and_final(answers, CLICKS)
    view = view_of(rough)
    assert view is not None
    asked = len(model.calls)
    answers.final((*CLICKS, Click((59.0, 54.0, 70.0))))
    previous, known = model.calls[asked].previous, rough.windows[0].logits
    np.testing.assert_array_equal(previous, Views(answers.predictor).seen(final, view))
    assert (previous != known)[np.abs(ndimage.gaussian_filter(known, 1)) < 2].mean() > 0.2
    assert (previous == known)[np.abs(ndimage.gaussian_filter(known, 3)) > 3.9].all()


@pytest.mark.parametrize(("extent", "count"), [(40, 1), (64, 1), (78, 2), (120, 2), (121, 3)])
@pytest.mark.parametrize("low", [-7, 100, 104])
def test_no_more_windows_than_it_takes(low: int, extent: int, count: int) -> None:
    starts = _starts(low, low + extent, SIZE)
    assert len(starts) == count
    assert starts[0] <= low + MARGIN
    assert starts[-1] + SIZE >= low + extent - MARGIN
    assert all(later - earlier <= SIZE for earlier, later in pairwise(starts))


def test_windows_overlap_wherever_they_begin() -> None:
    for low in np.arange(-8, 8, 0.5):
        for high in low + np.arange(56, 300, 0.5):
            starts = _starts(low, high, SIZE)
            assert all(later - earlier <= SIZE - OVERLAP for earlier, later in pairwise(starts)), (low, high, starts)


def test_the_next_click_finds_most_windows_known() -> None:
    model = Lit()
    answers = solver(model, bright(ball(40)), extend=True)
    answers.final(CLICKS)
    known, asked = model.embedded, len(model.calls)
    answers.final((*CLICKS, Click((59.0, 56.0, 70.0))))
    assert len(model.calls) > asked + 2
    assert model.embedded == known
