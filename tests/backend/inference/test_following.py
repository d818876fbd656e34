from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from fakes import (
    ORIENTATIONS,
    Ball,
    Bright,
    Call,
    Everything,
    FakeModel,
    Floats,
    dice,
    noise,
    painted,
    seen_by_the_network,
    solver,
    tilted_affine,
)

from backend.errors import ErrorCode, SamMed3DError
from backend.geometry import to_world
from backend.inference import following
from backend.inference import solver as solver_module
from backend.inference.prompts import Box, Click, InitialMask
from backend.volume import Volume

MIDDLE = (40.0, 40.0, 40.0)
FIRST, SECOND, THIRD = Click(MIDDLE), Click((46, 40, 40)), Click((40, 47, 40), positive=False)
CUBE = (80, 80, 80)


# Where the mask lands


@pytest.mark.parametrize(("size", "cells"), [(64, 32), (64, 16)])
@pytest.mark.parametrize("orientation", ORIENTATIONS, ids=str)
def test_mask_lands_on_the_click(orientation: Any, size: int, cells: int) -> None:
    volume = noise((58, 36, 47), tilted_affine(orientation, (1.1, 1.8, 1.4)))
    click = np.random.default_rng(cells).integers((26, 15, 20), (32, 21, 27))
    answers = solver(Ball(size, cells), volume)
    mask = painted(answers, [Click(tuple(click.tolist()))])
    assert mask[tuple(click)]
    centroid = np.argwhere(mask).mean(axis=0)
    grid = answers.predictor.grid
    off_click = grid.from_volume(centroid) - grid.from_volume(click)
    assert np.abs(off_click).max() < 1.2  # to the grid voxel that stands for the click, and rounding
    off_voxel = to_world(volume, centroid) - to_world(volume, grid.to_volume(grid.voxel_of(click)))
    assert np.abs(off_voxel).max() < 0.25  # mm


