from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from fakes import dice
from torch.nn import functional

from backend.geometry import Grid, Index3, canonical_grid
from backend.inference.canvas import EMPTY_PATCH, Canvas, MaskPatch, Window
from backend.volume import Volume

Field = Callable[[npt.NDArray[Any]], npt.NDArray[np.float32]]


STRAIGHT = np.diag([1.5, 1.5, 1.5, 1])


def grid_of(shape: Index3, affine: Any = STRAIGHT) -> Grid:
    return canonical_grid(Volume(np.broadcast_to(np.int16(0), shape), affine), 1.5)


def whole(patch: MaskPatch, shape: Index3) -> npt.NDArray[np.bool_]:
    mask = np.zeros(shape, dtype=bool)
    mask[patch.slices] = patch.mask
    return mask


def smooth(seed: int, size: int = 32) -> npt.NDArray[np.float32]:
    """Random logits with some negative and some positive regions."""
    coarse = torch.randn(1, 1, 6, 6, 6, generator=torch.Generator().manual_seed(seed))
    logits: npt.NDArray[np.float32] = functional.interpolate(coarse, (size,) * 3, mode="trilinear")[0, 0].numpy()
    return logits


def cut(field: Field, start: Index3, size: int, cells: int) -> Window:
    """A window that answers what a field of grid voxels is at its cells' centres."""
    stride = size // cells
    centres = np.moveaxis(np.indices((cells,) * 3), 0, -1) * stride + (stride - 1) / 2 + start
    return Window(start, field(centres), prompted=True)


def ball(centre: tuple[float, ...], radius: float) -> Field:
    return lambda points: (radius - np.linalg.norm(points - centre, axis=-1)).astype(np.float32)


def test_one_window_is_painted_as_torch_interpolates_it() -> None:
    logits = smooth(0)
    expected = functional.interpolate(torch.from_numpy(logits)[None, None], (128,) * 3, mode="trilinear")[0, 0].numpy()
    patch = Canvas(128, 32, (Window((0, 0, 0), logits, True),)).paint(grid_of((128, 128, 128)))
    differs = whole(patch, (128, 128, 128)) != (expected > 0)
    assert not differs[np.abs(expected) > 1e-5].any()


def test_paint_undoes_flips_and_order_of_axes() -> None:
    """Axes of the volume: Posterior, Superior, Left."""
    affine = np.array([[0, 0, -1.5, 0], [-1.5, 0, 0, 0], [0, 1.5, 0, 0], [0, 0, 0, 1]])
    canvas = Canvas(32, 16, (Window((0, 0, 0), smooth(1, 16), True),))
    straight = whole(canvas.paint(grid_of((30, 28, 26))), (30, 28, 26))
    turned = whole(canvas.paint(grid_of((28, 26, 30), affine)), (28, 26, 30))
    np.testing.assert_array_equal(turned.transpose(2, 0, 1)[::-1, ::-1], straight)


@pytest.mark.parametrize("start", [(16, 0, 0), (16, -16, 16), (0, 0, 8)])
def test_overlapping_windows_merge_without_a_seam(start: Index3) -> None:
    field = ball((20.3, 15.8, 17.1), 9.4)
    windows = (cut(field, (0, 0, 0), 32, 16), cut(field, start, 32, 16))
    shape = (48, 40, 44)
    painted = whole(Canvas(32, 16, windows).paint(grid_of(shape)), shape)
    expected = field(np.moveaxis(np.indices(shape), 0, -1)) > 0
    assert dice(painted, expected) > 0.98
    again = whole(Canvas(32, 16, windows[:1]).paint(grid_of(shape)), shape)
    np.testing.assert_array_equal(painted[2:24, 2:30, 2:30], again[2:24, 2:30, 2:30])  # they agree, so nothing changes


def test_where_no_window_is_the_least_of_their_logits_is_taken() -> None:
    logits = np.full((16,) * 3, -3, dtype=np.float32)
    logits[4:12, 4:12, 4:12] = 5
    merged, _, covered = Canvas(32, 16, (Window((0, 0, 0), logits, True), Window((16, 16, 0), logits, True))).merged()
    assert not covered.all()
    np.testing.assert_allclose(merged[~covered], -3)


def test_the_window_in_whose_middle_a_cell_lies_decides() -> None:
    yes, no = (np.full((16,) * 3, value, dtype=np.float32) for value in (1, -1))
    canvas = Canvas(32, 16, (Window((0, 0, 0), yes, True), Window((16, 0, 0), no, True)))
    line = whole(canvas.paint(grid_of((48, 32, 32))), (48, 32, 32))[:, 16, 16]
    assert line[:23].all()
    assert not line[25:].any()


