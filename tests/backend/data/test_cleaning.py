import numpy as np
import numpy.typing as npt
import pytest
from small_sources import LOOSE, ball

from backend.data.cleaning import (
    CleaningConfig,
    Target,
    Verdict,
    clean,
    drop_small,
    keep_largest,
    split_sides,
    too_empty,
)

SHAPE = (80, 40, 40)


def target(mask: npt.NDArray[np.bool_], name: str = "liver", spacing: float = 1.0) -> Target:
    whole = Target(
        name, mask, (0, 0, 0), (mask.shape[0], mask.shape[1], mask.shape[2]), (spacing,) * 3, spacing**3 / 1e3
    )
    return whole.part(mask)


def block(*size: int) -> npt.NDArray[np.bool_]:
    mask = np.zeros(SHAPE, dtype=np.bool_)
    mask[2 : 2 + size[0], 3 : 3 + size[1], 4 : 4 + size[2]] = True
    return mask


@pytest.mark.parametrize(
    ("size", "spacing", "said"),
    [
        ((15, 15, 15), 1.0, None),
        ((15, 15, 15), 0.99999, None),  # a rounded header
        ((15, 14, 20), 1.0, "shortest side of 14.0 mm is under 15 mm"),
        ((8, 8, 8), 2.0, None),
        ((8, 8, 7), 2.0, "shortest side of 14.0 mm"),
        ((9, 10, 11), 1.0, "volume of 0.990 ml is under 1 ml"),
    ],
)
def test_small_targets_are_dropped(size: tuple[int, ...], spacing: float, said: str | None) -> None:
    verdict = drop_small(target(block(*size), spacing=spacing), CleaningConfig())
    assert (verdict is None) == (said is None)
    if verdict is not None:
        assert verdict.targets == ()
        assert said is not None
        assert said in verdict.reason
    assert drop_small(target(block(*size)), LOOSE) is None


def test_volumes_that_are_nearly_all_background_are_dropped() -> None:
    assert too_empty(0.99, CleaningConfig()) is None
    verdict = too_empty(0.9901, CleaningConfig())
    assert verdict is not None
    assert verdict.targets == ()
    assert verdict.number == 0.9901
    assert too_empty(1.0, LOOSE) is None


def test_the_five_largest_components_are_kept() -> None:
    mask = np.zeros(SHAPE, dtype=np.bool_)
    for number in range(7):
        mask[10 * number : 10 * number + number + 2, 5, 5] = True
    mask[60, 6, 6] = True  # touches the last at a corner
    verdict = keep_largest(target(mask), CleaningConfig())
    assert verdict is not None
    (kept,) = verdict.targets
    assert kept.start == (20, 5, 5)
    assert np.count_nonzero(kept.mask) == 4 + 5 + 6 + 7 + 8 + 1
    assert verdict.number == pytest.approx((2 + 3) / 1e3)
    assert keep_largest(kept, CleaningConfig()) is None
    assert keep_largest(target(mask), LOOSE.model_copy(update={"keep_components": 0})) is None


def sides(mask: npt.NDArray[np.bool_], name: str = "kidneys") -> dict[str, list[int]]:
    """Where each part begins along the first axis."""
    verdict = split_sides(target(mask, name), CleaningConfig())
    assert verdict is not None
    assert sum(np.count_nonzero(part.mask) for part in verdict.targets) == np.count_nonzero(mask)
    return {part.name: [part.start[0], part.start[0] + part.mask.shape[0]] for part in verdict.targets}


def test_pairs_are_split_by_their_components() -> None:
    left, right = ball(SHAPE, (15, 20, 20), 8), ball(SHAPE, (45, 20, 20), 9)
    assert sides(left | right) == {"kidneys_right": [36, 55], "kidneys_left": [7, 24]}
    stray = ball(SHAPE, (60, 5, 5), 1)
    assert sides(left | right | stray) == {"kidneys_right": [36, 62], "kidneys_left": [7, 24]}


def test_one_of_a_pair_goes_by_the_middle_of_the_image() -> None:
    assert sides(ball(SHAPE, (15, 20, 20), 8)) == {"kidneys_left": [7, 24]}
    assert sides(ball(SHAPE, (60, 20, 20), 8)) == {"kidneys_right": [52, 69]}
    above = ball(SHAPE, (60, 20, 8), 6) | ball(SHAPE, (62, 20, 30), 7)  # two pieces of one lung
    assert sides(above, "lung") == {"lung_right": [54, 70]}


def test_a_speck_is_no_other_side() -> None:
    assert sides(ball(SHAPE, (25, 20, 20), 8) | ball(SHAPE, (2, 3, 3), 1)) == {"kidneys_left": [1, 34]}


def test_what_lies_across_the_middle_is_left_whole() -> None:
    verdict = split_sides(target(ball(SHAPE, (40, 20, 20), 9), "lung"), CleaningConfig())
    assert verdict is not None
    assert [part.name for part in verdict.targets] == ["lung"]
    assert "left whole" in verdict.reason


@pytest.mark.parametrize("name", ["kidney_left", "Right Kidney", "liver", "kidney tumor"])
def test_what_is_no_pair_or_has_a_side_is_not_split(name: str) -> None:
    both = ball(SHAPE, (15, 20, 20), 8) | ball(SHAPE, (60, 20, 20), 8)
    assert split_sides(target(both, name), CleaningConfig()) is None


def test_the_names_of_pairs_are_configured() -> None:
    both = target(ball(SHAPE, (15, 20, 20), 8) | ball(SHAPE, (60, 20, 20), 8), "Kidney")
    assert split_sides(both, CleaningConfig(symmetric=("lung",))) is None
    assert split_sides(both, CleaningConfig(symmetric=("KIDNEYS",))) is not None


def test_each_side_must_be_large_enough() -> None:
    told: list[tuple[str, str, bool]] = []

    def record(name: str, step: str, verdict: Verdict) -> None:
        told.append((name, step, bool(verdict.targets)))

    mask = ball(SHAPE, (60, 20, 20), 8)
    mask |= ball(SHAPE, (15, 20, 20), 6)
    kept = clean(target(mask, "kidney"), CleaningConfig(), record)
    assert [part.name for part in kept] == ["kidney_right"]
    assert told == [("kidney", "sides", True), ("kidney_left", "size", False)]