@pytest.mark.parametrize("spacing", [(0.8, 0.8, 5.0), (0.6, 5.0, 0.6)])
def test_thick_slices(spacing: tuple[float, float, float]) -> None:
    shape = tuple(round(70 / s) for s in spacing)
    click = tuple(float(n // 2) for n in shape)
    mask = painted(solver(Ball(64, 32), noise(shape, np.diag([*spacing, 1]))), [Click(click)])
    assert mask[tuple(int(c) for c in click)]
    millilitres = np.count_nonzero(mask) * np.prod(spacing) / 1000
    assert millilitres == pytest.approx(4 / 3 * np.pi * 0.9**3, rel=0.2)


@pytest.mark.parametrize("thin", range(3))
@pytest.mark.parametrize("thickness", [0.5, 1.5, 8.0])
def test_one_voxel_thick_volume(thin: int, thickness: float) -> None:
    shape, spacing = [40, 40, 40], [1.5, 1.5, 1.5]
    shape[thin], spacing[thin] = 1, thickness
    click = tuple(float(n // 2) for n in shape)
    mask = painted(solver(Ball(64, 32), noise(tuple(shape), np.diag([*spacing, 1]))), [Click(click)])
    assert mask[tuple(int(c) for c in click)]
    assert np.count_nonzero(mask) == pytest.approx(np.pi * 36, rel=0.25)


@pytest.mark.parametrize("corner", [(0, 0, 0), (79, 0, 79), (79, 79, 79)])
def test_click_into_the_corner(corner: tuple[int, int, int]) -> None:
    assert painted(solver(Ball(), noise(CUBE)), [Click(corner)])[corner]


# One prompt at a time


def test_prompts_are_replayed_one_at_a_time_with_the_logits_before() -> None:
    model = Ball()
    solver(model, noise(CUBE)).final((FIRST, SECOND, THIRD))
    assert [call.labels for call in model.calls] == [[1], [1], [0]]
    np.testing.assert_array_equal([call.points[0] for call in model.calls], [[16] * 3, [22, 16, 16], [16, 23, 16]])
    assert not model.calls[0].previous.any()
    for before, after in zip(model.calls, model.calls[1:], strict=False):
        np.testing.assert_array_equal(after.previous, before.logits)
    assert model.embedded == 1


def test_what_was_solved_is_remembered() -> None:
    model = Ball()
    answers = solver(model, noise(CUBE))
    all_three = answers.final((FIRST, SECOND, THIRD))
    model.calls.clear()
    assert answers.final((FIRST, SECOND, THIRD)) is all_three
    answers.final((FIRST, SECOND))  # an undo
    answers.final((FIRST,))
    assert not model.calls
    assert not answers.final(()).windows


def test_only_so_much_is_remembered_and_the_rest_is_replayed_to_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backend.inference.solver.REMEMBERED_BYTES", 2 * 4 * 16**3)
    model = Ball()
    answers = solver(model, noise(CUBE))
    before = answers.final((FIRST, SECOND)).windows[0].logits
    answers.final((FIRST, SECOND, THIRD))
    answers.final((FIRST, SECOND))
    assert len(model.calls) == 3  # the two newest
    answers.final((FIRST,))
    assert len(model.calls) == 4
    np.testing.assert_array_equal(answers.final((FIRST, SECOND)).windows[0].logits, before)


def test_removing_a_prompt_replays_only_what_came_after_it() -> None:
    model = Ball()
    answers = solver(model, noise(CUBE))
    answers.final((FIRST, SECOND, THIRD))
    first = model.calls[0]
    model.calls.clear()
    removed = answers.final((FIRST, THIRD))
    (call,) = model.calls
    assert call.labels == [0]
    np.testing.assert_array_equal(call.previous, first.logits)
    (window,) = solver(Ball(), noise(CUBE)).final((FIRST, THIRD)).windows
    np.testing.assert_array_equal(removed.windows[0].logits, window.logits)


def test_prepare_embeds_what_the_first_prompt_needs() -> None:
    model = Ball()
    answers = solver(model, noise(CUBE))
    answers.prepare(FIRST)
    assert (model.embedded, len(model.calls)) == (1, 0)
    answers.final((FIRST, SECOND))
    assert model.embedded == 1


def test_bad_prompts_are_refused_before_the_model_is_asked() -> None:
    model = Ball()
    answers = solver(model, noise(CUBE))
    for prompts, code in (
        ((THIRD,), ErrorCode.PROMPT_NEEDS_POSITIVE),
        ((FIRST, Click((80, 0, 0))), ErrorCode.PROMPT_INVALID),
    ):
        with pytest.raises(SamMed3DError) as caught:
            answers.final(prompts)
        assert caught.value.code == code
    with pytest.raises(SamMed3DError):
        answers.prepare(Click((0, 0, np.nan)))
    assert not model.calls
    assert not model.embedded


# Boxes and masks


def test_box_is_a_click_at_its_centre_where_boxes_are_not_known() -> None:
    model = Ball()
    solver(model, noise(CUBE)).final((Box((30, 34, 38), (50, 46, 42)),))
    (call,) = model.calls
    assert call.labels == [1]
    np.testing.assert_array_equal(call.points, [[16, 16, 16]])


def test_box_is_two_sorted_corners_inside_the_window_where_boxes_are_known() -> None:
    model = Ball(supports_boxes=True)
    solver(model, noise(CUBE)).final((Box((50, 34, 0), (30, 46, 79)),))
    (call,) = model.calls
    assert call.labels == [2, 3]
    np.testing.assert_array_equal(call.points, [[6, 10, 0], [26, 22, 31]])


@pytest.mark.parametrize("radius", [12, 25])  # one window, several windows
@pytest.mark.parametrize("orientation", ORIENTATIONS[::7], ids=str)
def test_initial_mask_comes_back(orientation: Any, radius: float) -> None:
    volume = noise((64, 72, 60), tilted_affine(orientation, (1.2, 1.0, 1.4)))
    model = Ball(64, 32)
    answers = solver(model, volume)
    in_grid = answers.predictor.grid.from_volume(np.moveaxis(np.indices(volume.shape), 0, -1))
    mask = np.linalg.norm(in_grid - in_grid[32, 36, 30], axis=-1) < radius
    np.testing.assert_array_equal(painted(answers, [InitialMask(mask)]), mask)
    assert dice(seen_by_the_network(answers, InitialMask(mask)), mask) > 0.9
    assert not model.embedded
    assert not model.calls


@pytest.mark.parametrize("radius", [3.5, 4.5, 8])
def test_a_small_initial_mask_is_not_lost_between_the_cells(radius: float) -> None:
    """Cells are 6 mm wide; none is half full of a ball of 5 mm."""
    volume = noise((60, 60, 60))
    mask = np.linalg.norm(np.moveaxis(np.indices(volume.shape), 0, -1) - (29.3, 30.1, 31.2), axis=-1) < radius / 1.5
    found = seen_by_the_network(solver(Ball(128, 32), volume), InitialMask(mask))
    assert 0.3 < found.sum() / mask.sum() < 2.5
    assert dice(found, mask) > 0.25


def test_click_after_an_initial_mask_starts_from_it() -> None:
    model = Ball()
    mask = np.zeros(CUBE, dtype=bool)
    mask[36:45, 36:45, 36:45] = True
    answers = solver(model, noise(CUBE))
    answers.final((InitialMask(mask), FIRST))
    (call,) = model.calls
    assert call.previous.max() == solver_module.MASK_LOGIT
    assert call.previous.min() == -solver_module.MASK_LOGIT


def test_initial_mask_larger_than_all_windows_is_refused() -> None:
    with pytest.raises(SamMed3DError, match="limit") as caught:
        solver(Ball(), noise(CUBE)).final((InitialMask(np.ones(CUBE, dtype=bool)),))
    assert caught.value.code == ErrorCode.PROMPT_INVALID


# Beyond one window


def tube(shape: tuple[int, int, int] = (40, 44, 200)) -> tuple[Volume, npt.NDArray[np.bool_]]:
    """A bright rod along z that ends before the volume does, and what is it."""
    x, y = np.ogrid[: shape[0], : shape[1]]
    inside = np.zeros(shape, dtype=bool)
    inside[..., 20:180] = ((x - 20) ** 2 + (y - 22) ** 2 < 81)[..., None]
    values = noise(shape).array
    return Volume((np.asarray(values) + 1000 * inside).astype(np.int16), np.diag([1.5, 1.5, 1.5, 1])), inside


def test_long_object_is_followed_to_its_ends() -> None:
    volume, inside = tube()
    model = Bright(32, 16)
    answers = solver(model, volume, extend=True)
    click = Click((20, 22, 60))
    assert dice(painted(answers, [click]), inside) > 0.9
    canvas = answers.final((click,))
    starts = sorted(w.start[2] for w in canvas.windows)
    assert starts == list(range(starts[0], starts[-1] + 1, 16))  # each half a window on
    assert starts[0] <= 20
    assert starts[-1] + 32 >= 180
    assert {w.start[:2] for w in canvas.windows} == {(4, 6)}
    assert [w.prompted for w in canvas.windows] == [True, *[False] * (len(starts) - 1)]
    for call in model.calls:
        assert call.labels == [1]
        x, y, z = (call.points[0] // 2).astype(int)
        assert call.logits[x, y, z] > 0  # the prompt is on the object
    assert model.embedded == len(canvas.windows)


def test_window_that_follows_is_prompted_by_the_click_or_the_surest_cell() -> None:
    model = Bright(32, 16)
    canvas = solver(model, tube()[0], extend=True).final((Click((20, 22, 60)),))
    for window, call in zip(canvas.windows, model.calls, strict=True):
        if window.start[2] <= 60 < window.start[2] + 32:
            np.testing.assert_array_equal(call.points[0] + window.start, (20, 22, 60))
        else:
            x, y, z = (call.points[0] // 2).astype(int)
            assert (call.points[0] % 2 == 1).all()  # the middle of a cell
            assert call.previous[x, y, z] == call.previous.max() > 0


def test_without_extension_there_is_one_window() -> None:
    volume, _ = tube()
    assert len(solver(Bright(), volume).final((Click((20, 22, 60)),)).windows) == 1


def test_object_inside_one_window_is_not_extended() -> None:
    assert len(solver(Ball(), noise(CUBE), extend=True).final((FIRST,)).windows) == 1


def test_endless_object_is_bounded() -> None:
    model = Everything()
    canvas = solver(model, noise((150, 150, 150)), extend=True).final((Click((75, 75, 75)),))
    assert len(canvas.windows) == len(model.calls) == following.MAX_WINDOWS


def test_extension_stays_in_the_volume() -> None:
    answers = solver(Everything(), noise((40, 40, 40)), extend=True)
    canvas = answers.final((Click((20, 20, 20)),))
    assert len(canvas.windows) <= 27
    for window in canvas.windows:
        assert all(-16 <= s < 40 for s in window.start)
    assert painted(answers, [Click((20, 20, 20))]).all()


def test_correction_in_an_extended_object_follows_it_anew() -> None:
    volume, inside = tube()
    model = Bright()
    answers = solver(model, volume, extend=True)
    click, correction = Click((20, 22, 60)), Click((20, 30, 120))
    before = answers.final((click,))
    embedded = model.embedded
    after = answers.final((click, correction))
    assert {w.start for w in after.windows} == {w.start for w in before.windows}
    assert model.embedded == embedded
    for window in after.windows:
        sees = all(s <= v < s + 32 for s, v in zip(window.start, (20, 30, 120), strict=True))
        assert window.prompted == (sees or window.start == (4, 6, 44))
    assert dice(painted(answers, [click, correction]), inside) > 0.9


class Leak(FakeModel):
    """A rod that leaks towards +z until a negative click stops it inside the window."""

    def answer(self, call: Call) -> Floats:
        x, y, z = np.moveaxis(self.cell_centres(), -1, 0)
        rod = (abs(x - 16) < 5) & (abs(y - 16) < 5) & (z > 8)
        stopped = call.labels == [0]
        return np.where(rod & (z < 24) if stopped else rod, np.float32(1), np.float32(-1))


def test_correction_takes_back_where_the_object_had_leaked_to() -> None:
    answers = solver(Leak(), noise((80, 80, 200)), extend=True)
    assert len(answers.final((FIRST,)).windows) > 2
    stop = Click((40, 40, 30), positive=False)  # seen by the first window only
    assert len(answers.final((FIRST, stop)).windows) == 1


def test_click_outside_all_windows_opens_one_aligned_with_them() -> None:
    model = Ball()
    answers = solver(model, noise((160, 80, 80)))
    far = Click((121, 41, 40))
    canvas = answers.final((FIRST, far))
    one, two = canvas.windows
    assert all((b - a) % canvas.stride == 0 for a, b in zip(one.start, two.start, strict=True))
    assert not model.calls[1].previous.any()
    mask = painted(answers, [FIRST, far])
    assert mask[40, 40, 40]
    assert mask[121, 41, 40]
    assert not mask[80, 40, 40]


def test_negative_click_outside_all_windows_changes_nothing() -> None:
    model = Ball()
    answers = solver(model, noise((160, 80, 80)))
    before = painted(answers, [FIRST])
    after = painted(answers, [FIRST, Click((120, 40, 40), positive=False)])
    np.testing.assert_array_equal(before, after)
    assert len(model.calls) == 1


def test_after_stopping_early_the_same_goes_on_and_a_correction_comes_first() -> None:
    volume, _ = tube()
    click, correction = Click((20, 22, 60)), Click((20, 30, 60))
    whole = solver(Bright(), volume, extend=True).final((click,))
    answers = solver(model := Bright(), volume, extend=True)
    steps = answers.solve((click,))
    next(steps)
    assert len(next(steps).windows) == 2
    del steps
    embedded = model.embedded
    first = next(answers.solve((click, correction)))
    assert model.embedded == embedded  # no window is explored before the correction is answered
    assert len(first.windows) == 2
    assert {w.start for w in answers.final((click,)).windows} == {w.start for w in whole.windows}


def test_an_initial_mask_is_taken_as_it_is() -> None:
    model = Everything()
    mask = np.zeros((80, 80, 80), dtype=bool)
    mask[10:70, 10:70, 10:70] = True
    solver(model, noise((80, 80, 80)), extend=True).final((InitialMask(mask),))
    assert not model.calls


def test_progress_counts_the_windows() -> None:
    counts: list[int] = []
    canvas = solver(Bright(), tube()[0], extend=True).final((Click((20, 22, 60)),), counts.append)
    assert counts == [*range(1, len(canvas.windows) + 1)]


def test_growth_is_shown_before_each_new_window() -> None:
    volume, _ = tube()
    counts = [len(canvas.windows) for canvas in solver(Bright(), volume, extend=True).solve((Click((20, 22, 60)),))]
    assert counts == [*range(1, counts[-1] + 1)]