def test_paint_works_only_on_the_box_of_the_object() -> None:
    shape = (600, 500, 400)
    patch = Canvas(32, 16, (cut(ball((303, 211, 107), 5), (288, 196, 92), 32, 16),)).paint(grid_of(shape))
    assert max(patch.mask.shape) <= 10 + 2 * 2 + 2
    assert whole(patch, shape)[303, 211, 107]
    assert abs(np.count_nonzero(patch.mask) / (4 / 3 * np.pi * 5**3) - 1) < 0.15


def test_object_at_the_border_reaches_the_last_voxel() -> None:
    """32 voxels of 0.5 mm are 16 mm, the grid 15: what is left over belongs to the outermost grid voxel."""
    shape = (32, 32, 32)
    canvas = Canvas(16, 8, (Window((0, 0, 0), np.ones((8, 8, 8), dtype=np.float32), True),))
    assert whole(canvas.paint(grid_of(shape, np.diag([0.5, 0.5, 0.5, 1]))), shape).all()


def test_window_inside_the_volume_ends_where_it_ends() -> None:
    canvas = Canvas(16, 8, (Window((8, 8, 8), np.ones((8, 8, 8), dtype=np.float32), True),))
    patch = canvas.paint(grid_of((40, 40, 40)))
    assert patch.start == (8, 8, 8)
    assert patch.mask.shape == (16, 16, 16)
    assert patch.mask.all()


def test_nothing_to_paint() -> None:
    grid = grid_of((20, 20, 20))
    empty = np.full((8, 8, 8), -1, dtype=np.float32)
    assert Canvas(16, 8).paint(grid) is EMPTY_PATCH
    assert Canvas(16, 8, (Window((0, 0, 0), empty, True),)).paint(grid) is EMPTY_PATCH
    outside = Canvas(16, 8, (Window((100, 0, 0), -empty, True),)).paint(grid)
    assert not whole(outside, (20, 20, 20)).any()


def test_read_gives_a_window_itself_or_what_the_others_say() -> None:
    first, second = smooth(2, 8), smooth(3, 8)
    canvas = Canvas(16, 8, (Window((0, 0, 0), first, True), Window((16, 0, 0), second, True)))
    np.testing.assert_array_equal(canvas.read((0, 0, 0)), first)
    between = canvas.read((8, 0, 0))
    np.testing.assert_allclose(between[:4], first[4:], rtol=1e-6)
    np.testing.assert_allclose(between[4:], second[:4], rtol=1e-6)
    ahead = canvas.read((0, -8, 12))
    np.testing.assert_allclose(ahead[:, 4:, :2], first[:, :4, 6:], rtol=1e-6)
    assert not ahead[:, :4].any()
    assert not ahead[:, :, 2:].any()
    assert not canvas.read((0, 160, 0)).any()
    assert not Canvas(16, 8).read((0, 0, 0)).any()
    diagonal = Canvas(16, 8, (Window((0, 0, 0), first, True), Window((16, 16, 16), second, True)))
    assert not diagonal.read((16, 0, 0)).any()


def test_windows_are_replaced_and_aligned() -> None:
    one, two = (Window((1, 2, 3), np.full((8, 8, 8), v, dtype=np.float32), True) for v in (1, 2))
    follower = Window((9, 2, 3), one.logits, False)
    canvas = Canvas(16, 8).with_window(one).with_window(follower).with_window(two)
    assert canvas.windows == (follower, two)
    assert canvas.prompted_only().windows == (two,)
    aligned = np.array(canvas.align((20, 21, 22)))
    assert (np.abs(aligned - (20, 21, 22)) <= 1).all()
    assert ((aligned - (1, 2, 3)) % canvas.stride == 0).all()
    assert Canvas(16, 8).align((20, 21, 22)) == (20, 21, 22)
    assert canvas.containing((1, 2, 3)) == [two]
    assert canvas.containing((16, 17, 18)) == [follower, two]
    assert canvas.containing((17, 17, 18)) == [follower]
    assert canvas.containing((0, 2, 3)) == []


def test_touches_names_the_faces_that_enough_of_the_object_reaches() -> None:
    logits = np.full((8, 8, 8), -1, dtype=np.float32)
    logits[0, 2, 2:4] = 1
    logits[2:5, 3, 7] = 1
    window = Window((0, 0, 0), logits, True)
    canvas = Canvas(16, 8, (window,))
    assert set(canvas.touches(window, 2)) == {(-1, 0, 0), (0, 0, 1)}
    assert set(canvas.touches(window, 3)) == {(0, 0, 1)}
    assert not set(canvas.touches(window, 4))
