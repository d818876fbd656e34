import itertools
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from backend.errors import ErrorCode, SamMed3DError
from backend.geometry import check_inside
from backend.inference.prompts import Box, Click, InitialMask, check_prompt
from backend.volume import Volume, check_array, checked_affine

VOXELS = np.zeros((4, 5, 6), dtype=np.int16)
SPACING = np.diag([0.5, 2, 3, 1.0])


def test_volume_keeps_shape_spacing_and_a_read_only_affine() -> None:
    affine = SPACING.copy()
    affine[:3, :3] = affine[:3, :3] @ np.array([[0, -1, 0], [1, 0, 0], [0, 0, 1]])
    volume = Volume(VOXELS, affine)
    assert volume.shape == (4, 5, 6)
    assert volume.spacing == pytest.approx((2, 0.5, 3))
    affine[0, 0] = np.nan
    assert np.isfinite(volume.affine).all()
    assert not volume.affine.flags.writeable


def with_entry(row: int, column: int, value: float) -> np.ndarray:
    affine = SPACING.copy()
    affine[row, column] = value
    return affine


@pytest.mark.parametrize(
    "affine",
    [
        with_entry(0, 3, np.nan),
        with_entry(1, 1, np.inf),
        with_entry(3, 0, 1),  # a projection
        with_entry(3, 3, 2),
        np.eye(3),
        None,
        np.zeros((4, 4)),
        with_entry(0, 0, 0),
        with_entry(0, 0, 5e-5),
        with_entry(2, 2, 2e3),
        [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]],  # two axes in one direction
        [[1, 0, 1, 0], [0, 1, 1, 0], [0, 0, 1e-4, 0], [0, 0, 0, 1]],  # nearly in one plane
    ],
)
def test_affine_that_places_no_voxels_is_refused(affine: object) -> None:
    with pytest.raises(SamMed3DError) as caught:
        Volume(VOXELS, affine)
    assert caught.value.code == ErrorCode.VOLUME_GEOMETRY


@pytest.mark.parametrize("size", [1e-4, 1e-3, 1, 1e3])
def test_affine_of_any_real_scanner_is_accepted(size: float) -> None:
    sheared = np.array([[1, 0.5, 0, 7], [0, 1, 0.5, -1e4], [0, 0, 0.6, 0], [0, 0, 0, 1]])
    sheared[:3, :3] *= size / np.linalg.norm(sheared[:3, :3], axis=0)
    np.testing.assert_array_equal(checked_affine(sheared), sheared)


@pytest.mark.parametrize("shape", [(), (5,), (4, 5), (4, 5, 3, 1), (0, 5, 6), (4, 5, 0)])
def test_other_than_three_filled_axes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(SamMed3DError) as caught:
        check_array(np.zeros(shape))
    assert caught.value.code == ErrorCode.VOLUME_DIMENSIONS
    assert str(shape) in caught.value.problem


@pytest.mark.parametrize("dtype", ["c8", "O", "U3", "V3", "M8[s]", [("r", "u1"), ("g", "u1"), ("b", "u1")]])
def test_other_than_real_numbers_are_refused(dtype: object) -> None:
    with pytest.raises(SamMed3DError) as caught:
        check_array(np.zeros((2, 2, 2), dtype=dtype))
    assert caught.value.code == ErrorCode.VOLUME_DTYPE


@pytest.mark.parametrize("dtype", ["?", "u1", "i2", ">i2", "u8", "f2", "f4", ">f8"])
def test_real_numbers_are_accepted(dtype: str) -> None:
    check_array(np.zeros((1, 1, 1), dtype=dtype))


volume = Volume(VOXELS, SPACING)
numbers = st.one_of(
    st.floats(-1, 7),
    st.floats(),
    st.integers(-1, 7),
    st.integers(-(10**400), 10**400),
    st.sampled_from([-0.5, 3.5, 4.5, 5.5, np.float32(3.49), np.int8(2)]),
)
oddities = st.one_of(st.none(), st.text(max_size=3), st.booleans(), st.complex_numbers(), st.binary(max_size=2))
containers = st.sampled_from([tuple, list, lambda values: np.array(values, dtype=object), lambda values: [values]])


def is_inside(point: object) -> bool:
    return (
        isinstance(point, tuple | list)
        and len(point) == 3
        and all(isinstance(x, int | float | np.number) and not isinstance(x, bool) for x in point)
        and all(-0.5 <= x < n - 0.5 for x, n in zip(point, volume.shape, strict=True))
    )


def check(prompt: Click | Box, expected: bool) -> None:
    with nullcontext() if expected else pytest.raises(SamMed3DError) as caught:
        check_prompt(volume, prompt)
    if caught:
        assert caught.value.code == ErrorCode.PROMPT_INVALID


@settings(max_examples=400, deadline=None)
@given(
    st.lists(numbers, min_size=2, max_size=2), numbers | oddities, containers, st.sampled_from([0, 1, 2, 3, 3, 3, 4])
)
def test_points_are_accepted_or_refused_and_nothing_else(
    some: list[float], odd: Any, container: Callable[[tuple[Any, ...]], Any], length: int
) -> None:
    """Up to 27 points of each three values: more than 10,000 in all."""
    assume(not isinstance(odd, bool))  # among numbers numpy takes it for one
    for values in itertools.product([*some, odd], repeat=length):
        point = container(values)
        check(Click(point), is_inside(point))
        check(Box((1, 2, 3), point), is_inside(point))
        if is_inside(point):
            np.testing.assert_array_equal(check_inside(volume, point), np.array(point, dtype=float))


@pytest.mark.parametrize(
    "mask", [np.zeros(volume.shape, dtype=bool), np.ones((4, 5, 5), dtype=bool), np.ones((4, 5), dtype=bool)]
)
def test_empty_or_misplaced_initial_mask_is_refused(mask: np.ndarray) -> None:
    with pytest.raises(SamMed3DError) as caught:
        check_prompt(volume, InitialMask(mask))
    assert caught.value.code == ErrorCode.PROMPT_INVALID
    check_prompt(volume, InitialMask(np.ones(volume.shape, dtype=bool)))
